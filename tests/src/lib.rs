//! Keystone's lab: real machines for the installer's tests.
//!
//! | module | job |
//! |---|---|
//! | [`setup`] | the Debian packages that all of this needs |
//! | [`run`] | a command, with an error that says all |
//! | [`lab`] | the cache, and how things get into it |
//! | [`debian`] | Debian roots; the kernel with OpenZFS |
//! | [`installer`] | the live system's boot medium |
//! | [`oracle`] | systemd and cryptsetup, to compare with |
//! | [`system`] | the reference system: what is installed |
//! | [`native`] | the agent's static libraries, and the agent |
//! | [`machine`] | virtual machines |
//! | [`bench`] | the closure transfer beside its peers |
//! | [`runner`] | running scenarios and unit tests, counting |
//! | [`scenarios`] | what is seen happening |
//! | [`keystone`] | the programs under test |
//! | [`process`] | what `/proc` says of processes |
//! | [`loopback`] | a copy's two ends on this computer, and a line that breaks |
//! | [`terminal`] | a program at a terminal, typed to |
//! | [`web`] | a binary cache on a web server |
//! | [`demo`] | `cargo lab demo` |
//! | [`shell`] | a live system to look around in |

pub mod bench;
pub mod debian;
pub mod demo;
pub mod installer;
pub mod keystone;
pub mod lab;
pub mod loopback;
pub mod machine;
pub mod native;
pub mod oracle;
pub mod process;
pub mod run;
pub mod runner;
#[path = "../scenarios/mod.rs"]
pub mod scenarios;
pub mod setup;
pub mod shell;
pub mod system;
pub mod terminal;
pub mod web;
