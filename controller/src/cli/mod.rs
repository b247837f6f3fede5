//! The command line.
//!
//! | module | job |
//! |---|---|
//! | [`args`] | commands and options |
//! | [`run`] | from options to a request, and to an exit code |
//! | [`origin`] | where a closure comes from |
//! | [`bundle`] | `keystone bundle` |
//! | [`disks`] | `keystone disko`, `keystone rescue` |
//! | `verify` | `keystone verify` |
//! | [`outcome`] | the closing words, of success and of failure |

pub mod args;
pub mod bundle;
pub mod disks;
mod link;
pub mod origin;
pub mod outcome;
pub mod run;

mod verify;

pub use run::main;
