//! The keys that the operator logs in with.

use super::error::SshError;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{self, PrivateKey};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// Asks for the passphrase of a key.
pub trait PassphrasePrompt: Send + Sync {
    /// The passphrase for `file`, or `None` where nobody can be asked. `again` after a wrong one.
    fn passphrase(&self, file: &Path, again: bool) -> Option<Zeroizing<String>>;
}

/// Never asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrompt;

impl PassphrasePrompt for NoPrompt {
    fn passphrase(&self, _file: &Path, _again: bool) -> Option<Zeroizing<String>> {
        None
    }
}

/// The keys to try, in order: files, then the agent's.
#[derive(Clone)]
pub struct Identities {
    files: Vec<KeyFile>,
    agent: Option<PathBuf>,
    prompt: Arc<dyn PassphrasePrompt>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities")
            .field("files", &self.files.iter().map(|k| &k.path).collect::<Vec<_>>())
            .field("agent", &self.agent)
            .finish()
    }
}

#[derive(Clone)]
struct KeyFile {
    path: PathBuf,
    named: bool,
    key: Arc<Mutex<Option<Arc<PrivateKey>>>>,
}

impl Identities {
    /// The files that the operator named, or else the usual ones in `~/.ssh` as far as they
    /// exist; and the agent at `SSH_AUTH_SOCK`.
    pub fn new(named: &[PathBuf], prompt: Arc<dyn PassphrasePrompt>) -> Self {
        let mut files: Vec<PathBuf> = named.to_vec();
        if named.is_empty()
            && let Some(home) = std::env::home_dir()
        {
            files.extend(
                ["id_ed25519", "id_ecdsa", "id_rsa"]
                    .iter()
                    .map(|name| home.join(".ssh").join(name))
                    .filter(|path| path.exists()),
            );
        }
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).map(PathBuf::from);
        Identities {
            files: files
                .into_iter()
                .map(|path| KeyFile { path, named: !named.is_empty(), key: Arc::default() })
                .collect(),
            agent,
            prompt,
        }
    }

    /// With another agent than that of the environment, or none.
    pub fn with_agent(mut self, socket: Option<PathBuf>) -> Self {
        self.agent = socket;
        self
    }

    /// The same keys, but never asking: keys that were not unlocked yet are left out.
    pub fn without_prompt(&self) -> Self {
        Identities { prompt: Arc::new(NoPrompt), ..self.clone() }
    }

    /// Number of key files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Where the file's key comes from, for messages.
    pub(super) fn name(&self, index: usize) -> String {
        self.files[index].path.display().to_string()
    }

    /// The key of a file, asking for its passphrase at most three times.
    ///
    /// `Ok(None)` for a usual file that can't be used without asking; for one that the operator
    /// named that is an error.
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
        let mut client = match AgentClient::connect_uds(socket).await {
            Ok(client) => client.dynamic(),
            Err(e) => {
                tracing::warn!("no ssh-agent at {}: {e}", socket.display());
                return None;
            }
        };
        match client.request_identities().await {
            Ok(keys) => Some((client, keys)),
            Err(e) => {
                tracing::warn!("the ssh-agent at {} does not list its keys: {e}", socket.display());
                None
            }
        }
    }
}

/// A connection to an ssh-agent.
pub(super) type Agent = AgentClient<Box<dyn AgentStream + Send + Unpin>>;

impl KeyFile {
    fn load(&self, prompt: &dyn PassphrasePrompt) -> Result<Option<Arc<PrivateKey>>, SshError> {
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
                Err(_) => match prompt.passphrase(&self.path, attempt > 0) {
                    Some(text) => passphrase = Some(text),
                    None if self.named => {
                        return Err(SshError::NoPassphrase { file: self.path.clone() });
                    }
                    None => return Ok(None),
                },
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
