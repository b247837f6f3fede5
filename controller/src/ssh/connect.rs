//! Connects, checks the host key, authenticates.

use super::error::SshError;
use super::host_key::{self, Expectation, HostKeyPolicy, Verdict};
use super::{Destination, Identities};
use russh::client::{self, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::{Algorithm, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Disconnect, MethodKind, Preferred, cipher};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Whether the host key is the right one.
    pub host_key: HostKeyPolicy,
    /// What to log in with.
    pub identities: Identities,
    /// Bound of each step: each address, the handshake.
    pub timeout: Duration,
}

/// Bound of a login: a key's passphrase or an agent's confirmation may have to be typed.
const LOGIN: Duration = Duration::from_secs(110);
/// A silent machine is asked this often whether it is still there, and given up after
/// [`KEEPALIVE_MAX`] questions.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_MAX: usize = 6;

/// An authenticated connection.
#[derive(Clone)]
pub struct Session {
    pub(super) handle: Arc<Handle<Client>>,
    destination: Destination,
    host_key: PublicKey,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.destination)
    }
}

impl Session {
    /// Connects to `destination` as `options` say.
    ///
    /// An unknown host key is [`SshError::UnknownHostKey`]; who wants to accept it shows its
    /// fingerprint and connects again with [`HostKeyPolicy::exactly`].
    pub async fn connect(
        destination: &Destination,
        options: &ConnectOptions,
    ) -> Result<Self, SshError> {
        let expectation = options.host_key.expectation(destination)?;
        let (mut handle, host_key) =
            handshake_expecting(destination, &expectation, options.timeout).await?;
        timeout(LOGIN, authenticate(&mut handle, destination, &options.identities))
            .await
            .map_err(|_| SshError::TimedOut {
                what: format!("logging in at {destination}"),
                bound: LOGIN,
            })??;
        Ok(Session { handle: Arc::new(handle), destination: destination.clone(), host_key })
    }

    /// Where this leads.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The key that the machine proved to have.
    pub fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Says goodbye; bounded, and an error is of no interest any more.
    pub async fn disconnect(&self) {
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "");
        let _ = timeout(Duration::from_secs(2), goodbye).await;
    }

    pub(super) fn broken(&self, doing: impl Into<String>, source: russh::Error) -> SshError {
        SshError::Broken {
            host: self.destination.host.clone(),
            doing: doing.into(),
            source: Box::new(source),
        }
    }
}

/// What is found at a place, whoever it is.
#[derive(Debug)]
pub struct Look {
    /// The key that it proved to have.
    pub host_key: PublicKey,
    /// Whether it let us in.
    pub login: Result<Session, SshError>,
}

/// Connects and logs in whatever the host key is; for looking at a machine that is not trusted.
///
/// Public-key signatures are bound to the connection (RFC 4252, section 7), so that an impostor
/// gains nothing; but what is read over it must not be believed unless the key is the right one.
pub async fn look(
    destination: &Destination,
    identities: &Identities,
    bound: Duration,
) -> Result<Look, SshError> {
    let (mut handle, host_key) =
        handshake_expecting(destination, &Expectation::Anything, bound).await?;
    let login = timeout(bound, authenticate(&mut handle, destination, identities))
        .await
        .unwrap_or_else(|_| {
            Err(SshError::TimedOut { what: format!("logging in at {destination}"), bound })
        })
        .map(|()| Session {
            handle: Arc::new(handle),
            destination: destination.clone(),
            host_key: host_key.clone(),
        });
    Ok(Look { host_key, login })
}

/// The handshake; for a pinned fingerprint, which does not tell the key's type, asking for one
/// type after the other until the machine shows the pinned key.
async fn handshake_expecting(
    destination: &Destination,
    expectation: &Expectation,
    bound: Duration,
) -> Result<(Handle<Client>, PublicKey), SshError> {
    let algorithms = expectation.algorithms();
    let first = match handshake(destination, expectation, &algorithms, bound).await {
        Err(e @ SshError::NotThePinnedKey { .. }) if expectation.is_fingerprint() => e,
        other => return other,
    };
    let mut tried: Vec<String> = Vec::new();
    if let SshError::NotThePinnedKey { algorithm, .. } = &first {
        tried.push(algorithm.clone());
    }
    for algorithm in &algorithms {
        let name = algorithm.to_string();
        let again = tried
            .iter()
            .any(|t| t.parse::<Algorithm>().is_ok_and(|t| host_key::same_type(&t, algorithm)));
        if again {
            continue;
        }
        tried.push(name);
        let only: Vec<Algorithm> = algorithms
            .iter()
            .filter(|other| host_key::same_type(other, algorithm))
            .cloned()
            .collect();
        if let Ok(found) = handshake(destination, expectation, &only, bound).await {
            return Ok(found);
        }
    }
    Err(first)
}

async fn handshake(
    destination: &Destination,
    expectation: &Expectation,
    algorithms: &[Algorithm],
    bound: Duration,
) -> Result<(Handle<Client>, PublicKey), SshError> {
    let stream = dial(destination, bound).await?;
    let seen = Arc::new(Mutex::new(None));
    let client = Client {
        destination: destination.clone(),
        expectation: expectation.clone(),
        seen: Arc::clone(&seen),
    };
    let connecting = client::connect_stream(Arc::new(config(algorithms)), stream, client);
    let outcome = timeout(bound, connecting).await.map_err(|_| SshError::TimedOut {
        what: format!("the SSH handshake with {}", destination.host),
        bound,
    })?;
    let seen = seen.lock().unwrap_or_else(|e| e.into_inner()).take();
    match (outcome, seen) {
        (_, Some(Err(refused))) => Err(refused),
        (Ok(handle), Some(Ok(key))) => Ok((handle, key)),
        (Ok(_), None) => unreachable!("a handshake without a host key can't succeed"),
        (Err(source), _) => Err(SshError::Handshake {
            host: destination.host.clone(),
            port: destination.port,
            source: Box::new(source),
        }),
    }
}

/// A TCP connection to the first address that takes one.
async fn dial(destination: &Destination, bound: Duration) -> Result<TcpStream, SshError> {
    let Destination { host, port, .. } = destination;
    let resolve = |source| SshError::Resolve { host: host.clone(), source };
    let addresses: Vec<_> = timeout(bound, tokio::net::lookup_host((host.as_str(), *port)))
        .await
        .map_err(|_| SshError::TimedOut { what: format!("looking up {host}"), bound })?
        .map_err(resolve)?
        .collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(bound, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(e) = stream.set_nodelay(true) {
                    tracing::debug!("TCP_NODELAY: {e}");
                }
                return Ok(stream);
            }
            Ok(Err(e)) => last = e,
            Err(_) => {
                last = std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("{address} does not answer within {} s", bound.as_secs()),
                );
            }
        }
    }
    Err(SshError::Unreachable { host: host.clone(), port: *port, source: last })
}

fn config(algorithms: &[Algorithm]) -> client::Config {
    // AES-128-GCM is the fastest where the processor has AES instructions, which is everywhere
    // one installs to; OpenSSH's default order would take ChaCha20.
    const CIPHERS: &[cipher::Name] = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_256_CTR,
        cipher::AES_128_CTR,
    ];
    client::Config {
        nodelay: true,
        // What the agent may send before it is read: events only, but a burst of them.
        window_size: 16 << 20,
        maximum_packet_size: 65535,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVE_MAX,
        preferred: Preferred {
            key: Cow::Owned(algorithms.to_vec()),
            cipher: Cow::Borrowed(CIPHERS),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

async fn authenticate(
    handle: &mut Handle<Client>,
    destination: &Destination,
    identities: &Identities,
) -> Result<(), SshError> {
    let user = &destination.user;
    let broken = |source: russh::Error| SshError::Broken {
        host: destination.host.clone(),
        doing: format!("logging in as {user}"),
        source: Box::new(source),
    };
    let mut tried: Vec<String> = Vec::new();
    // Asks what the machine offers; a machine that lets root in without any key does so here.
    let mut offers = match handle.authenticate_none(user).await.map_err(broken)? {
        client::AuthResult::Success => return Ok(()),
        client::AuthResult::Failure { remaining_methods, .. } => remaining_methods,
    };
    let mut note = |result: client::AuthResult, name: String, tried: &mut Vec<String>| match result
    {
        client::AuthResult::Success => true,
        client::AuthResult::Failure { remaining_methods, partial_success } => {
            tried.push(match partial_success {
                true => format!("{name} (accepted, but more than a key is asked)"),
                false => name,
            });
            offers = remaining_methods;
            false
        }
    };
    for index in 0..identities.len() {
        let Some(key) = identities.load(index).await? else { continue };
        let hash = match key.algorithm() {
            Algorithm::Rsa { .. } => {
                handle.best_supported_rsa_hash().await.map_err(broken)?.flatten()
            }
            _ => None,
        };
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let result = handle.authenticate_publickey(user, key).await.map_err(broken)?;
        if note(result, identities.name(index), &mut tried) {
            return Ok(());
        }
    }
    if let Some((mut agent, keys)) = identities.agent().await {
        if let Some(binding) = handle.agent_session_binding()
            && let Err(e) = agent.bind_session(binding, false).await
        {
            tracing::debug!("the ssh-agent does not bind sessions: {e}");
        }
        for identity in keys {
            let name = format!("{} (agent)", identity.comment());
            let result = match identity {
                AgentIdentity::PublicKey { key, .. } => {
                    let hash = match key.algorithm() {
                        Algorithm::Rsa { .. } => {
                            handle.best_supported_rsa_hash().await.map_err(broken)?.flatten()
                        }
                        _ => None,
                    };
                    handle.authenticate_publickey_with(user, key, hash, &mut agent).await
                }
                AgentIdentity::Certificate { certificate, .. } => {
                    handle.authenticate_certificate_with(user, certificate, None, &mut agent).await
                }
            };
            match result {
                Ok(result) => {
                    if note(result, name, &mut tried) {
                        return Ok(());
                    }
                }
                // An agent that declines one key may sign with the next.
                Err(e) => tried.push(format!("{name}: {e}")),
            }
        }
    }
    if tried.is_empty() {
        return Err(SshError::NoIdentity);
    }
    Err(SshError::NotAuthenticated {
        user: user.clone(),
        host: destination.host.clone(),
        tried: tried.join(", "),
        offers: offers.iter().map(method_name).collect::<Vec<_>>().join(", "),
    })
}

fn method_name(method: &MethodKind) -> &'static str {
    match method {
        MethodKind::None => "none",
        MethodKind::Password => "password",
        MethodKind::PublicKey => "publickey",
        MethodKind::HostBased => "hostbased",
        MethodKind::KeyboardInteractive => "keyboard-interactive",
        _ => "another",
    }
}

/// Judges the host key; russh asks it during the handshake.
pub(super) struct Client {
    destination: Destination,
    expectation: Expectation,
    seen: Arc<Mutex<Option<Result<PublicKey, SshError>>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        presented: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let key = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            // Not offered, see `config`; judged by the key it certifies.
            PublicKeyOrCertificate::Certificate(certificate) => {
                PublicKey::new(certificate.public_key().clone(), "")
            }
        };
        let (accept, seen) = match self.expectation.judge(&self.destination, &key) {
            Verdict::Accept => (true, Ok(key)),
            Verdict::Refuse(why) => (false, Err(why)),
        };
        *self.seen.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen);
        Ok(accept)
    }
}
