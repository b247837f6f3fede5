//! The layout language: disko's `disko.devices` as JSON.
//!
//! `nix eval --json …config.disko.devices`, internal attributes dropped, is what
//! [`Layout::parse`] reads: every attribute that disko's types have, in disko's own meaning.
//! One module per type:
//!
//! | type | module | where |
//! |---|---|---|
//! | `disk` | [`disk`](Disk) | `disk.<name>` |
//! | `gpt` | [`gpt`](Gpt) | the `content` of a disk, RAID or container |
//! | `table` | [`table`](Table) | same |
//! | `filesystem` | [`filesystem`](Filesystem) | any `content` |
//! | `btrfs` | [`btrfs`](Btrfs) | any `content` |
//! | `swap` | [`swap`](Swap) | any `content` |
//! | `luks` | [`luks`](Luks) | any `content` |
//! | `zfs` | [`zfs`](ZfsMember) | any `content` |
//! | `zpool` | [`zpool`](Zpool), [`topology`](Topology) | `zpool.<name>` |
//! | `zfs_fs` | [`zfs_fs`](ZfsFs) | a pool's `datasets` |
//! | `zfs_volume` | [`zfs_volume`](ZfsVolume) | a pool's `datasets` |
//! | `lvm_pv`, `lvm_vg` | [`lvm`](VolumeGroup) | any `content`; `lvm_vg.<name>` |
//! | `mdraid`, `mdadm` | [`mdadm`](Array) | any `content`; `mdadm.<name>` |
//! | `nodev` | [`nodev`](Nodev) | `nodev.<mount point>` |
//!
//! Nothing is skipped: an attribute or type that is not known is refused with its place in the
//! document and the nearest known name; one that disko has and this version has not is refused
//! as not supported yet. Source of the types: disko, `lib/types/*.nix`.

mod btrfs;
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
mod hybrid;
mod luks;
mod luks_arguments;
mod lvm;
mod mdadm;
mod mount;
mod mounts;
mod nodev;
mod order;
mod parted;
pub mod partition_type;
mod path;
mod position;
mod read;
mod shell_words;
mod swap;
mod table;
mod topology;
mod zfs;
mod zfs_fs;
mod zfs_key;
mod zfs_volume;
mod zpool;

pub use btrfs::{Btrfs, Subvolume, SwapFile};
pub use content::Content;
pub use credstore::CredstoreKey;
pub use disk::Disk;
pub use error::LayoutError;
pub use filesystem::{Filesystem, Format};
pub use fstab::{Disagreement, agrees_with_fstab};
pub use gpt::{Gpt, Hybrid, MAX_LABEL_UNITS, Partition};
pub use hooks::Hooks;
pub use luks::{Luks, LuksKey};
pub use lvm::{LogicalVolume, PhysicalVolume, VolumeGroup};
pub use mdadm::{Array, ArrayMember};
pub use mounts::{Mount, Mounted};
pub use nodev::Nodev;
pub use order::{Placed, Root};
pub use parted::{Limit, Unit};
pub use position::{Anchor, Position};
pub use swap::Swap;
pub use table::{Kind, Table, TablePartition};
pub use topology::{PoolMode, Topology, TopologyVdev, VdevMode};
pub use zfs::ZfsMember;
pub use zfs_fs::ZfsFs;
pub use zfs_key::ZfsKey;
pub use zfs_volume::ZfsVolume;
pub use zpool::{Dataset, Zpool};

use crate::plan::{DeviceRef, HookKind, HookPlan};
use read::Object;
use serde_json::Value;

/// A layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Disks, sorted by name.
    pub disks: Vec<Disk>,
    /// Volume groups, sorted by name.
    pub groups: Vec<VolumeGroup>,
    /// RAIDs, sorted by name.
    pub arrays: Vec<Array>,
    /// File systems without a device, sorted by name.
    pub nodevs: Vec<Nodev>,
    /// Pools, sorted by name.
    pub zpools: Vec<Zpool>,
    order: Vec<Root>,
    canonical: String,
}

impl Layout {
    /// Reads a layout and checks that its parts fit together.
    pub fn parse(json: &str) -> Result<Self, LayoutError> {
        let document: Value = serde_json::from_str(json).map_err(LayoutError::Json)?;
        let mut object = Object::new(String::new(), &document)?;
        let mut layout = Layout {
            disks: read_all(&mut object, "disk", Disk::read)?,
            groups: read_all(&mut object, "lvm_vg", VolumeGroup::read)?,
            arrays: read_all(&mut object, "mdadm", Array::read)?,
            nodevs: read_all(&mut object, "nodev", Nodev::read)?,
            zpools: read_all(&mut object, "zpool", Zpool::read)?,
            order: Vec::new(),
            canonical: canonical::write(&document),
        };
        for later in ["bcache", "bcachefs_filesystems"] {
            if object.child_opt(later)?.is_some_and(|set| !set.is_empty()) {
                return Err(LayoutError::not_supported(later, format!("{later} is")));
            }
        }
        object.finish()?;
        layout.order = order::order(&layout)?;
        check::check(&layout)?;
        Ok(layout)
    }

    /// The document in one form for all equal documents: attributes sorted, internal ones left
    /// out, no white space.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// What is at the layout's top, in the order in which disko makes it.
    pub fn order(&self) -> &[Root] {
        &self.order
    }

    /// Everything that is put onto a block device, and onto which, in the order of disko, each
    /// container before what is in it.
    pub fn placed(&self) -> Vec<Placed<'_>> {
        self.order.iter().flat_map(|root| self.contents_of(*root)).collect()
    }

    /// As [`Layout::placed`], without the hooks.
    pub fn contents(&self) -> Vec<(DeviceRef, &Content)> {
        self.placed().into_iter().map(|placed| (placed.device, placed.content)).collect()
    }

    /// What is put onto the devices of one root, and what is in that.
    pub fn contents_of(&self, root: Root) -> Vec<Placed<'_>> {
        let mut found = Vec::new();
        match root {
            Root::Disk(index) => {
                let disk = &self.disks[index];
                let device = DeviceRef::Disk { disk: disk.name.clone() };
                descend(device, disk.content.as_ref(), vec![&disk.hooks], &mut found);
            }
            Root::Array(index) => {
                let array = &self.arrays[index];
                let device = DeviceRef::Array { name: array.name.clone() };
                descend(device, array.content.as_ref(), vec![&array.hooks], &mut found);
            }
            Root::Group(index) => {
                let group = &self.groups[index];
                for volume in &group.volumes {
                    let (group_name, name) = (group.name.clone(), volume.name.clone());
                    let device = DeviceRef::LogicalVolume { group: group_name, name };
                    descend(device, volume.content.as_ref(), vec![&group.hooks], &mut found);
                }
            }
            Root::Pool(index) => {
                let pool = &self.zpools[index];
                for dataset in &pool.datasets {
                    if let Dataset::Volume(volume) = dataset {
                        let device = DeviceRef::Volume { dataset: pool.full_name(&volume.name) };
                        let hooks = vec![&pool.hooks, &volume.hooks];
                        descend(device, volume.content.as_ref(), hooks, &mut found);
                    }
                }
            }
            Root::Nodev(_) => {}
        }
        found
    }

    /// The members of a pool, in the order of disko.
    pub fn members(&self, pool: &str) -> Vec<DeviceRef> {
        self.devices_with(|content| matches!(content, Content::Zfs(zfs) if zfs.pool == pool))
    }

    /// The members of a pool that hold its data: vdevs for data, log, metadata, deduplication.
    pub fn data_members(&self, pool: &str) -> Vec<DeviceRef> {
        self.devices_with(|content| {
            matches!(content, Content::Zfs(zfs) if zfs.pool == pool && !self.is_auxiliary(zfs))
        })
    }

    /// The members of a pool that it can do without: read caches and hot spares. Their labels do
    /// not say which pool they belong to.
    pub fn auxiliary_members(&self, pool: &str) -> Vec<DeviceRef> {
        self.devices_with(|content| {
            matches!(content, Content::Zfs(zfs) if zfs.pool == pool && self.is_auxiliary(zfs))
        })
    }

    /// Whether a member is a read cache or hot spare of its pool.
    pub fn is_auxiliary(&self, member: &ZfsMember) -> bool {
        let pool = self.zpools.iter().find(|pool| pool.name == member.pool);
        let Some(PoolMode::Topology(topology)) = pool.map(|pool| &pool.mode) else { return false };
        let mut words = topology.cache.iter().chain(&topology.spare);
        words.any(|word| member.device.as_ref() == Some(&member_path(word)))
    }

    /// The physical volumes of a volume group, in the order of disko.
    pub fn physical_volumes(&self, group: &str) -> Vec<DeviceRef> {
        self.devices_with(
            |content| matches!(content, Content::PhysicalVolume(volume) if volume.group == group),
        )
    }

    /// The members of a RAID, in the order of disko.
    pub fn array_members(&self, array: &str) -> Vec<DeviceRef> {
        self.devices_with(
            |content| matches!(content, Content::ArrayMember(member) if member.array == array),
        )
    }

    /// The member of a pool that its topology calls `word`: by its path, or by the name of a disk
    /// whose partition is labelled `disk-NAME-zfs`. Source: disko lib/types/zpool.nix.
    pub fn member(&self, pool: &str, word: &str) -> Option<DeviceRef> {
        let path = member_path(word);
        let is_it = |content: &Content| match content {
            Content::Zfs(zfs) => zfs.pool == pool && zfs.device.as_ref() == Some(&path),
            _ => false,
        };
        self.devices_with(is_it).into_iter().next()
    }

    fn devices_with(&self, is_it: impl Fn(&Content) -> bool) -> Vec<DeviceRef> {
        let contents = self.contents().into_iter();
        contents.filter(|(_, content)| is_it(content)).map(|(device, _)| device).collect()
    }

    /// The partitions of all GPTs, wherever they are.
    pub fn partitions(&self) -> Vec<(DeviceRef, &Partition)> {
        let mut found = Vec::new();
        for (device, content) in self.contents() {
            if let Content::Gpt(gpt) = content {
                found.extend((1..).zip(&gpt.partitions).map(|(n, p)| (device.partition(n), p)));
            }
        }
        found
    }

    /// All hooks of those kinds.
    pub fn hooks(&self, kinds: &[HookKind]) -> Vec<HookPlan> {
        let mut all: Vec<&Hooks> = Vec::new();
        all.extend(self.disks.iter().map(|disk| &disk.hooks));
        all.extend(self.groups.iter().map(|group| &group.hooks));
        all.extend(self.arrays.iter().map(|array| &array.hooks));
        all.extend(self.nodevs.iter().map(|nodev| &nodev.hooks));
        for pool in &self.zpools {
            all.push(&pool.hooks);
            all.extend(pool.datasets.iter().map(Dataset::hooks));
        }
        all.extend(self.contents().into_iter().map(|(_, content)| content.hooks()));
        all.into_iter()
            .flat_map(|hooks| kinds.iter().filter_map(|kind| hooks.hook(*kind)))
            .collect()
    }

    /// The device that an open container is on.
    pub fn below(&self, container: &str) -> Option<DeviceRef> {
        self.devices_with(|content| matches!(content, Content::Luks(l) if l.name == container))
            .into_iter()
            .next()
    }

    /// What is mounted in the installed system, outermost first and by name at the same depth.
    pub fn mounts(&self) -> Vec<Mount<'_>> {
        mounts::mounts(self)
    }
}

/// The path of what a topology calls `word`.
fn member_path(word: &str) -> String {
    match word.starts_with('/') {
        true => word.to_owned(),
        false => format!("/dev/disk/by-partlabel/disk-{word}-zfs"),
    }
}

/// All parts of one kind, sorted by their names.
fn read_all<T>(
    object: &mut Object<'_>,
    kind: &'static str,
    read: impl Fn(&str, Object<'_>) -> Result<T, LayoutError>,
) -> Result<Vec<T>, LayoutError> {
    object.named_children(kind)?.into_iter().map(|(name, part)| read(&name, part)).collect()
}

fn descend<'a>(
    device: DeviceRef,
    content: Option<&'a Content>,
    mut hooks: Vec<&'a Hooks>,
    found: &mut Vec<Placed<'a>>,
) {
    let Some(content) = content else { return };
    hooks.push(content.hooks());
    found.push(Placed { device: device.clone(), content, hooks: hooks.clone() });
    match content {
        Content::Luks(luks) => {
            let inner = DeviceRef::Mapper { name: luks.name.clone() };
            descend(inner, luks.content.as_ref(), hooks, found);
        }
        Content::Gpt(gpt) => {
            for (number, partition) in (1..).zip(&gpt.partitions) {
                let inner = device.partition(number);
                descend(inner, partition.content.as_ref(), hooks.clone(), found);
            }
        }
        Content::Table(table) => {
            for partition in &table.partitions {
                let inner = device.partition(partition.number);
                descend(inner, partition.content.as_ref(), hooks.clone(), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
