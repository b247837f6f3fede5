//! From names to addresses.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Finds a host's addresses, where the system's own way (`getaddrinfo`) is none.
pub trait Resolve: Debug + Send + Sync {
    /// The addresses of a host name, best first. Blocks for at most `bound`.
    ///
    /// # Errors
    /// There are none, or nobody could be asked.
    fn addresses(&self, host: &str, bound: Duration) -> io::Result<Vec<IpAddr>>;
}

/// The most that a lookup may take that has no bound of its own.
const LONGEST: Duration = Duration::from_secs(20);

/// A program's own resolver, for the HTTP client.
#[derive(Debug)]
pub(crate) struct Chosen(pub(crate) Option<Arc<dyn Resolve>>);

impl Resolver for Chosen {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(resolve) = &self.0 else {
            return DefaultResolver::default().resolve(uri, config, timeout);
        };
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = match bare.parse::<IpAddr>() {
            Ok(literal) => vec![literal],
            Err(_) => resolve.addresses(host, (*timeout.after).min(LONGEST))?,
        };
        let mut addresses = self.empty();
        for ip in found {
            // As many as the client tries.
            if addresses.try_push(SocketAddr::new(ip, port)).is_err() {
                break;
            }
        }
        match addresses.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(addresses),
        }
    }
}
