//! What is mounted in the installed system.

use super::{Btrfs, Content, Dataset, Filesystem, Hooks, Layout, Nodev, Placed, Subvolume, ZfsFs};
use crate::plan::DeviceRef;

/// Something that is mounted in the installed system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Where.
    pub target: &'a str,
    /// What.
    pub what: Mounted<'a>,
    /// The hooks of all that it is in, outermost first, its own last.
    pub hooks: Vec<&'a Hooks>,
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
    /// A btrfs, its top or a subvolume.
    Btrfs {
        /// The device.
        device: DeviceRef,
        /// The file system.
        btrfs: &'a Btrfs,
        /// Which subvolume; else the top.
        subvolume: Option<&'a Subvolume>,
    },
    /// A dataset.
    Dataset {
        /// Its full name.
        name: String,
        /// The dataset.
        fs: &'a ZfsFs,
    },
    /// A file system without a device.
    Nodev(&'a Nodev),
}

impl<'a> Mount<'a> {
    /// The first field that fstab(5) has for it.
    pub fn source(&self) -> String {
        match &self.what {
            Mounted::Filesystem { filesystem, .. } => filesystem.device.clone(),
            Mounted::Btrfs { btrfs, .. } => btrfs.device.clone(),
            Mounted::Dataset { name, .. } => name.clone(),
            Mounted::Nodev(nodev) => nodev.device.clone(),
        }
    }

    /// Its type, as fstab(5) has it.
    pub fn fstype(&self) -> &'a str {
        match &self.what {
            Mounted::Filesystem { filesystem, .. } => filesystem.format.name(),
            Mounted::Btrfs { .. } => "btrfs",
            Mounted::Dataset { .. } => "zfs",
            Mounted::Nodev(nodev) => &nodev.fstype,
        }
    }

    /// Its options, `defaults` left out; of a subvolume `subvol=` last.
    pub fn options(&self) -> Vec<String> {
        let (given, more) = match &self.what {
            Mounted::Filesystem { filesystem, .. } => (&filesystem.mount_options, None),
            Mounted::Btrfs { subvolume: Some(subvolume), .. } => {
                (&subvolume.mount_options, Some(format!("subvol={}", subvolume.name)))
            }
            Mounted::Btrfs { btrfs, .. } => (&btrfs.mount_options, None),
            Mounted::Dataset { fs, .. } => (&fs.mount_options, None),
            Mounted::Nodev(nodev) => (&nodev.mount_options, None),
        };
        given.iter().filter(|option| *option != "defaults").cloned().chain(more).collect()
    }

    /// The device that it is on, if it is on one.
    pub fn device(&self) -> Option<&DeviceRef> {
        match &self.what {
            Mounted::Filesystem { device, .. } | Mounted::Btrfs { device, .. } => Some(device),
            Mounted::Dataset { .. } | Mounted::Nodev(_) => None,
        }
    }

    /// Its place in the document.
    pub fn path(&self) -> &'a str {
        match &self.what {
            Mounted::Filesystem { filesystem, .. } => &filesystem.path,
            Mounted::Btrfs { subvolume: Some(subvolume), .. } => &subvolume.path,
            Mounted::Btrfs { btrfs, .. } => &btrfs.path,
            Mounted::Dataset { fs, .. } => &fs.path,
            Mounted::Nodev(nodev) => &nodev.path,
        }
    }
}

/// Everything that is mounted, outermost first and by name at the same depth.
pub(super) fn mounts(layout: &Layout) -> Vec<Mount<'_>> {
    let mut mounts = Vec::new();
    for placed in layout.placed() {
        on_device(placed, &mut mounts);
    }
    for pool in &layout.zpools {
        let datasets = pool.datasets.iter().filter_map(|dataset| match dataset {
            Dataset::Fs(fs) => Some(fs),
            Dataset::Volume(_) => None,
        });
        for fs in std::iter::once(&pool.root).chain(datasets) {
            if let Some(target) = &fs.mountpoint {
                let name = pool.full_name(&fs.name);
                let what = Mounted::Dataset { name, fs };
                mounts.push(Mount { target, what, hooks: vec![&pool.hooks, &fs.hooks] });
            }
        }
    }
    for nodev in &layout.nodevs {
        if let Some(target) = &nodev.mountpoint {
            mounts.push(Mount { target, what: Mounted::Nodev(nodev), hooks: vec![&nodev.hooks] });
        }
    }
    mounts
        .sort_by_key(|mount| mount.target.split('/').filter(|p| !p.is_empty()).collect::<Vec<_>>());
    mounts
}

fn on_device<'a>(placed: Placed<'a>, mounts: &mut Vec<Mount<'a>>) {
    let Placed { device, content, hooks } = placed;
    match content {
        Content::Filesystem(filesystem) => {
            if let Some(target) = &filesystem.mountpoint {
                let what = Mounted::Filesystem { device, filesystem };
                mounts.push(Mount { target, what, hooks });
            }
        }
        Content::Btrfs(btrfs) => {
            let subvolumes = btrfs.subvolumes.iter().map(|s| (s.mountpoint.as_ref(), Some(s)));
            for (target, subvolume) in
                std::iter::once((btrfs.mountpoint.as_ref(), None)).chain(subvolumes)
            {
                let Some(target) = target else { continue };
                let what = Mounted::Btrfs { device: device.clone(), btrfs, subvolume };
                mounts.push(Mount { target, what, hooks: hooks.clone() });
            }
        }
        _ => {}
    }
}
