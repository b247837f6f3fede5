//! Whom to trust.

use super::FetchError;
use std::io;
use std::path::PathBuf;
use ureq::tls::{Certificate, RootCerts};

/// The root certificates to trust.
#[derive(Debug, Clone)]
pub enum Roots {
    /// These, each DER.
    These(Vec<Vec<u8>>),
    /// Mozilla's, as of when the program was built.
    Mozillas,
}

impl Roots {
    /// The certificates that `NIX_SSL_CERT_FILE` (as Nix) or `SSL_CERT_FILE` names, else this
    /// machine's, else Mozilla's.
    ///
    /// # Errors
    /// A file is named that has none.
    pub fn find() -> Result<Self, FetchError> {
        let named = std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from);
        let loaded = match &named {
            Some(file) => rustls_native_certs::load_certs_from_paths(Some(file), None),
            None => rustls_native_certs::load_native_certs(),
        };
        if loaded.certs.is_empty() {
            let named = named.or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
            return match named {
                Some(path) => {
                    let why =
                        loaded.errors.first().map_or("no certificate".into(), |e| e.to_string());
                    Err(FetchError::Certificates { path, source: io::Error::other(why) })
                }
                None => Ok(Roots::Mozillas),
            };
        }
        Ok(Roots::These(loaded.certs.iter().map(|der| der.to_vec()).collect()))
    }

    pub(crate) fn to_ureq(&self) -> RootCerts {
        match self {
            Roots::Mozillas => RootCerts::WebPki,
            Roots::These(ders) => {
                let certificates: Vec<Certificate<'static>> =
                    ders.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
                RootCerts::new_with_certs(&certificates)
            }
        }
    }
}
