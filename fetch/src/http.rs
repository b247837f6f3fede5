//! Files from a web server.
//!
//! What fails for a while is tried again, with growing pauses, a bounded number of times; a file
//! whose transfer broke off is continued where it broke off (RFC 9110, section 14). No wait is
//! without bound.

use super::resolve::{Chosen, Resolve};
use super::{FetchError, Roots, shown};
use std::error::Error as _;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Response, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::DefaultConnector;
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

/// A web server, or a directory of it. A copy uses the same connections.
#[derive(Clone)]
pub struct Http {
    base: Arc<str>,
    /// For https.
    roots: Option<Roots>,
    agent: Agent,
}

/// Without what is secret in the address.
impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http({})", shown(&self.base))
    }
}

impl Http {
    /// Files below `base`, `http(s)://HOST[/PATH]` without a slash at its end. Whom to trust is as
    /// [`Roots::find`] has it; names are resolved as this system does.
    ///
    /// # Errors
    /// A file of certificates that is named has none.
    pub fn new(base: &str) -> Result<Self, FetchError> {
        let roots = is_https(base).then(Roots::find).transpose()?;
        Ok(Self::with(base, roots, None))
    }

    /// The same, trusting `roots` if it is https, and with names that `resolve` resolves.
    pub fn with(base: &str, roots: Option<Roots>, resolve: Option<Arc<dyn Resolve>>) -> Self {
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
        let roots = roots.filter(|_| is_https(base));
        if let Some(roots) = &roots {
            // Who asked for https is not led to http.
            let tls = TlsConfig::builder().root_certs(roots.to_ureq()).build();
            config = config.https_only(true).tls_config(tls);
        }
        let agent = Agent::with_parts(config.build(), DefaultConnector::default(), Chosen(resolve));
        Http { base: base.into(), roots, agent }
    }

    /// The address that it was made with, with what may be secret in it.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whom it trusts, if it is https.
    pub fn roots(&self) -> Option<&Roots> {
        self.roots.as_ref()
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
    ///
    /// # Errors
    /// The server can't be asked, or does not give it.
    pub fn open(&self, name: &str) -> Result<Option<HttpFile>, FetchError> {
        self.open_from(name, 0)
    }

    /// A file without its first `offset` bytes; `None` if the server has none of that name.
    ///
    /// # Errors
    /// The server can't be asked, or does not give it.
    pub fn open_from(&self, name: &str, offset: u64) -> Result<Option<HttpFile>, FetchError> {
        let url = self.address(name);
        let Some(response) = self.get(&url, offset)? else { return Ok(None) };
        let body = rest(response, offset)
            .map_err(|source| FetchError::Read { url: shown(&url), source })?;
        Ok(Some(HttpFile { http: self.clone(), url, body, offset, attempt: 1 }))
    }

    /// An answer that has the file from `offset` on, or from its beginning.
    fn get(&self, url: &str, offset: u64) -> Result<Option<Response<Body>>, FetchError> {
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
                    status => FetchError::Status { url: shown(url), status },
                },
                Err(error) => {
                    FetchError::Fetch { url: shown(url), source: Box::new(discreet(error)) }
                }
            };
            if attempt == ATTEMPTS || !error.may_pass() {
                return Err(error);
            }
            let why = error.source().map_or(String::new(), |why| format!(": {why}"));
            tracing::info!("{error}{why}; trying again");
            pause(attempt);
            attempt += 1;
        }
    }
}

fn pause(attempt: u32) {
    std::thread::sleep(PAUSE * 2u32.pow(attempt - 1));
}

fn is_https(base: &str) -> bool {
    base.starts_with("https://")
}

/// The client's own words, without what may be secret in an address.
fn discreet(error: ureq::Error) -> ureq::Error {
    match error {
        ureq::Error::BadUri(url) => ureq::Error::BadUri(shown(&url)),
        ureq::Error::RequireHttpsOnly(url) => ureq::Error::RequireHttpsOnly(shown(&url)),
        other => other,
    }
}

/// What an answer has of the file from `offset` on.
fn rest(response: Response<Body>, offset: u64) -> io::Result<BodyReader<'static>> {
    let skip = match response.status().as_u16() {
        206 => {
            let range = response.headers().get(header::CONTENT_RANGE);
            let begins = format!("bytes {offset}-");
            let fits = range.and_then(|r| r.to_str().ok()).is_some_and(|r| r.starts_with(&begins));
            if !fits {
                return Err(io::Error::other("the server gave another part than asked for"));
            }
            0
        }
        // A server that knows no ranges begins anew.
        _ => offset,
    };
    let mut body = response.into_body().into_reader();
    let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink())?;
    if skipped == skip { Ok(body) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A file on its way.
pub struct HttpFile {
    http: Http,
    url: String,
    body: BodyReader<'static>,
    offset: u64,
    attempt: u32,
}

impl HttpFile {
    /// Goes on where the transfer broke off.
    fn resume(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("the file is gone from the server");
        let response = self.http.get(&self.url, self.offset).map_err(io::Error::other)?;
        self.body = rest(response.ok_or_else(gone)?, self.offset)?;
        Ok(())
    }
}

impl Read for HttpFile {
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
