//! Files of web servers, where the machine has the better line to them than the operator.
//!
//! | module | job |
//! |---|---|
//! | [`resolve`] | from host names to addresses, without the C library |
//! | [`download`] | a compressed NAR, read by a thread of its own that can be left alone |
//!
//! The client is [`keystone_fetch`]'s, as at the operator.

pub mod download;
pub mod resolve;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keystone_fetch::{FetchError, Http, Roots, shown};
use keystone_protocol::fetch::Fetch;
use resolve::Resolver;
use std::sync::Arc;
use thiserror::Error;

/// A web server can't be used.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address is none.
    #[error("{0} is not the address of a web server")]
    Address(String),
    /// A certificate that was sent is none.
    #[error("a root certificate that was sent can't be read")]
    Certificate(#[source] base64::DecodeError),
    /// This machine's certificates can't be read.
    #[error(transparent)]
    Roots(#[from] FetchError),
}

/// The web server that was told of. Certificates that were not sent are this machine's.
///
/// # Errors
/// What was told of is none, or there are no certificates.
pub fn server(fetch: &Fetch) -> Result<Http, ServerError> {
    let base = std::str::from_utf8(fetch.base.expose()).unwrap_or_default();
    let roots = match (&fetch.roots, base.split_once("://")) {
        (_, Some(("http", _))) => None,
        (Some(sent), Some(("https", _))) => {
            let ders: Result<_, _> = sent.iter().map(|text| BASE64.decode(text)).collect();
            Some(Roots::These(ders.map_err(ServerError::Certificate)?))
        }
        (None, Some(("https", _))) => Some(Roots::find()?),
        _ => return Err(ServerError::Address(shown(base))),
    };
    Ok(Http::with(base, roots, Some(Arc::new(Resolver::default()))))
}
