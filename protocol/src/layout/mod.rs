//! The layout language: disko's `disko.devices` as JSON.
//!
//! `nix eval --json …config.disko.devices`, internal attributes dropped, is what
//! [`Layout::parse`] reads: every attribute that disko's types have, in disko's own meaning.
//! One module per type:
//!
//! | type | module | where |
//! |---|---|---|
//! | `disk` | [`disk`](Disk) | `disk.<name>` |
//! | `gpt` | [`gpt`](Gpt) | a disk's `content` |
//! | `filesystem` | [`filesystem`](Filesystem) | a partition's, container's or volume's `content` |
//! | `swap` | [`swap`](Swap) | same |
//! | `luks` | [`luks`](Luks) | same |
//! | `zfs` | [`zfs`](ZfsMember) | a partition's or container's `content` |
//! | `zpool` | [`zpool`](Zpool) | `zpool.<name>` |
//! | `zfs_fs` | [`zfs_fs`](ZfsFs) | a pool's `datasets` |
//! | `zfs_volume` | [`zfs_volume`](ZfsVolume) | a pool's `datasets` |
//!
//! Nothing is skipped: an attribute or type that is not known is refused with its place in the
//! document and the nearest known name; one that disko has and this version has not is refused
//! as not supported yet. Source of the types: disko, `lib/types/*.nix`.

mod canonical;
mod check;
mod content;
mod credstore;
mod disk;
mod error;
mod filesystem;
mod fstab;
mod gpt;
mod hooks;
mod luks;
mod mount;
pub mod partition_type;
mod path;
mod position;
mod read;
mod swap;
mod zfs;
mod zfs_fs;
mod zfs_volume;
mod zpool;

pub use content::Content;
pub use credstore::CredstoreKey;
pub use disk::Disk;
pub use error::LayoutError;
pub use filesystem::{Filesystem, Format};
pub use fstab::{Disagreement, agrees_with_fstab};
pub use gpt::{Gpt, MAX_LABEL_UNITS, Partition};
pub use luks::{Luks, LuksKey};
pub use position::{Anchor, Position};
pub use swap::Swap;
pub use zfs::ZfsMember;
pub use zfs_fs::ZfsFs;
pub use zfs_volume::ZfsVolume;
pub use zpool::{Dataset, PoolMode, Zpool};

use crate::plan::DeviceRef;
use read::Object;
use serde_json::Value;

/// A layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Disks, sorted by name.
    pub disks: Vec<Disk>,
    /// Pools, sorted by name.
    pub zpools: Vec<Zpool>,
    canonical: String,
}

impl Layout {
    /// Reads a layout and checks that its parts fit together.
    pub fn parse(json: &str) -> Result<Self, LayoutError> {
        let document: Value = serde_json::from_str(json).map_err(LayoutError::Json)?;
        let mut object = Object::new(String::new(), &document)?;
        let mut disks = Vec::new();
        for (name, disk) in object.named_children("disk")? {
            disks.push(Disk::read(&name, disk)?);
        }
        let mut zpools = Vec::new();
        for (name, pool) in object.named_children("zpool")? {
            zpools.push(Zpool::read(&name, pool)?);
        }
        for later in ["bcachefs_filesystems", "lvm_vg", "mdadm", "nodev"] {
            if object.child_opt(later)?.is_some_and(|set| !set.is_empty()) {
                return Err(LayoutError::not_supported(later, format!("{later} is")));
            }
        }
        object.finish()?;
        let layout = Layout { disks, zpools, canonical: canonical::write(&document) };
        check::check(&layout)?;
        Ok(layout)
    }

    /// The document in one form for all equal documents: attributes sorted, internal ones left
    /// out, no white space.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Everything that is put onto a block device, and onto which, in the order of disko:
    /// partitions disk by disk, then volumes pool by pool, each container before what is in it.
    pub fn contents(&self) -> Vec<(DeviceRef, &Content)> {
        let mut found = Vec::new();
        for disk in &self.disks {
            for (number, partition) in (1..).zip(&disk.table.partitions) {
                let device = DeviceRef::Partition { disk: disk.name.clone(), number };
                descend(device, partition.content.as_ref(), &mut found);
            }
        }
        for pool in &self.zpools {
            for dataset in &pool.datasets {
                if let Dataset::Volume(volume) = dataset {
                    let dataset = format!("{}/{}", pool.name, volume.name);
                    let device = DeviceRef::Volume { dataset };
                    descend(device, volume.content.as_ref(), &mut found);
                }
            }
        }
        found
    }

    /// The members of a pool, in the order of disko.
    pub fn members(&self, pool: &str) -> Vec<DeviceRef> {
        self.contents()
            .into_iter()
            .filter(|(_, content)| matches!(content, Content::Zfs(member) if member.pool == pool))
            .map(|(device, _)| device)
            .collect()
    }

    /// What is mounted in the installed system, outermost first and by name at the same depth.
    pub fn mounts(&self) -> Vec<Mount<'_>> {
        let mut mounts = Vec::new();
        for (device, content) in self.contents() {
            if let Content::Filesystem(filesystem) = content
                && let Some(target) = &filesystem.mountpoint
            {
                mounts.push(Mount { target, what: Mounted::Filesystem { device, filesystem } });
            }
        }
        for pool in &self.zpools {
            for dataset in &pool.datasets {
                if let Dataset::Fs(fs) = dataset
                    && let Some(target) = &fs.mountpoint
                {
                    let name = format!("{}/{}", pool.name, fs.name);
                    mounts.push(Mount { target, what: Mounted::Dataset { name, fs } });
                }
            }
        }
        mounts.sort_by_key(|mount| {
            mount.target.split('/').filter(|p| !p.is_empty()).collect::<Vec<_>>()
        });
        mounts
    }
}

/// Something that is mounted in the installed system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Where.
    pub target: &'a str,
    /// What.
    pub what: Mounted<'a>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted<'a> {
    /// A file system on a device.
    Filesystem {
        /// The device.
        device: DeviceRef,
        /// The file system.
        filesystem: &'a Filesystem,
    },
    /// A dataset.
    Dataset {
        /// Its full name.
        name: String,
        /// The dataset.
        fs: &'a ZfsFs,
    },
}

fn descend<'a>(
    device: DeviceRef,
    content: Option<&'a Content>,
    found: &mut Vec<(DeviceRef, &'a Content)>,
) {
    let Some(content) = content else { return };
    found.push((device, content));
    if let Content::Luks(luks) = content {
        descend(DeviceRef::Mapper { name: luks.name.clone() }, luks.content.as_ref(), found);
    }
}

#[cfg(test)]
mod tests;
