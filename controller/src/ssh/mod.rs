//! SSH to the machine being installed.
//!
//! | module | job |
//! |---|---|
//! | [`destination`] | `user@host[:port]` |
//! | [`config`] | reads OpenSSH's client configuration |
//! | [`route`] | from what was given and configured to how a machine is reached |
//! | [`known_hosts`] | reads OpenSSH's `known_hosts` files |
//! | [`host_key`] | decides whether a machine's key is the expected one |
//! | [`host_certificate`] | decides whether a machine's certificate is good for it |
//! | [`identity`] | the keys that the operator logs in with |
//! | [`login`] | passwords, and which methods are tried |
//! | [`prompt`] | what a login may have to ask |
//! | [`dial`] | what carries a connection: TCP, another connection, a program |
//! | [`line`] | what the kernel says of a connection's line |
//! | [`connect`] | connects and checks the host key; every step bounded |
//! | [`auth`] | logs in |
//! | [`exec`] | runs a program on the machine and talks to it |
//! | `said` | what a script says of a machine |
//! | [`terminal`] | the same with this terminal as the program's own |
//! | [`elevate`] | root by `sudo` or `doas` |
//! | [`pattern`] | OpenSSH's patterns |
//! | [`error`] | what can go wrong, in words that help |
//!
//! The library is russh. Nothing here starts an `ssh` process or writes `known_hosts`: an
//! installer's host key lives until its next boot. What is done of OpenSSH's client
//! configuration is in `docs/ssh.md`.

mod auth;
pub mod config;
pub mod connect;
pub mod destination;
mod dial;
mod elevate;
pub mod error;
pub mod exec;
mod host_certificate;
pub mod host_key;
pub mod identity;
pub mod known_hosts;
pub mod line;
pub mod login;
mod pattern;
pub mod prompt;
pub mod route;
pub(crate) mod said;
pub mod terminal;

pub use connect::{ConnectOptions, Hop, Session, Via};
pub use destination::{Address, Destination};
pub use error::SshError;
pub use host_key::{HostKeyPolicy, Pin};
pub use identity::Identities;
pub use login::{Login, Method};
pub use prompt::{NoPrompt, Prompt, Question};

/// Re-exported so that front ends need no version of their own.
pub use russh::keys::{HashAlg, PublicKey};
