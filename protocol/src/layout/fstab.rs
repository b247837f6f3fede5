//! Whether a system's `etc/fstab` describes the disks that the layout makes.
//!
//! A system built for one layout and installed on another does not boot, and that is seen only
//! afterwards. So both are compared before anything is written.

use super::{Layout, Mount};
use crate::options::FstabEntry;
use thiserror::Error;

/// A point on which fstab and layout differ.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Disagreement {
    /// The layout mounts something where fstab has nothing.
    #[error("the layout mounts {source_name} at {target}, the system's fstab has nothing there")]
    NotInFstab {
        /// Where.
        target: String,
        /// What the layout mounts.
        source_name: String,
    },
    /// fstab mounts something that the layout does not make, and booting waits for it.
    #[error("the system's fstab mounts {source_name} at {target}, the layout makes nothing for it")]
    NotInLayout {
        /// Where.
        target: String,
        /// What fstab mounts.
        source_name: String,
    },
    /// Both mount something there, of different types.
    #[error("at {target} the layout makes {layout}, the system's fstab expects {fstab}")]
    Type {
        /// Where.
        target: String,
        /// The layout's file system type.
        layout: String,
        /// The one in fstab.
        fstab: String,
    },
    /// Both mount something there, from different devices.
    #[error("at {target} the layout mounts {layout}, the system's fstab expects {fstab}")]
    Device {
        /// Where.
        target: String,
        /// The layout's device or dataset.
        layout: String,
        /// The one in fstab.
        fstab: String,
    },
    /// fstab names a device by something that is drawn anew when it is formatted.
    #[error(
        "at {target} the system's fstab expects {fstab}, which is drawn anew when the layout's \
         {layout} is formatted"
    )]
    Drawn {
        /// Where.
        target: String,
        /// The layout's device.
        layout: String,
        /// The one in fstab.
        fstab: String,
    },
}

/// File systems without a device of their own, and those of other machines.
const WITHOUT_DISK: &[&str] = &[
    "autofs",
    "bpf",
    "cgroup",
    "cgroup2",
    "cifs",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse",
    "hugetlbfs",
    "mqueue",
    "nfs",
    "nfs4",
    "none",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "securityfs",
    "smb3",
    "sysfs",
    "tmpfs",
    "tracefs",
    "virtiofs",
    "9p",
];

/// Compares the two: mount points, devices and types of everything that is on a disk. Swap is
/// not compared (its device may be a mapper that only the system makes), nor is what has no disk.
pub fn agrees_with_fstab(layout: &Layout, fstab: &[FstabEntry]) -> Vec<Disagreement> {
    let mounts = layout.mounts();
    let mut found = Vec::new();
    for mount in &mounts {
        match fstab.iter().find(|entry| plain(&entry.target) == mount.target) {
            Some(entry) => found.extend(compare(layout, mount, entry)),
            None => found.push(Disagreement::NotInFstab {
                target: mount.target.to_owned(),
                source_name: mount.source(),
            }),
        }
    }
    for entry in fstab.iter().filter(|entry| is_on_disk(entry) && is_waited_for(entry)) {
        let target = plain(&entry.target);
        if !mounts.iter().any(|mount| mount.target == target) {
            found.push(Disagreement::NotInLayout {
                target: target.to_owned(),
                source_name: entry.source.clone(),
            });
        }
    }
    found
}

fn compare(layout: &Layout, mount: &Mount<'_>, entry: &FstabEntry) -> Option<Disagreement> {
    let target = mount.target.to_owned();
    let fstype = mount.fstype();
    if entry.fstype != fstype && entry.fstype != "auto" {
        return Some(Disagreement::Type {
            target,
            layout: fstype.to_owned(),
            fstab: entry.fstype.clone(),
        });
    }
    let (wanted, fstab) = (mount.source(), entry.source.clone());
    let named = match mount.device() {
        None => Named::As(fstab.clone()),
        Some(_) => named(&fstab),
    };
    match named {
        Named::As(device) if device == wanted || alias(layout, &wanted).contains(&device) => None,
        Named::As(_) => Some(Disagreement::Device { target, layout: wanted, fstab }),
        Named::Drawn => Some(Disagreement::Drawn { target, layout: wanted, fstab }),
    }
}

/// How fstab names a device.
enum Named {
    /// By a path that the layout decides.
    As(String),
    /// By something that formatting draws.
    Drawn,
}

/// A source of fstab(5) as the link below `/dev/disk` that it stands for.
fn named(source: &str) -> Named {
    let unquoted = |value: &str| value.trim_matches('"').to_owned();
    match source.split_once('=') {
        Some(("PARTLABEL", label)) => {
            Named::As(format!("/dev/disk/by-partlabel/{}", unquoted(label)))
        }
        Some(("PARTUUID", guid)) => {
            Named::As(format!("/dev/disk/by-partuuid/{}", unquoted(guid).to_lowercase()))
        }
        Some(("UUID" | "LABEL", _)) => Named::Drawn,
        _ if source.starts_with("/dev/disk/by-uuid/")
            || source.starts_with("/dev/disk/by-label/") =>
        {
            Named::Drawn
        }
        _ => Named::As(source.to_owned()),
    }
}

/// Other links to the partition that the layout knows as `device`.
fn alias(layout: &Layout, device: &str) -> Vec<String> {
    layout
        .partitions()
        .into_iter()
        .filter(|(_, partition)| partition.device == device)
        .flat_map(|(_, partition)| {
            let by_guid = partition
                .guid
                .as_ref()
                .map(|guid| format!("/dev/disk/by-partuuid/{}", guid.to_lowercase()));
            [Some(format!("/dev/disk/by-partlabel/{}", partition.label)), by_guid]
        })
        .flatten()
        .collect()
}

fn is_on_disk(entry: &FstabEntry) -> bool {
    let bound = entry.options.iter().any(|option| option == "bind" || option == "rbind");
    let has_device =
        entry.source.starts_with("/dev/") || entry.source.contains('=') || entry.fstype == "zfs";
    !bound
        && has_device
        && entry.fstype != "swap"
        && !WITHOUT_DISK.contains(&entry.fstype.as_str())
        && !entry.fstype.starts_with("fuse.")
}

/// Whether the boot fails without it.
fn is_waited_for(entry: &FstabEntry) -> bool {
    !entry.options.iter().any(|option| option == "nofail" || option == "noauto")
}

/// A mount point without a slash at its end.
fn plain(target: &str) -> &str {
    match target.trim_end_matches('/') {
        "" => "/",
        target => target,
    }
}
