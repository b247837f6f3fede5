//! What Keystone's controller and agent say to each other.
//!
//! This crate has no I/O of its own. It defines, from the bottom up:
//!
//! | module | what |
//! |---|---|
//! | [`frame`] | length-limited frames over any byte stream |
//! | [`version`] | the protocol's version and the sentence of a mismatch |
//! | [`message`] | the messages of the conversation, both directions |
//! | [`inventory`] | what the machine is: disks, TPM, firmware, memory, network |
//! | [`layout`] | the layout language: `disko.devices` as JSON |
//! | [`disko_mode`] | what is done with the disks: disko's modes |
//! | [`options`] | what the operator chose besides the layout |
//! | [`phase`] | parts of an installation that can be asked for one by one |
//! | [`plan`] | what will be done, step by step, and its hash |
//! | [`event`] | what is being done: the one event stream |
//! | [`chunks`] | pieces of archives that both ends cut alike, and their hashes |
//! | [`fetch`] | where an agent fetches the closure itself |
//! | [`manifest`] | the closure: store paths with hashes, sizes, references |
//! | [`nar`] | the archive format of store paths, and its parser |
//! | [`store_path`] | what a store path's name is, and how its hash is written |
//! | [`report`] | what was done, kept on the machine and by the controller |
//! | [`password`] | what a password must be |
//! | [`secret`] | bytes that must not be printed or kept |
//!
//! Control messages are JSON (self-describing, so that either end can name what it did not
//! understand), closure data are binary blocks; see `docs/decisions/wire-format.md`.

pub mod chunks;
pub mod disko_mode;
pub mod event;
pub mod fetch;
pub mod frame;
pub mod inventory;
pub mod layout;
pub mod manifest;
pub mod message;
pub mod nar;
pub mod options;
pub mod password;
pub mod phase;
pub mod plan;
pub mod report;
pub mod secret;
pub mod store_path;
pub mod version;
