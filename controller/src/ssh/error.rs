//! What can go wrong on the way to the machine.

use russh::keys::PublicKey;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Connecting, authenticating or running a program failed.
#[derive(Debug, Error)]
pub enum SshError {
    /// The name has no address.
    #[error("can't find the address of {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address of the machine takes connections.
    #[error("can't reach {host} on port {port}: is the machine on, booted and on the network?")]
    Unreachable {
        /// The machine.
        host: String,
        /// The port.
        port: u16,
        /// What the last address said.
        #[source]
        source: io::Error,
    },
    /// Something listens, but the SSH handshake did not end well.
    #[error("{host} port {port} answers, but the SSH handshake failed")]
    Handshake {
        /// The machine.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: Box<russh::Error>,
    },
    /// A bound was reached.
    #[error("{what} took longer than {} s", bound.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
    },
    /// A `known_hosts` file exists and can't be read.
    #[error("can't read {}", file.display())]
    KnownHosts {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's key is neither pinned nor known.
    #[error(
        "the host key of {host} is not known: {}; compare it with the machine's console \
         (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and pass it with --host-key",
        super::host_key::fingerprint(key)
    )]
    UnknownHostKey {
        /// The machine as `known_hosts` names it.
        host: String,
        /// Its key.
        key: Box<PublicKey>,
    },
    /// The machine's key differs from the one that is known.
    #[error(
        "the host key of {host} has changed: {} line {line} says {expected}, the machine has \
         {found}. Somebody may be in between. If the machine was booted into an installer since, \
         which makes a new key at every boot, compare the fingerprint with its console and pass \
         --host-key {found}; to forget the old key: ssh-keygen -R '{host}' -f {}",
        file.display(), file.display()
    )]
    HostKeyChanged {
        /// The machine as `known_hosts` names it.
        host: String,
        /// The file that says otherwise.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Fingerprint that is known.
        expected: String,
        /// Fingerprint that was found.
        found: String,
    },
    /// The machine's key is not the one given with `--host-key`.
    #[error(
        "the host key of {host} is not the given one: expected {expected}, the machine has \
         {found} ({algorithm}). Compare it with the machine's console: either this is another \
         machine, somebody is in between, or it was booted again and made a new key"
    )]
    NotThePinnedKey {
        /// The machine as `known_hosts` names it.
        host: String,
        /// Fingerprint that was given.
        expected: String,
        /// Fingerprint that was found.
        found: String,
        /// Its type.
        algorithm: String,
    },
    /// The machine's key is marked `@revoked`.
    #[error("the host key of {host} is revoked by {} line {line}", file.display())]
    RevokedHostKey {
        /// The machine as `known_hosts` names it.
        host: String,
        /// The file that says so.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The machine's certificate is not good for it.
    #[error(
        "the certificate of {host}, signed by the known authority {authority}, is refused: {why}"
    )]
    HostCertificate {
        /// The machine as `known_hosts` names it.
        host: String,
        /// Fingerprint of the authority's key.
        authority: String,
        /// What is wrong with it.
        why: String,
    },
    /// A private key can't be used.
    #[error("can't use the key {}", file.display())]
    Identity {
        /// The key's file.
        file: PathBuf,
        /// Why.
        #[source]
        source: russh::keys::Error,
    },
    /// A private key needs a passphrase and nobody can be asked.
    #[error(
        "the key {} is protected by a passphrase and there is no terminal to ask for it: add it \
         to an ssh-agent (ssh-add {})", file.display(), file.display()
    )]
    NoPassphrase {
        /// The key's file.
        file: PathBuf,
    },
    /// There is nothing to log in with.
    #[error(
        "there is no key to log in to {host} with (it offers: {offers}): give one with -i, start \
         an ssh-agent (SSH_AUTH_SOCK), make one with ssh-keygen -t ed25519, or give a password \
         with --ssh-password-file"
    )]
    NoIdentity {
        /// The machine.
        host: String,
        /// Methods that the machine offers.
        offers: String,
    },
    /// The machine accepts nothing of what was tried.
    #[error(
        "{user}@{host} accepts none of these: {tried}. It offers {offers}; add a public key to \
         ~{user}/.ssh/authorized_keys on the machine, or give the right password"
    )]
    NotAuthenticated {
        /// Login name.
        user: String,
        /// The machine.
        host: String,
        /// What was tried: keys by file or comment, passwords by where they come from.
        tried: String,
        /// Methods that the machine offers.
        offers: String,
    },
    /// The SSH configuration can't be used.
    #[error(transparent)]
    Config(#[from] super::config::ConfigError),
    /// A machine on the way does not reach the next one.
    #[error("{hop} does not reach {host} on port {port}")]
    Jump {
        /// The machine on the way.
        hop: String,
        /// Where to.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: Box<russh::Error>,
    },
    /// `ProxyCommand` can't be started.
    #[error("can't start the ProxyCommand '{command}'")]
    ProxyStart {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `ProxyCommand` brings no SSH connection.
    #[error("the ProxyCommand '{command}' brings no SSH connection{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    ProxyCommand {
        /// The command.
        command: String,
        /// The end of its error output.
        said: String,
        /// Why.
        #[source]
        source: Box<SshError>,
    },
    /// Root can't be had on the machine.
    #[error("{user} can't become root on {host}: {why}")]
    NotRoot {
        /// Login name.
        user: String,
        /// The machine.
        host: String,
        /// A sentence.
        why: String,
    },
    /// The connection ended.
    #[error("the connection to {host} broke while {doing}")]
    Broken {
        /// The machine.
        host: String,
        /// What was going on.
        doing: String,
        /// Why.
        #[source]
        source: Box<russh::Error>,
    },
    /// The server does not run programs.
    #[error("{host} refuses to run programs for this login ({what}): is it a restricted account?")]
    ExecRefused {
        /// The machine.
        host: String,
        /// What was asked.
        what: String,
    },
    /// A program on the machine failed.
    #[error("{what} failed on {host} with {status}{}", if stderr.is_empty() { String::new() } else { format!(": {stderr}") })]
    Remote {
        /// The machine.
        host: String,
        /// What was to be done.
        what: String,
        /// How it ended.
        status: String,
        /// The end of its error output.
        stderr: String,
    },
}
