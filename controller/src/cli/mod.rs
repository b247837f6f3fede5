//! The command line.
//!
//! | module | job |
//! |---|---|
//! | [`args`] | commands and options |
//! | [`run`] | from options to a request, and to an exit code |
//! | [`origin`] | where a closure comes from |
//! | [`bundle`] | `keystone bundle` |
//! | [`disks`] | `keystone disko`, `keystone rescue` |
//! | `begin` | what precedes an installation: options that need no machine, its hardware described |
//! | `system` | the system to install and what is added to it, from the options |
//! | `verify` | `keystone verify` |
//! | [`config`] | defaults from `keystone.toml` |
//! | [`outcome`] | the closing words, of success and of failure |

pub mod args;
pub mod bundle;
pub mod config;
pub mod disks;
mod link;
pub mod origin;
pub mod outcome;
pub mod run;

mod begin;
mod system;
mod verify;

pub use run::main;
