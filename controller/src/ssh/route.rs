//! From what the operator gave and the SSH configuration says to how a machine is reached.

use super::config::tokens::{OF_COMMAND, Tokens, local_user};
use super::config::{Asked, ConfigError, Proxy, Settings, Sources};
use super::connect::{ConnectOptions, Hop, Via};
use super::host_key::{Accepted, HostKeyPolicy, Pin};
use super::known_hosts;
use super::prompt::{NoPrompt, Prompt};
use super::{Address, Destination, Identities, Login, Method};
use russh::keys::PrivateKey;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Machines on the way to one, at most.
const HOPS: usize = 8;
/// Bound of each step where neither the operator nor the configuration says.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What the operator gave for one connection. The SSH configuration adds what is missing.
#[derive(Clone)]
pub struct Given {
    /// Options and files of the SSH configuration.
    pub sources: Sources,
    /// The machine's host key.
    pub host_key: Option<Pin>,
    /// `known_hosts` files, instead of the configuration's.
    pub known_hosts: Vec<PathBuf>,
    /// Key files.
    pub identities: Vec<PathBuf>,
    /// A key that is in no file, and what it is called.
    pub key: Option<(String, PrivateKey)>,
    /// Passwords.
    pub login: Login,
    /// Who is asked for passphrases and passwords.
    pub prompt: Arc<dyn Prompt>,
    /// Bound of each step.
    pub timeout: Option<Duration>,
}

impl Given {
    /// Nothing but who is asked.
    pub fn nothing(prompt: Arc<dyn Prompt>) -> Self {
        Given {
            sources: Sources::default(),
            host_key: None,
            known_hosts: Vec::new(),
            identities: Vec::new(),
            key: None,
            login: Login::new(Arc::clone(&prompt)),
            prompt,
            timeout: None,
        }
    }

    /// What holds for a machine on the way: of the configuration its files, not the options,
    /// which are the destination's (as with OpenSSH); and no password meant for another machine.
    fn for_hop(&self) -> Self {
        let sources = Sources { options: Vec::new(), files: self.sources.files.clone() };
        Given { sources, timeout: self.timeout, ..Given::nothing(Arc::clone(&self.prompt)) }
    }

    /// How `address` is reached. `root` logs in there unless somebody else is named.
    ///
    /// # Errors
    /// [`ConfigError`]: a file, a line or a value of the SSH configuration can't be used.
    pub fn resolve(&self, address: &Address) -> Result<(Destination, ConnectOptions), ConfigError> {
        self.route(address, "root", None, 0)
    }

    fn route(
        &self,
        address: &Address,
        default_user: &str,
        proxy: Option<Proxy>,
        depth: usize,
    ) -> Result<(Destination, ConnectOptions), ConfigError> {
        let host = &address.host;
        let fail = |why: String| ConfigError::Setting { host: host.clone(), why };
        let asked = Asked { host, user: address.user.as_deref(), port: address.port, default_user };
        let mut settings = self.sources.settings(&asked)?;
        if proxy.is_some() {
            settings.proxy = proxy;
        }
        let destination = Destination {
            user: settings.user.clone().unwrap_or_else(|| default_user.to_owned()),
            host: host.clone(),
            port: settings.port.unwrap_or(22),
        };
        let host_name = settings.host_name.clone().unwrap_or_else(|| host.clone());
        let tokens = Tokens {
            host: host_name.clone(),
            given: host.clone(),
            port: destination.port,
            user: destination.user.clone(),
            key_name: settings.host_key_alias.clone().unwrap_or_else(|| host.clone()),
            jump: match &settings.proxy {
                Some(Proxy::Jump(jump)) => jump.clone(),
                _ => String::new(),
            },
        };
        let via = match &settings.proxy {
            None | Some(Proxy::None | Proxy::NoJump) => Via::Direct,
            Some(Proxy::Command(command)) => {
                Via::Command(tokens.expand(command, OF_COMMAND).map_err(fail)?)
            }
            Some(Proxy::Jump(_)) if depth >= HOPS => {
                return Err(fail(format!("its ProxyJump leads through more than {HOPS} machines")));
            }
            Some(Proxy::Jump(jumps)) => {
                let here = (host_name.as_str(), destination.port);
                match self.hop(jumps, here, depth) {
                    Ok(None) => Via::Direct,
                    Ok(Some(hop)) => Via::Jump(Box::new(hop)),
                    Err(HopError::Spec(why)) => return Err(fail(why)),
                    Err(HopError::Config(error)) => return Err(error),
                }
            }
        };
        let prompt: Arc<dyn Prompt> = match settings.batch_mode {
            Some(true) => Arc::new(NoPrompt),
            _ => Arc::clone(&self.prompt),
        };
        let options = ConnectOptions {
            via,
            host_name: (host_name != *host).then_some(host_name),
            family: settings.address_family.unwrap_or_default(),
            host_key: HostKeyPolicy {
                pinned: self.host_key.clone(),
                known_hosts: self.known_hosts(&settings, &tokens).map_err(fail)?,
                alias: settings.host_key_alias.clone(),
                accepted: Accepted::default(),
            },
            identities: self.keys(&settings, &tokens, prompt).map_err(fail)?,
            login: self.login(&settings).map_err(fail)?,
            timeout: self.timeout.or(settings.connect_timeout).unwrap_or(TIMEOUT),
        };
        Ok((destination, options))
    }

    /// The last of the machines of `jumps`, reached through those before it; `None` if it is the
    /// machine itself, at `here`: `Host *` with a `ProxyJump` means the machine in between too.
    fn hop(&self, jumps: &str, here: (&str, u16), depth: usize) -> Result<Option<Hop>, HopError> {
        let (before, last) = match jumps.rsplit_once(',') {
            Some((before, last)) => (Some(Proxy::Jump(before.trim().to_owned())), last),
            None => (None, jumps),
        };
        let address: Address = last
            .trim()
            .parse()
            .map_err(|error| HopError::Spec(format!("ProxyJump {jumps}: {error}")))?;
        let given = self.for_hop();
        let user = local_user();
        let asked = Asked {
            host: &address.host,
            user: address.user.as_deref(),
            port: address.port,
            default_user: &user,
        };
        let settings = given.sources.settings(&asked).map_err(HopError::Config)?;
        let host = settings.host_name.as_deref().unwrap_or(&address.host);
        if (host, settings.port.unwrap_or(22)) == here {
            return Ok(None);
        }
        let (destination, connect) =
            given.route(&address, &user, before, depth + 1).map_err(HopError::Config)?;
        Ok(Some(Hop { destination, connect }))
    }

    fn known_hosts(&self, settings: &Settings, tokens: &Tokens) -> Result<Vec<PathBuf>, String> {
        if !self.known_hosts.is_empty() {
            return Ok(self.known_hosts.clone());
        }
        let mut files = match &settings.user_known_hosts_files {
            Some(files) => paths(files, tokens)?,
            None => known_hosts::user_files(),
        };
        files.extend(match &settings.global_known_hosts_files {
            Some(files) => paths(files, tokens)?,
            None => known_hosts::global_files(),
        });
        Ok(files)
    }

    fn keys(
        &self,
        settings: &Settings,
        tokens: &Tokens,
        prompt: Arc<dyn Prompt>,
    ) -> Result<Identities, String> {
        let listed = match settings.identity_files.as_slice() {
            [] => None,
            files => {
                let some: Vec<String> =
                    files.iter().filter(|f| !f.eq_ignore_ascii_case("none")).cloned().collect();
                Some(paths(&some, tokens)?)
            }
        };
        let mut keys = Identities::with_listed(&self.identities, listed.as_deref(), prompt)
            .with_certificates(paths(&settings.certificate_files, tokens)?)
            .only_files(settings.identities_only.unwrap_or(false));
        if let Some((name, key)) = &self.key {
            keys = keys.with_key(name, key.clone());
        }
        match settings.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => {}
            Some(none) if none.eq_ignore_ascii_case("none") => keys = keys.with_agent(None),
            Some(variable) if variable.starts_with('$') && !variable.starts_with("${") => {
                keys = keys.with_agent(std::env::var_os(&variable[1..]).map(PathBuf::from));
            }
            Some(path) => keys = keys.with_agent(Some(tokens.path(path)?)),
        }
        Ok(keys)
    }

    fn login(&self, settings: &Settings) -> Result<Login, String> {
        let mut login = match settings.batch_mode {
            Some(true) => self.login.without_prompt(),
            _ => self.login.clone(),
        };
        if let Some(preferred) = &settings.preferred_authentications {
            login.methods = preferred
                .iter()
                .filter_map(|name| Method::ALL.into_iter().find(|method| method.name() == name))
                .collect();
        }
        let off = |setting: Option<bool>| setting == Some(false);
        login.methods.retain(|method| {
            !off(match method {
                Method::PublicKey => settings.pubkey_authentication,
                Method::KeyboardInteractive => settings.kbd_interactive_authentication,
                Method::Password => settings.password_authentication,
            })
        });
        if login.methods.is_empty() {
            return Err("it leaves no method to log in by: publickey, keyboard-interactive and \
                        password are those that keystone has"
                .into());
        }
        if let Some(attempts) = settings.number_of_password_prompts {
            login.attempts = attempts;
        }
        Ok(login)
    }
}

enum HopError {
    Spec(String),
    Config(ConfigError),
}

fn paths(files: &[String], tokens: &Tokens) -> Result<Vec<PathBuf>, String> {
    files.iter().map(|file| tokens.path(file)).collect()
}
