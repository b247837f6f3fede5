//! The keys that the operator logs in with.

use super::error::SshError;
use super::prompt::{NoPrompt, Prompt, Question};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{self, Certificate, PrivateKey, PublicKey};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Bound of asking an agent what keys it has.
const AGENT: Duration = Duration::from_secs(10);

/// The keys to try.
#[derive(Clone)]
pub struct Identities {
    files: Vec<KeyFile>,
    certificates: Vec<PathBuf>,
    only_files: bool,
    agent: Option<PathBuf>,
    prompt: Arc<dyn Prompt>,
    /// If given, only these, and no certificates.
    among: Option<Arc<Vec<PublicKey>>>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities")
            .field("files", &self.files.iter().map(|k| &k.path).collect::<Vec<_>>())
            .field("agent", &self.agent)
            .finish()
    }
}

/// Who said that a key file is to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The operator, for this connection.
    Named,
    /// The SSH configuration.
    Listed,
    /// Nobody: it is one of the usual ones.
    Usual,
}

#[derive(Clone)]
struct KeyFile {
    path: PathBuf,
    origin: Origin,
    key: Arc<Mutex<Option<Arc<PrivateKey>>>>,
}

impl Identities {
    /// The files that the operator named, or else the usual ones in `~/.ssh` as far as they
    /// exist; and the agent at `SSH_AUTH_SOCK`.
    pub fn new(named: &[PathBuf], prompt: Arc<dyn Prompt>) -> Self {
        Self::with_listed(named, None, prompt)
    }

    /// As [`new`](Self::new), with files that the SSH configuration lists, if it does. The usual
    /// ones are tried where neither names any.
    pub fn with_listed(
        named: &[PathBuf],
        listed: Option<&[PathBuf]>,
        prompt: Arc<dyn Prompt>,
    ) -> Self {
        let mut files: Vec<KeyFile> = Vec::new();
        let mut add = |path: PathBuf, origin| {
            if !files.iter().any(|file| file.path == path) {
                files.push(KeyFile { path, origin, key: Arc::default() });
            }
        };
        named.iter().for_each(|path| add(path.clone(), Origin::Named));
        listed.into_iter().flatten().for_each(|path| add(path.clone(), Origin::Listed));
        if named.is_empty()
            && listed.is_none()
            && let Some(home) = std::env::home_dir()
        {
            for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
                add(home.join(".ssh").join(name), Origin::Usual);
            }
        }
        files.retain(|file| file.origin == Origin::Named || file.path.exists());
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).map(PathBuf::from);
        Identities {
            files,
            certificates: Vec::new(),
            only_files: false,
            agent,
            prompt,
            among: None,
        }
    }

    /// With a key that is in no file, known as `name` in messages: tried first, and none of the
    /// usual ones besides.
    pub fn with_key(mut self, name: &str, key: PrivateKey) -> Self {
        self.files.retain(|file| file.origin != Origin::Usual);
        let key = Arc::new(Mutex::new(Some(Arc::new(key))));
        self.files.insert(0, KeyFile { path: name.into(), origin: Origin::Named, key });
        self
    }

    /// With another agent than that of the environment, or none.
    pub fn with_agent(mut self, socket: Option<PathBuf>) -> Self {
        self.agent = socket;
        self
    }

    /// With certificates for the keys (`CertificateFile`), besides `KEY-cert.pub` of each file.
    pub fn with_certificates(mut self, files: Vec<PathBuf>) -> Self {
        self.certificates = files;
        self
    }

    /// Of the agent's keys, only those that are among the files (`IdentitiesOnly`).
    pub fn only_files(mut self, only: bool) -> Self {
        self.only_files = only;
        self
    }

    /// Only those whose public half is among these, by themselves and not by a certificate.
    pub fn plain_among(mut self, keys: Vec<PublicKey>) -> Self {
        self.among = Some(Arc::new(keys));
        self
    }

    /// Whether a key may be tried; `None` is one whose public half is not known.
    pub(super) fn may_use(&self, key: Option<&PublicKey>) -> bool {
        self.among.as_ref().is_none_or(|among| {
            key.is_some_and(|key| among.iter().any(|other| other.key_data() == key.key_data()))
        })
    }

    /// The same keys, but never asking: keys that were not unlocked yet are left out.
    pub fn without_prompt(&self) -> Self {
        Identities { prompt: Arc::new(NoPrompt), ..self.clone() }
    }

    /// Whether the agent's other keys are left out.
    pub(super) fn are_only_files(&self) -> bool {
        self.only_files
    }

    /// Number of key files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Where the file's key comes from, for messages.
    pub(super) fn name(&self, index: usize) -> String {
        self.files[index].path.display().to_string()
    }

    /// Who said that the file is to be tried.
    pub(super) fn origin(&self, index: usize) -> Origin {
        self.files[index].origin
    }

    /// The public half of a file's key, as far as it can be told without its passphrase.
    pub(super) fn public(&self, index: usize) -> Option<PublicKey> {
        self.files[index].public()
    }

    /// Whether the file's key can be used without asking.
    pub(super) fn is_unlocked(&self, index: usize) -> bool {
        let file = &self.files[index];
        file.key.lock().unwrap_or_else(|e| e.into_inner()).is_some()
            || keys::load_secret_key(&file.path, None).is_ok()
    }

    /// The certificates, each with its file's name.
    pub(super) fn certificates(&self) -> Vec<(Certificate, String)> {
        if self.among.is_some() {
            return Vec::new();
        }
        let beside = self.files.iter().map(|file| with_suffix(&file.path, "-cert.pub"));
        let mut found: Vec<(Certificate, String)> = Vec::new();
        for path in self.certificates.iter().cloned().chain(beside) {
            if !path.exists() {
                continue;
            }
            match keys::load_openssh_certificate(&path) {
                Ok(certificate) if !found.iter().any(|(other, _)| *other == certificate) => {
                    found.push((certificate, path.display().to_string()));
                }
                Ok(_) => {}
                Err(e) => tracing::warn!("{} is not a certificate: {e}", path.display()),
            }
        }
        found
    }

    /// The key of a file, asking for its passphrase at most three times.
    ///
    /// `Ok(None)` for a file that can't be used without asking; for one that the operator named
    /// that is an error.
    pub(super) async fn load(&self, index: usize) -> Result<Option<Arc<PrivateKey>>, SshError> {
        let file = self.files[index].clone();
        let prompt = Arc::clone(&self.prompt);
        tokio::task::spawn_blocking(move || file.load(prompt.as_ref()))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// The agent and the keys it holds; `None` if there is none.
    pub(super) async fn agent(&self) -> Option<(Agent, Vec<AgentIdentity>)> {
        let socket = self.agent.as_ref()?;
        let ask = async {
            let mut client = AgentClient::connect_uds(socket).await?.dynamic();
            let keys = client.request_identities().await?;
            Ok::<_, keys::Error>((client, keys))
        };
        match timeout(AGENT, ask).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(e)) => {
                tracing::warn!("the ssh-agent at {} can't be used: {e}", socket.display());
                None
            }
            Err(_) => {
                tracing::warn!("the ssh-agent at {} does not answer", socket.display());
                None
            }
        }
    }
}

/// A connection to an ssh-agent.
pub(super) type Agent = AgentClient<Box<dyn AgentStream + Send + Unpin>>;

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

impl KeyFile {
    /// From the `.pub` file, or from the private one, which in OpenSSH's format has it in clear.
    fn public(&self) -> Option<PublicKey> {
        if let Some(key) = self.key.lock().unwrap_or_else(|e| e.into_inner()).as_ref() {
            return Some(key.public_key().clone());
        }
        let beside = std::fs::read_to_string(with_suffix(&self.path, ".pub")).ok();
        if let Some(key) = beside.and_then(|text| PublicKey::from_openssh(text.trim()).ok()) {
            return Some(key);
        }
        let text = Zeroizing::new(std::fs::read_to_string(&self.path).ok()?);
        // What was named may be the public half of a key that the agent holds.
        if let Ok(key) = PublicKey::from_openssh(text.trim()) {
            return Some(key);
        }
        let private = PrivateKey::from_openssh(text.as_bytes()).ok();
        let private = private.or_else(|| keys::load_secret_key(&self.path, None).ok());
        private.map(|key| key.public_key().clone())
    }

    fn load(&self, prompt: &dyn Prompt) -> Result<Option<Arc<PrivateKey>>, SshError> {
        let mut cached = self.key.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(key) = cached.as_ref() {
            return Ok(Some(Arc::clone(key)));
        }
        let mut passphrase: Option<Zeroizing<String>> = None;
        for attempt in 0..4 {
            let loaded = keys::load_secret_key(&self.path, passphrase.as_ref().map(|p| p.as_str()));
            match loaded {
                Ok(key) => {
                    let key = Arc::new(key);
                    *cached = Some(Arc::clone(&key));
                    return Ok(Some(key));
                }
                Err(source) if !is_locked(&source, passphrase.is_some()) || attempt == 3 => {
                    return Err(SshError::Identity { file: self.path.clone(), source });
                }
                Err(_) => {
                    let question = Question::Passphrase { file: &self.path, again: attempt > 0 };
                    match prompt.ask(&question) {
                        Some(text) => passphrase = Some(text),
                        None if self.origin == Origin::Named => {
                            return Err(SshError::NoPassphrase { file: self.path.clone() });
                        }
                        None => return Ok(None),
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Whether the error means that a passphrase is missing, or was wrong.
fn is_locked(error: &keys::Error, tried: bool) -> bool {
    match error {
        keys::Error::KeyIsEncrypted => true,
        keys::Error::SshKey(_) | keys::Error::Pkcs8(_) | keys::Error::Unpad(_) => tried,
        _ => false,
    }
}
