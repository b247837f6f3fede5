//! ZFS: labels, imported pools, the module.

use crate::block::{DevNo, Roots, find, sysfs};
use crate::mount::MountPoint;
use crate::zfs::{self, LabelState};
use keystone_protocol::inventory::{
    Holder, ImportedPool, PoolState, Signature, ZFS_CACHE, ZFS_SPARE, Zfs,
};
use std::path::{Path, PathBuf};

/// A label of a vdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What it says.
    pub signature: Signature,
    /// GUID of this vdev.
    pub vdev_guid: u64,
}

/// A pool that is imported now, as ZFS has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name.
    pub name: String,
    /// Its GUID.
    pub guid: u64,
    /// `ONLINE`, `DEGRADED`, ….
    pub health: String,
    /// Its leaves: the path that the pool remembers, which may be stale, and the vdev's GUID.
    pub leaves: Vec<(Option<PathBuf>, u64)>,
}

/// ZFS, as far as an inventory asks it. The running system's is [`running`]; tests have others.
pub trait ZfsView {
    /// The module.
    fn module(&self) -> Zfs;
    /// The label of a device, if it has one that can be read.
    fn label(&self, node: &Path) -> Option<Label>;
    /// All imported pools.
    fn imported(&self) -> Vec<Imported>;
}

/// Imported pools, joined with the devices they are on.
pub struct Pools<'a> {
    roots: &'a Roots,
    zfs: &'a dyn ZfsView,
    imported: Vec<ImportedPool>,
}

impl std::fmt::Debug for Pools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").field("imported", &self.imported).finish_non_exhaustive()
    }
}

impl<'a> Pools<'a> {
    /// Asks for the imported pools and finds out which devices, volumes and mounts are theirs.
    pub fn find(roots: &'a Roots, zfs: &'a dyn ZfsView, mounts: &[MountPoint]) -> Self {
        let imported = zfs.imported();
        let volumes = if imported.is_empty() { Vec::new() } else { find::zvols(roots) };
        let imported = imported
            .into_iter()
            .map(|pool| ImportedPool {
                devices: devices(roots, zfs, &pool),
                volumes: volumes
                    .iter()
                    .filter(|(_, dataset)| is_of(dataset, &pool.name))
                    .cloned()
                    .collect(),
                mounts: mounts
                    .iter()
                    .filter(|mount| mount.fstype == "zfs" && is_of(&mount.source, &pool.name))
                    .map(|mount| mount.target.clone())
                    .collect(),
                name: pool.name,
                guid: pool.guid.to_string(),
                health: pool.health,
            })
            .collect();
        Pools { roots, zfs, imported }
    }

    /// The label of the device `name`.
    pub fn label(&self, name: &str) -> Option<Label> {
        self.zfs.label(&self.roots.node(name))
    }

    /// The imported pool that has the device `name`.
    pub fn holder_of(&self, name: &str) -> Option<Holder> {
        let pool = self.imported.iter().find(|pool| pool.devices.iter().any(|d| d == name))?;
        Some(Holder::Pool { name: pool.name.clone(), guid: pool.guid.clone() })
    }

    /// Devices of the pool that a dataset is of.
    pub fn devices_of(&self, dataset: &str) -> &[String] {
        let pool = self.imported.iter().find(|pool| is_of(dataset, &pool.name));
        pool.map_or(&[], |pool| &pool.devices)
    }

    /// The pools alone.
    pub fn into_imported(self) -> Vec<ImportedPool> {
        self.imported
    }
}

/// Kernel names of a pool's leaves. A path that the pool remembers is believed only if the label
/// behind it is that leaf's; otherwise all devices are searched for the label.
fn devices(roots: &Roots, zfs: &dyn ZfsView, pool: &Imported) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut everything: Option<Vec<(String, u64)>> = None;
    for (path, guid) in &pool.leaves {
        let remembered = path.as_deref().and_then(|path| {
            let name = sysfs::name_of(roots, DevNo::of_node(path)?)?;
            (zfs.label(&roots.node(&name))?.vdev_guid == *guid).then_some(name)
        });
        let name = remembered.or_else(|| {
            let labels = everything.get_or_insert_with(|| all_labels(roots, zfs));
            labels.iter().find(|(_, label)| label == guid).map(|(name, _)| name.clone())
        });
        // Better a name that stands for nothing than a pool that seems to live nowhere.
        let unknown = || path.as_ref().map(|path| path.display().to_string());
        found.extend(name.or_else(unknown));
    }
    found.sort();
    found.dedup();
    found
}

fn all_labels(roots: &Roots, zfs: &dyn ZfsView) -> Vec<(String, u64)> {
    let mut labels = Vec::new();
    for disk in sysfs::whole_devices(roots) {
        // Partitions first: the last one's labels may lie where the disk's would.
        let partitions =
            sysfs::partitions(roots, &disk).into_iter().map(|partition| partition.name);
        for name in partitions.chain([disk.clone()]) {
            if let Some(label) = zfs.label(&roots.node(&name)) {
                labels.push((name, label.vdev_guid));
            }
        }
    }
    labels
}

/// Whether a dataset, volume or snapshot is of a pool.
fn is_of(dataset: &str, pool: &str) -> bool {
    dataset.strip_prefix(pool).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@']))
}

/// ZFS of the running system.
#[derive(Debug)]
pub struct Running(Result<zfs::Zfs, zfs::Error>);

/// Opens `/dev/zfs`, which makes the kernel load the module if it has one.
pub fn running() -> Running {
    Running(zfs::Zfs::open())
}

impl ZfsView for Running {
    fn module(&self) -> Zfs {
        match &self.0 {
            Ok(_) => Zfs {
                module: zfs::module_version(),
                problem: None,
                features: zfs::module_features().unwrap_or_default(),
            },
            Err(error) => {
                Zfs { module: None, problem: Some(sentence(error)), features: Vec::new() }
            }
        }
    }

    fn label(&self, node: &Path) -> Option<Label> {
        let read = zfs::read_label(node)
            .inspect_err(|error| tracing::warn!(%error, node = %node.display(), "no ZFS label"));
        Label::of(read.ok()??)
    }

    fn imported(&self) -> Vec<Imported> {
        let Ok(zfs) = &self.0 else { return Vec::new() };
        let pools = zfs.imported_pools().unwrap_or_else(|error| {
            tracing::warn!(%error, "the imported pools can't be listed");
            Vec::new()
        });
        pools
            .into_iter()
            .map(|pool| Imported {
                name: pool.name,
                guid: pool.guid,
                health: pool.health,
                leaves: pool.leaves.into_iter().map(|leaf| (leaf.path, leaf.guid)).collect(),
            })
            .collect()
    }
}

/// An error with its causes, in one sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

impl Label {
    fn of(label: zfs::Label) -> Option<Self> {
        let state = match label.state {
            LabelState::Active => PoolState::Active,
            LabelState::Exported => PoolState::Exported,
            LabelState::Destroyed => PoolState::Destroyed,
            LabelState::Spare | LabelState::Cache => {
                let name = if label.state == LabelState::Spare { ZFS_SPARE } else { ZFS_CACHE };
                let signature = Signature::Other { name: name.to_owned() };
                return Some(Label { signature, vdev_guid: label.vdev_guid });
            }
        };
        let signature = Signature::ZfsMember {
            pool: label.pool?,
            guid: label.pool_guid?.to_string(),
            hostname: label.hostname,
            hostid: label.hostid,
            state,
            txg: label.txg,
            written: label.written,
        };
        Some(Label { signature, vdev_guid: label.vdev_guid })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;
    use crate::mount::table;
    use std::collections::BTreeMap;

    /// ZFS with given labels and pools.
    #[derive(Debug, Default)]
    pub(in crate::inventory) struct Given {
        pub(in crate::inventory) labels: BTreeMap<PathBuf, Label>,
        pub(in crate::inventory) imported: Vec<Imported>,
    }

    impl ZfsView for Given {
        fn module(&self) -> Zfs {
            Zfs { module: None, problem: None, features: Vec::new() }
        }

        fn label(&self, node: &Path) -> Option<Label> {
            self.labels.get(node).cloned()
        }

        fn imported(&self) -> Vec<Imported> {
            self.imported.clone()
        }
    }

    fn label(vdev_guid: u64) -> Label {
        let signature = Signature::ZfsMember {
            pool: "rpool".into(),
            guid: "9".into(),
            hostname: None,
            hostid: None,
            state: PoolState::Active,
            txg: 4,
            written: None,
        };
        Label { signature, vdev_guid }
    }

    #[test]
    fn leaves_are_found_by_label_whatever_the_pool_remembers() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[
                ("sys/block/vda/dev", "254:0"),
                ("sys/class/block/vda/dev", "254:0"),
                ("sys/class/block/vda/vda2/partition", "2"),
                ("sys/class/block/vda/vda2/start", "2048"),
                ("sys/class/block/vda/vda2/size", "2048"),
                ("sys/class/block/vda/vda2/dev", "254:2"),
            ],
        );
        let roots = Roots::below(root.path());
        let zfs = Given {
            labels: [(roots.node("vda2"), label(7))].into(),
            imported: vec![Imported {
                name: "rpool".into(),
                guid: 9,
                health: "ONLINE".into(),
                leaves: vec![
                    (Some("/dev/disk/by-partlabel/disk-root-zfs".into()), 7),
                    (Some("/dev/gone".into()), 8),
                ],
            }],
        };
        let mounts = table::parse(
            "50 1 0:50 / /mnt rw - zfs rpool/crypt/system rw\n51 1 0:51 / /data rw - zfs rpool2 rw\n",
        );
        let pools = Pools::find(&roots, &zfs, &mounts);
        let holder = Holder::Pool { name: "rpool".into(), guid: "9".into() };
        assert_eq!(pools.holder_of("vda2"), Some(holder));
        assert_eq!(pools.holder_of("vda"), None);
        assert_eq!(pools.devices_of("rpool/crypt"), ["/dev/gone", "vda2"]);
        assert!(pools.devices_of("rpool2").is_empty());
        assert_eq!(pools.into_imported()[0].mounts, ["/mnt"]);
    }
}
