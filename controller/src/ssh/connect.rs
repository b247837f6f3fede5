//! Connects, checks the host key, authenticates.

use super::auth::authenticate;
use super::config::AddressFamily;
use super::destination::known_hosts_name;
use super::dial::Dialer;
use super::elevate::Elevation;
use super::error::SshError;
use super::host_key::{self, Expectation, HostKeyPolicy, Verdict};
use super::line::Line;
use super::{Destination, Identities, Login};
use russh::client::{self, Handle};
use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate};
use russh::{Disconnect, Preferred, cipher};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::time::timeout;

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// What carries the connection.
    pub via: Via,
    /// The name or address that is connected to (`HostName`), if not the destination's.
    pub host_name: Option<String>,
    /// Which addresses of the name are tried.
    pub family: AddressFamily,
    /// Whether the host key is the right one.
    pub host_key: HostKeyPolicy,
    /// The keys to log in with.
    pub identities: Identities,
    /// What else to log in with.
    pub login: Login,
    /// Bound of each step: each address, the handshake.
    pub timeout: Duration,
}

/// What carries a connection.
#[derive(Debug, Clone, Default)]
pub enum Via {
    /// TCP.
    #[default]
    Direct,
    /// A channel of a connection to another machine (`ProxyJump`).
    Jump(Box<Hop>),
    /// Standard input and output of a program (`ProxyCommand`), tokens replaced.
    Command(String),
}

/// A machine on the way.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Which.
    pub destination: Destination,
    /// How to connect to it.
    pub connect: ConnectOptions,
}

impl Hop {
    /// Whether both go over the same machines.
    fn is_same_way(&self, other: &Hop) -> bool {
        let before = match (&self.connect.via, &other.connect.via) {
            (Via::Jump(ours), Via::Jump(theirs)) => ours.is_same_way(theirs),
            (Via::Direct, Via::Direct) => true,
            _ => false,
        };
        before && self.destination == other.destination
    }
}

impl ConnectOptions {
    /// By TCP, with OpenSSH's defaults.
    pub fn direct(host_key: HostKeyPolicy, identities: Identities, timeout: Duration) -> Self {
        ConnectOptions {
            via: Via::Direct,
            host_name: None,
            family: AddressFamily::Any,
            host_key,
            identities,
            login: Login::default(),
            timeout,
        }
    }

    /// The same, but never asking: what was not unlocked yet is left out.
    pub fn without_prompt(&self) -> Self {
        let via = match &self.via {
            Via::Jump(hop) => Via::Jump(Box::new(Hop {
                destination: hop.destination.clone(),
                connect: hop.connect.without_prompt(),
            })),
            other => other.clone(),
        };
        ConnectOptions {
            via,
            identities: self.identities.without_prompt(),
            login: self.login.without_prompt(),
            ..self.clone()
        }
    }

    /// Number of machines on the way.
    pub fn hops(&self) -> usize {
        match &self.via {
            Via::Jump(hop) => 1 + hop.connect.hops(),
            _ => 0,
        }
    }

    /// Expects `key` and no other of the machine that `known_hosts` would name `name`: the
    /// destination itself or one on the way to it.
    pub fn accept(&self, destination: &Destination, name: &str, key: &PublicKey) {
        if self.key_name(destination) == name {
            self.host_key.accepted.note(name, key);
        }
        if let Via::Jump(hop) = &self.via {
            hop.connect.accept(&hop.destination, name, key);
        }
    }

    /// Takes over what was accepted and typed for `other`, which leads to the same machine: its host key,
    /// and the machines on the way if they are the same.
    pub fn share(&mut self, other: &ConnectOptions) {
        self.host_key.accepted = other.host_key.accepted.clone();
        if let (Via::Jump(ours), Via::Jump(theirs)) = (&self.via, &other.via)
            && ours.is_same_way(theirs)
        {
            self.via = other.via.clone();
        }
    }

    /// What the host key is looked up by.
    pub(super) fn key_name(&self, destination: &Destination) -> String {
        match &self.host_key.alias {
            Some(alias) => alias.to_lowercase(),
            None => known_hosts_name(self.host(destination), destination.port),
        }
    }

    /// What is connected to.
    pub(super) fn host<'a>(&'a self, destination: &'a Destination) -> &'a str {
        self.host_name.as_deref().unwrap_or(&destination.host)
    }
}

/// Bound of a login: a key's passphrase or an agent's confirmation may have to be typed.
const LOGIN: Duration = Duration::from_secs(110);
/// A silent machine is asked this often whether it is still there, and given up after
/// [`KEEPALIVE_MAX`] questions.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_MAX: usize = 6;

/// Bytes of the connection that are read at once.
const READ_AHEAD: usize = 64 << 10;

/// An authenticated connection.
#[derive(Clone)]
pub struct Session {
    pub(super) handle: Arc<Handle<Client>>,
    pub(super) destination: Destination,
    pub(super) host_key: PublicKey,
    pub(super) login: Login,
    /// How programs run as root, if that is wanted and the login is not root's.
    pub(super) elevation: Option<Arc<Elevation>>,
    /// The connection that carries this one.
    pub(super) through: Option<Arc<Session>>,
    /// What can be asked of its line, while it is open.
    pub(super) line: Weak<Line>,
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
        let expectation = options.host_key.expectation(&options.key_name(destination))?;
        let login = options.login.clone();
        let dialer = Dialer::prepare(destination, options).await?;
        let Introduced { mut handle, host_key, line } =
            handshake_expecting(&dialer, destination, options, &expectation).await?;
        timeout(LOGIN, authenticate(&mut handle, destination, &options.identities, &login))
            .await
            .map_err(|_| SshError::TimedOut {
                what: format!("logging in at {destination}"),
                bound: LOGIN,
            })??;
        Ok(Session {
            handle: Arc::new(handle),
            destination: destination.clone(),
            host_key,
            login,
            elevation: None,
            through: dialer.into_carrier().map(Arc::new),
            line,
        })
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
        if let Some(through) = &self.through {
            Box::pin(through.disconnect()).await;
        }
    }

    /// Whether the connection is gone, when a channel ended without a word: the two are noticed
    /// one after the other.
    pub(crate) async fn has_ended(&self) -> bool {
        for _ in 0..20 {
            if self.is_closed() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    pub(crate) fn broken(&self, doing: impl Into<String>, source: russh::Error) -> SshError {
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
/// Machines on the way are trusted or not, as `options` say. Nobody is asked anything, and no
/// password is sent.
///
/// Public-key signatures are bound to the connection (RFC 4252, section 7), so that an impostor
/// gains nothing; but what is read over it must not be believed unless the key is the right one.
pub async fn look(
    destination: &Destination,
    options: &ConnectOptions,
    bound: Duration,
) -> Result<Look, SshError> {
    let mut options = options.without_prompt();
    options.timeout = bound;
    options.login.methods = vec![super::Method::PublicKey];
    let dialer = Dialer::prepare(destination, &options).await?;
    let Introduced { mut handle, host_key, line } =
        handshake_expecting(&dialer, destination, &options, &Expectation::Anything).await?;
    let through = dialer.into_carrier().map(Arc::new);
    let login = authenticate(&mut handle, destination, &options.identities, &options.login);
    let login = timeout(bound, login)
        .await
        .unwrap_or_else(|_| {
            Err(SshError::TimedOut { what: format!("logging in at {destination}"), bound })
        })
        .map(|()| Session {
            handle: Arc::new(handle),
            destination: destination.clone(),
            host_key: host_key.clone(),
            login: options.login.clone(),
            elevation: None,
            through,
            line,
        });
    Ok(Look { host_key, login })
}

/// A connection that nobody has logged in at yet.
struct Introduced {
    handle: Handle<Client>,
    host_key: PublicKey,
    line: Weak<Line>,
}

/// The handshake; for a pinned fingerprint, which does not tell the key's type, asking for one
/// type after the other until the machine shows the pinned key.
async fn handshake_expecting(
    dialer: &Dialer,
    destination: &Destination,
    options: &ConnectOptions,
    expectation: &Expectation,
) -> Result<Introduced, SshError> {
    let algorithms = expectation.algorithms();
    let certified = expectation.certificate_algorithms();
    let attempt = |algorithms: Vec<Algorithm>| {
        handshake(dialer, destination, options, expectation, algorithms, &certified)
    };
    let first = match attempt(algorithms.clone()).await {
        Err(e @ SshError::NotThePinnedKey { .. }) if expectation.is_fingerprint() => e,
        other => return other,
    };
    let mut tried: Vec<Algorithm> = Vec::new();
    if let SshError::NotThePinnedKey { algorithm, .. } = &first {
        tried.extend(algorithm.parse::<Algorithm>());
    }
    for algorithm in &algorithms {
        if tried.iter().any(|tried| host_key::same_type(tried, algorithm)) {
            continue;
        }
        tried.push(algorithm.clone());
        let of_type = |other: &&Algorithm| host_key::same_type(other, algorithm);
        let only: Vec<Algorithm> = algorithms.iter().filter(of_type).cloned().collect();
        if let Ok(found) = attempt(only).await {
            return Ok(found);
        }
    }
    Err(first)
}

async fn handshake(
    dialer: &Dialer,
    destination: &Destination,
    options: &ConnectOptions,
    expectation: &Expectation,
    algorithms: Vec<Algorithm>,
    certified: &[Algorithm],
) -> Result<Introduced, SshError> {
    let bound = options.timeout;
    let carrier = dialer.open(bound).await?;
    let seen = Arc::new(Mutex::new(None));
    let open = carrier.line.map(Arc::new);
    let line = open.as_ref().map_or_else(Weak::new, Arc::downgrade);
    let client = Client {
        _line: open,
        name: options.key_name(destination),
        expectation: expectation.clone(),
        seen: Arc::clone(&seen),
    };
    let config = Arc::new(config(algorithms, certified.to_vec()));
    // The library reads a packet's length first, then the rest.
    let stream = BufReader::with_capacity(READ_AHEAD, carrier.stream);
    let connecting = client::connect_stream(config, stream, client);
    let outcome = match timeout(bound, connecting).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let what = format!("the SSH handshake with {}", destination.host);
            return Err(carrier.complaint.about(SshError::TimedOut { what, bound }).await);
        }
    };
    let seen = seen.lock().unwrap_or_else(|e| e.into_inner()).take();
    match (outcome, seen) {
        (_, Some(Err(refused))) => Err(refused),
        (Ok(handle), Some(Ok(host_key))) => Ok(Introduced { handle, host_key, line }),
        (Ok(_), None) => unreachable!("a handshake without a host key can't succeed"),
        (Err(source), _) => Err(carrier
            .complaint
            .about(SshError::Handshake {
                host: destination.host.clone(),
                port: destination.port,
                source: Box::new(source),
            })
            .await),
    }
}

/// Ciphers, the preferred one first: with AES instructions (`aes`) AES-128-GCM is the fastest, which OpenSSH's
/// default order would not take; without them ChaCha20 is, by far.
fn ciphers(aes: bool) -> &'static [cipher::Name] {
    match aes {
        true => &[
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::CHACHA20_POLY1305,
            cipher::AES_256_CTR,
            cipher::AES_128_CTR,
        ],
        false => &[
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::AES_128_CTR,
            cipher::AES_256_CTR,
        ],
    }
}

/// Whether this computer's processor has instructions for AES. The machine's can't be asked before the cipher
/// is chosen; nearly all that one installs to have them.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn config(algorithms: Vec<Algorithm>, certified: Vec<Algorithm>) -> client::Config {
    client::Config {
        nodelay: true,
        // What the agent may send before it is read: events only, but a burst of them.
        window_size: 16 << 20,
        maximum_packet_size: 65535,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVE_MAX,
        preferred: Preferred {
            key: Cow::Owned(algorithms),
            host_key_certificates: Cow::Owned(certified),
            cipher: Cow::Borrowed(ciphers(has_aes())),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Judges the host key; russh asks it during the handshake, and drops it when it closes the connection.
pub(super) struct Client {
    _line: Option<Arc<Line>>,
    name: String,
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
            PublicKeyOrCertificate::Certificate(certificate) => {
                PublicKey::new(certificate.public_key().clone(), "")
            }
        };
        let (accept, seen) = match self.expectation.judge(&self.name, presented) {
            Verdict::Accept => (true, Ok(key)),
            Verdict::Refuse(why) => (false, Err(why)),
        };
        *self.seen.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen);
        Ok(accept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever connects chooses: of the ciphers that both ends have, the first here is taken.
    #[test]
    fn the_preferred_cipher_is_the_fastest_of_this_computer() {
        let names = |aes| -> Vec<&str> { ciphers(aes).iter().map(|name| name.as_ref()).collect() };
        let (with, without) = (names(true), names(false));
        assert_eq!(with[0], "aes128-gcm@openssh.com");
        assert_eq!(without[0], "chacha20-poly1305@openssh.com");
        // Whatever a server has, it is offered either way.
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(with), sorted(without));
        let config = config(vec![], vec![]);
        assert_eq!(config.preferred.cipher, ciphers(has_aes()));
    }
}
