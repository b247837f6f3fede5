//! Debian 13 roots, the raw material of every machine in the lab.
//!
//! - [`Root`] says which packages a root holds; [`Root::build`] makes it with
//!   mmdebstrap, from the mirror this machine's own apt uses, and caches it.
//! - [`kernel`] builds OpenZFS's modules with DKMS in one such root and keeps
//!   only what machines need: the kernel, its modules, systemd-boot.
//!
//! Downloaded packages are kept in `<cache>/debs` and shared by all roots.

mod kernel;
mod root;

pub use kernel::{Kernel, kernel};
pub use root::{Root, base_root};

/// The Debian release of all machines.
pub const SUITE: &str = "trixie";
