//! The part of Keystone's installer that runs on the machine being installed.
//!
//! | module | job | effect on |
//! |---|---|---|
//! | [`session`] | the conversation with whoever drives the agent | stdin, stdout, a socket for further connections |
//! | [`inventory`] | what the machine is | reads only |
//! | [`plan`] | inventory + layout + options → plan: the crate `keystone-planner` | none: pure |
//! | [`execute`] | runs a plan's steps, emits events, keeps the journal | the journal |
//! | [`block`] | finds devices by what they are, waits for them | reads, udev |
//! | [`gpt`], [`mbr`] | partition tables | disks |
//! | [`luks`] | LUKS2 containers | disks, device-mapper |
//! | [`tpm2`] | sealing and unsealing | the TPM |
//! | [`zfs`] | pools, datasets, keys | `/dev/zfs` |
//! | [`lvm`], [`md`] | volume groups, software RAID | disks, device-mapper, md |
//! | [`filesystem`], [`btrfs`] | file systems, swap headers, subvolumes | disks |
//! | [`hook`] | shell text of the layout | whatever it says |
//! | [`tool`] | programs of the running system | see there |
//! | [`mount`] | mounting and unmounting | mount table |
//! | [`fetch`] | files of web servers | network |
//! | [`store`] | NARs into the store, the database, profiles | the target's `/nix` |
//! | [`operator`] | the operator's files and owners | the target |
//! | [`activation`] | the system's own programs, in a chroot | the target |
//! | [`bootloader`] | checks what is on the ESP | reads, EFI variables |
//! | `lines` | text in lines, as programs print it | none |
//! | [`seal`] | everything closed, and proven closed | all of the above |
//!
//! Everything that changes something is an *ensure*: see [`ensure`].

pub mod activation;
pub mod block;
pub mod bootloader;
pub mod btrfs;
pub mod ensure;
pub mod execute;
pub mod fetch;
pub mod filesystem;
pub mod gpt;
pub mod hook;
pub mod inventory;
pub(crate) mod lines;
pub mod luks;
pub mod lvm;
pub mod mbr;
pub mod md;
pub mod mount;
pub mod operator;
pub use keystone_planner as plan;
pub mod seal;
pub mod session;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod tool;
pub mod tpm2;
pub mod zfs;
