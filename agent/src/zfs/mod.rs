//! ZFS without `zpool` and `zfs`: pools, datasets, volumes and keys through
//! OpenZFS's own libraries, linked statically.
//!
//! | file | job |
//! |---|---|
//! | [`features`] | which pool features to enable; pure |
//! | [`Vdev`] (`vdev`) | what a pool is made of, as `zpool create` describes it; pure |
//! | [`Label`] (`label`) | what a device says of the pool it belongs to, without importing |
//! | `module` | the kernel module: present, version, features |
//! | `pool`, `dataset`, `key` | methods of [`Zfs`] |
//! | [`material`] | from a raw, hex or passphrase key to what the kernel takes |
//! | `users` | who keeps a pool busy |
//! | `ffi` | all of the C |
//!
//! Pools are made and imported through libzfs (libzfs_core has no call for it)
//! and datasets with keys through libzfs_core, so that a key is an argument in
//! memory and never a file. The parameters are those that the tools would pass
//! (OpenZFS 2.3 cmd/zpool/zpool_vdev.c, cmd/zpool/zpool_main.c, cmd/zfs/zfs_main.c):
//! what comes out has the same `zpool get all` and `zfs get all`.
//!
//! Nothing here mounts, unmounts or runs a program. libzfs prints to standard
//! output in a few failures of import, so a program that talks a protocol there
//! has to move that descriptor away first.
//!
//! # Example
//! ```no_run
//! # fn main() -> Result<(), keystone_agent::zfs::Error> {
//! use keystone_agent::zfs::{PoolSpec, TopVdev, Vdev, Zfs, features, module_features};
//! let zfs = Zfs::open()?;
//! let spec = PoolSpec {
//!     name: "rpool".into(),
//!     vdevs: vec![TopVdev::data(Vdev::Leaf("/dev/vda2".into()))],
//!     properties: [("ashift".into(), "12".into())].into(),
//!     root_properties: [("mountpoint".into(), "none".into())].into(),
//!     altroot: Some("/mnt".into()),
//!     features: features::enabled_features(&module_features()?, Some("2.3.4")).expect("2.3 is known").enabled,
//!     ..PoolSpec::default()
//! };
//! let _ = zfs.ensure_pool(&spec)?;
//! # Ok(()) }
//! ```

mod dataset;
mod error;
pub use keystone_planner::features;
mod ffi;
mod key;
mod label;
pub mod material;
mod module;
mod pool;
mod users;
mod vdev;

pub use dataset::VolumeOptions;
pub use error::{Error, Result};
pub use key::KeyStatus;
pub use label::{Label, LabelState, clear_label, read_label, read_labels};
pub use module::{kernel_release, module_features, module_version};
pub use pool::{Import, ImportedPool, Leaf, PoolSpec};
pub use vdev::{Class, TopVdev, Vdev};

/// ZFS in the running kernel. Not `Send`: libzfs's handle belongs to one thread;
/// another thread opens its own.
#[derive(Debug)]
pub struct Zfs {
    library: ffi::Library,
}

impl Zfs {
    /// Opens `/dev/zfs`, which makes the kernel load the module, and initialises libzfs.
    ///
    /// # Errors
    /// [`Error::ModuleMissing`] if the kernel has no such module.
    pub fn open() -> Result<Zfs> {
        module::load()?;
        Ok(Zfs { library: ffi::Library::open()? })
    }

    /// Names of the pool features that the linked OpenZFS knows and can enable.
    pub fn known_features() -> Vec<String> {
        ffi::known_features()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever updates the library has to update the table of features.
    #[test]
    fn the_linked_library_has_no_feature_that_the_table_lacks() {
        let known = Zfs::known_features();
        assert!(known.len() > 40, "{known:?}");
        let newest = features::enabled_features(&known, Some("2.999")).expect("newer than any");
        assert_eq!(newest.left_out, [""; 0]);
    }
}
