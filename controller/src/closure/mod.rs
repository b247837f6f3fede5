//! The system to install: from the local store, a binary cache or a bundle.
//!
//! | module | job |
//! |---|---|
//! | [`store`] | a store, which may lie below another root (Nix's `local?root=`) |
//! | [`origin`] | which of these, and what is wanted of it |
//! | [`cache`] | a binary cache: a directory or a web server |
//! | [`narinfo`] | what a cache says of a path |
//! | [`signature`] | Ed25519 keys, signatures, and what is signed |
//! | [`content_address`] | paths that prove themselves |
//! | [`trust`] | which paths are trusted |
//! | [`nix32`] | Nix's base 32, and its ways of writing hashes |
//! | [`files`] | files of store paths, wherever these come from |
//! | [`nar_files`] | files of store paths that are at hand only as NARs |
//! | [`database`] | the closure from the store's `db.sqlite` |
//! | [`boot`] | `boot.json` (bootspec): what boots, and whether all of it is in the closure |
//! | [`fstab`] | `etc/fstab` |
//! | [`zfs`] | which OpenZFS the system has |
//! | [`enrolment`] | whether the system will enrol Secure Boot keys |
//! | [`facts`] | what the planner needs to know, and what makes a path a NixOS system |
//! | [`source`] | where the contents of store paths come from |
//! | [`error`] | what can be wrong with a closure |
//!
//! Nothing is executed and no Nix is needed. Paths are logical (`/nix/store/…`); only
//! [`store::Store`] knows where they lie.

pub mod boot;
pub mod cache;
pub mod content_address;
pub mod database;
pub mod enrolment;
pub mod error;
pub mod facts;
pub mod files;
pub mod fstab;
pub mod nar_files;
pub mod narinfo;
pub mod nix32;
pub mod origin;
pub mod signature;
pub mod source;
pub mod store;
pub mod trust;
pub mod zfs;

pub use error::ClosureError;
pub use origin::Origin;
pub use source::{ClosureSource, LocalSource};
pub use store::Store;
pub use trust::Trust;

use keystone_protocol::manifest::Manifest;
use keystone_protocol::options::ClosureFacts;
use std::path::Path;

/// A closure that can be installed: checked, not yet read.
#[derive(Debug, Clone)]
pub struct Closure {
    /// All its paths.
    pub manifest: Manifest,
    /// What the planner needs to know of it.
    pub facts: ClosureFacts,
}

impl Closure {
    /// Reads the closure of `toplevel` (a store path, or a link to one such as `./result`).
    pub fn read(store: &Store, toplevel: &Path) -> Result<Self, ClosureError> {
        let toplevel = store.locate(toplevel)?;
        let manifest = database::closure(store, &toplevel)?;
        let facts = facts::read(store, &manifest)?;
        Ok(Closure { manifest, facts })
    }
}
