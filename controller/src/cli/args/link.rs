//! How to reach the machine, and what to show.

use crate::secrets::SecretSource;
use crate::ssh::{Address, Pin};
use clap::{ArgAction, Args};
use std::path::PathBuf;

/// How to reach the machine and what to show.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// The machine: [USER@]HOST, an IPv6 address in brackets, or a Host of ~/.ssh/config; who is
    /// not root there needs sudo or doas
    #[arg(value_name = "root@HOST")]
    pub destination: Option<Address>,
    /// The same as root@HOST
    #[arg(long, value_name = "root@HOST", conflicts_with = "destination")]
    pub target_host: Option<Address>,
    /// TCP port of its SSH server
    #[arg(short, long, visible_alias = "ssh-port", value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Its host key: SHA256:… as ssh-keygen -l prints it, or the public key itself
    #[arg(long, value_name = "FINGERPRINT")]
    pub host_key: Option<Pin>,
    /// Look for its host key in this file instead of ~/.ssh/known_hosts; may be repeated
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Vec<PathBuf>,
    /// Log in with this private key; may be repeated. Else the key in the environment's variable
    /// SSH_PRIVATE_KEY, or ~/.ssh/id_*; and the ssh-agent
    #[arg(short, long = "identity", value_name = "KEY")]
    pub identities: Vec<PathBuf>,
    /// Read this file instead of ~/.ssh/config and /etc/ssh/ssh_config; none for none
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Set an option of ssh_config(5), before the files; may be repeated
    #[arg(long = "ssh-option", value_name = "KEY=VALUE")]
    pub ssh_options: Vec<String>,
    /// Log in with the password in this file or pipe (- for standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "env_password")]
    pub ssh_password_file: Option<SecretSource>,
    /// Log in with the password in the environment's variable SSHPASS
    #[arg(long)]
    pub env_password: bool,
    /// Give sudo or doas the password in this file or pipe; else the one that logged in is tried
    #[arg(long, value_name = "FILE")]
    pub sudo_password_file: Option<SecretSource>,
    /// Give up each address and each handshake after this many seconds [default: ConnectTimeout, or 20]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub connect_timeout: Option<u64>,
    /// The agent to bring to the machine, instead of the one installed with keystone
    #[arg(long, value_name = "PATH", env = "KEYSTONE_AGENT", hide_env_values = true)]
    pub agent: Option<PathBuf>,
    /// Read defaults of options for this host from this file instead of ./keystone.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is shown, and how.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Write JSON to standard output: a line for each event, or one document where that is what
    /// is asked for
    #[arg(long)]
    pub json: bool,
    /// Show the agent's log and what programs print; twice for more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}
