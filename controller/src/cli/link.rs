//! From the options that say how to reach a machine to how it is reached.

use super::args::LinkArgs;
use crate::conversation::Connections;
use crate::install::{InstallError, LinkOptions};
use crate::nar::Delta;
use crate::operator::OperatorError;
use crate::secrets::SecretSource;
use crate::ssh::config::{Files, Sources};
use crate::ssh::login::Given as GivenPassword;
use crate::ssh::route::Given;
use crate::ssh::{Address, ConnectOptions, Destination, Login, SshError};
use crate::ui::CommandLine;
use crate::ui::login::TerminalPrompt;
use crate::upload::LocalAgent;
use keystone_protocol::secret::Secret;
use russh::keys::{PrivateKey, decode_secret_key};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Where to, and how.
///
/// # Errors
/// No machine is named, or the SSH configuration or a file with a password can't be used.
pub(super) fn reach(
    args: &LinkArgs,
    operator: &mut CommandLine,
) -> Result<(Destination, ConnectOptions), InstallError> {
    route(args, &address(args)?, None, operator)
}

/// The machine, with the port of its own option.
///
/// # Errors
/// None is named.
pub(super) fn address(args: &LinkArgs) -> Result<Address, InstallError> {
    let given = args.destination.as_ref().or(args.target_host.as_ref());
    let mut address = given.cloned().ok_or_else(|| {
        InstallError::Usage("which machine? Give root@HOST, or --target-host root@HOST".to_owned())
    })?;
    address.port = args.port.or(address.port);
    Ok(address)
}

/// As [`reach`], another address of the machine that is reached with `known`: what was given, typed
/// and accepted for that one, and on the same way to it, holds here too.
///
/// # Errors
/// As [`reach`].
pub(super) fn reach_at(
    args: &LinkArgs,
    address: &Address,
    known: &ConnectOptions,
    operator: &mut CommandLine,
) -> Result<(Destination, ConnectOptions), InstallError> {
    let (destination, mut connect) = route(args, address, Some(&known.login), operator)?;
    connect.share(known);
    Ok((destination, connect))
}

fn route(
    args: &LinkArgs,
    address: &Address,
    login: Option<&Login>,
    operator: &mut CommandLine,
) -> Result<(Destination, ConnectOptions), InstallError> {
    let prompt = Arc::new(TerminalPrompt::new(operator.screen().pause()));
    let login = match login {
        Some(login) => login.elsewhere(prompt.clone()),
        None => login_of(args, prompt.clone(), operator)?,
    };
    let files = match &args.ssh_config {
        None => Files::Usual,
        Some(path) if path.as_os_str() == OsStr::new("none") => Files::None,
        Some(path) => Files::Only(path.clone()),
    };
    let given = Given {
        sources: Sources { options: args.ssh_options.clone(), files },
        host_key: args.host_key.clone(),
        known_hosts: args.known_hosts.clone(),
        identities: args.identities.clone(),
        key: key_of_environment(args, operator)?,
        login,
        timeout: args.connect_timeout.map(Duration::from_secs),
        ..Given::nothing(prompt)
    };
    Ok(given.resolve(address).map_err(SshError::from)?)
}

/// As [`reach`], with the agent to bring.
///
/// # Errors
/// As [`reach`], or there is no agent.
pub(super) fn link_options(
    args: &LinkArgs,
    operator: &mut CommandLine,
) -> Result<LinkOptions, InstallError> {
    let (destination, connect) = reach(args, operator)?;
    Ok(LinkOptions {
        destination,
        connect,
        agent: LocalAgent::find(args.agent.as_deref())?,
        agent_log: if args.output.verbose > 1 { "debug" } else { "info" }.to_owned(),
        patience: Duration::ZERO,
        delta: Delta::default(),
        connections: Connections::default(),
    })
}

/// The passwords that are given beforehand. A pipe is read once.
fn login_of(
    args: &LinkArgs,
    prompt: Arc<TerminalPrompt>,
    operator: &mut CommandLine,
) -> Result<Login, InstallError> {
    let password = password(args)?;
    let root_password = args.sudo_password_file.as_ref().map(from_file).transpose()?;
    for given in password.iter().chain(&root_password) {
        operator.hide(&Secret::new(given.password.as_bytes().to_vec()));
    }
    Ok(Login::new(prompt).with_password(password).with_root_password(root_password))
}

/// The variable that holds a private key itself.
const KEY_VARIABLE: &str = "SSH_PRIVATE_KEY";

/// The key in the environment, where no other is named.
fn key_of_environment(
    args: &LinkArgs,
    operator: &mut CommandLine,
) -> Result<Option<(String, PrivateKey)>, InstallError> {
    let text = std::env::var(KEY_VARIABLE).map(Zeroizing::new).unwrap_or_default();
    if !args.identities.is_empty() || text.trim().is_empty() {
        return Ok(None);
    }
    operator.hide(&Secret::new(text.as_bytes().to_vec()));
    match decode_secret_key(&text, None) {
        Ok(key) => Ok(Some((KEY_VARIABLE.to_owned(), key))),
        Err(error) => {
            let why = crate::chain(&error);
            Err(OperatorError::Unusable(format!(
                "{KEY_VARIABLE} holds no private key that can be used: {why}; give a file with -i, \
                 or keep a key with a passphrase in an ssh-agent"
            ))
            .into())
        }
    }
}

fn password(args: &LinkArgs) -> Result<Option<GivenPassword>, InstallError> {
    if let Some(file) = &args.ssh_password_file {
        return from_file(file).map(Some);
    }
    if !args.env_password {
        return Ok(None);
    }
    match std::env::var("SSHPASS") {
        Ok(password) if !password.is_empty() => {
            let password = Zeroizing::new(password);
            Ok(Some(GivenPassword { password, from: "SSHPASS".into() }))
        }
        _ => Err(OperatorError::Missing(
            "--env-password is given, but SSHPASS is not set, or is not text".into(),
        )
        .into()),
    }
}

fn from_file(source: &SecretSource) -> Result<GivenPassword, InstallError> {
    let unusable = |why: String| InstallError::from(OperatorError::Unusable(why));
    let secret = source.read().map_err(|error| unusable(crate::chain(&error)))?;
    let from = match source {
        SecretSource::Stdin => "standard input".into(),
        SecretSource::File(path) => path.display().to_string(),
    };
    match std::str::from_utf8(secret.expose()) {
        Ok(text) => Ok(GivenPassword { password: Zeroizing::new(text.to_owned()), from }),
        Err(_) => Err(unusable(format!("the password in {from} is not UTF-8 text"))),
    }
}
