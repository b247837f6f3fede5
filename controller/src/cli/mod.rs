//! The command line.
//!
//! | module | job |
//! |---|---|
//! | [`args`] | commands and options |
//! | `help` | examples and exit codes below the options |
//! | [`run`] | which command does what |
//! | `output` | what is shown, and how a command ends |
//! | `link` | how a machine is reached, from the options |
//! | `install` | `keystone install`, and `keystone plan` of a system against a machine |
//! | `plan` | `keystone plan`, also of the disks alone, also for a machine that a file describes |
//! | `layout` | `keystone layout` |
//! | [`origin`] | where a closure comes from |
//! | [`bundle`] | `keystone bundle` |
//! | [`disks`] | `keystone disko`, `keystone rescue` |
//! | `begin` | what precedes an installation: options that need no machine, its hardware described |
//! | `build` | a flake's system, built here or on the machine |
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
mod build;
mod help;
mod install;
mod layout;
mod output;
mod plan;
mod system;
mod verify;

pub use run::main;
