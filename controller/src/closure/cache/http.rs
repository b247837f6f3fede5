//! Files from a web server.
//!
//! What fails for a while is tried again, with growing pauses, a bounded number of times; a file
//! whose transfer broke off is continued where it broke off (RFC 9110, section 14). No wait is
//! without bound.

use super::CacheError;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, BodyReader};

/// Bound of resolving a name, of connecting, and of asking.
const CONNECT: Duration = Duration::from_secs(20);
/// Bound of waiting for an answer, or for more of a file.
const SILENCE: Duration = Duration::from_secs(60);
/// How often something is tried.
const ATTEMPTS: u32 = 5;
/// The pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections kept open for the next file.
const IDLE: usize = 32;

/// A web server, or a directory of it.
#[derive(Debug)]
pub struct Http {
    base: String,
    agent: Agent,
}

impl Http {
    /// Files below `base`, `http(s)://HOST[/PATH]` without a slash at its end.
    pub fn new(base: &str) -> Result<Self, CacheError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("keystone/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE);
        if base.starts_with("https://") {
            // Who asked for https is not led to http.
            let tls = TlsConfig::builder().root_certs(roots()?).build();
            config = config.https_only(true).tls_config(tls);
        }
        Ok(Http { base: base.to_owned(), agent: config.build().into() })
    }

    /// Where a file is, to be shown.
    pub fn url(&self, name: &str) -> String {
        shown(&self.address(name))
    }

    /// Where a file is.
    fn address(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// A file; `None` if the server has none of that name.
    pub fn open(&self, name: &str) -> Result<Option<HttpFile<'_>>, CacheError> {
        let url = self.address(name);
        let Some(response) = self.get(&url, 0)? else { return Ok(None) };
        let body = response.into_body().into_reader();
        Ok(Some(HttpFile { http: self, url, body, offset: 0, attempt: 1 }))
    }

    /// An answer that has the file from `offset` on, or from its beginning.
    fn get(&self, url: &str, offset: u64) -> Result<Option<Response<Body>>, CacheError> {
        let mut attempt = 1;
        loop {
            let mut request = self.agent.get(url);
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            let error = match request.call() {
                Ok(response) => match response.status().as_u16() {
                    200 | 206 => return Ok(Some(response)),
                    404 | 410 => return Ok(None),
                    status => CacheError::Status { url: shown(url), status },
                },
                Err(error) => CacheError::Fetch { url: shown(url), source: Box::new(error) },
            };
            if attempt == ATTEMPTS || !may_pass(&error) {
                return Err(error);
            }
            tracing::info!("{}; trying again", crate::chain(&error));
            pause(attempt);
            attempt += 1;
        }
    }
}

fn pause(attempt: u32) {
    std::thread::sleep(PAUSE * 2u32.pow(attempt - 1));
}

/// An address without what may be secret in it: a name and a password before the host, and what
/// follows a question mark.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let Some((scheme, rest)) = url[..end].split_once("://") else { return url[..end].to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Whether the next try may do better.
fn may_pass(error: &CacheError) -> bool {
    match error {
        CacheError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
        CacheError::Fetch { source, .. } => matches!(
            **source,
            ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed
                | ureq::Error::HostNotFound
                | ureq::Error::Protocol(_)
        ),
        _ => false,
    }
}

/// A file on its way.
pub struct HttpFile<'a> {
    http: &'a Http,
    url: String,
    body: BodyReader<'static>,
    offset: u64,
    attempt: u32,
}

impl HttpFile<'_> {
    /// Goes on where the transfer broke off.
    fn resume(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("the file is gone from the server");
        let response = self.http.get(&self.url, self.offset).map_err(io::Error::other)?;
        let response = response.ok_or_else(gone)?;
        let skip = match response.status().as_u16() {
            206 => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let begins = format!("bytes {}-", self.offset);
                let fits =
                    range.and_then(|r| r.to_str().ok()).is_some_and(|r| r.starts_with(&begins));
                if !fits {
                    return Err(io::Error::other("the server gave another part than asked for"));
                }
                0
            }
            // A server that knows no ranges begins anew.
            _ => self.offset,
        };
        self.body = response.into_body().into_reader();
        let skipped = io::copy(&mut (&mut self.body).take(skip), &mut io::sink())?;
        if skipped == skip { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Read for HttpFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let error = match self.body.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    // Getting on starts the count anew.
                    if read > 0 {
                        self.attempt = 1;
                    }
                    return Ok(read);
                }
                Err(error) => error,
            };
            loop {
                if self.attempt == ATTEMPTS {
                    return Err(error);
                }
                tracing::info!("{} broke off at byte {}: {error}", shown(&self.url), self.offset);
                pause(self.attempt);
                self.attempt += 1;
                match self.resume() {
                    Ok(()) => break,
                    Err(again) => tracing::info!("{}: {again}", shown(&self.url)),
                }
            }
        }
    }
}

/// Whom to trust: the certificates that `NIX_SSL_CERT_FILE` (as Nix) or `SSL_CERT_FILE` names,
/// else the machine's, else Mozilla's as of when the program was built.
fn roots() -> Result<RootCerts, CacheError> {
    let named = std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from);
    let loaded = match &named {
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(file), None),
        None => rustls_native_certs::load_native_certs(),
    };
    if loaded.certs.is_empty() {
        let named = named.or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
        return match named {
            Some(path) => {
                let why = loaded.errors.first().map_or("no certificate".into(), |e| e.to_string());
                Err(CacheError::Certificates { path, source: io::Error::other(why) })
            }
            None => Ok(RootCerts::WebPki),
        };
    }
    let certificates: Vec<Certificate<'static>> =
        loaded.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        for (url, wanted) in [
            ("https://h/d/x.tar.gz?token=abc", "https://h/d/x.tar.gz"),
            ("http://me:secret@h:8080/k@2.tar", "http://h:8080/k@2.tar"),
            ("https://me@h", "https://h"),
            ("https://h/x#y", "https://h/x"),
        ] {
            assert_eq!(shown(url), wanted);
        }
    }
}
