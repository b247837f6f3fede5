//! SSH to the machine being installed.
//!
//! | module | job |
//! |---|---|
//! | [`destination`] | `user@host[:port]` |
//! | [`known_hosts`] | reads OpenSSH's `known_hosts` files |
//! | [`host_key`] | decides whether a machine's key is the expected one |
//! | [`identity`] | the keys that the operator logs in with |
//! | [`connect`] | connects, checks the host key, authenticates; every step bounded |
//! | [`exec`] | runs a program on the machine and talks to it |
//! | [`terminal`] | the same with this terminal as the program's own |
//! | [`error`] | what can go wrong, in words that help |
//!
//! The library is russh. Nothing here reads `ssh_config`, starts an `ssh` process or writes
//! `known_hosts`: an installer's host key lives until its next boot.

pub mod connect;
pub mod destination;
pub mod error;
pub mod exec;
pub mod host_key;
pub mod identity;
pub mod known_hosts;
pub mod terminal;

pub use connect::{ConnectOptions, Session};
pub use destination::Destination;
pub use error::SshError;
pub use host_key::{HostKeyPolicy, Pin};
pub use identity::{Identities, PassphrasePrompt};

/// Re-exported so that front ends need no version of their own.
pub use russh::keys::{HashAlg, PublicKey};
