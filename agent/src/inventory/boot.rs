//! Which disks the running system was booted from.
//!
//! A live system shows its medium in different ways: mounted itself (`/iso`), as the file behind
//! the loop device of a squashfs, as a lower layer of an overlay, or only on the kernel's command
//! line. All are followed down to disks. A medium taken for one that is none costs a sentence; one
//! that is overlooked may be erased.

use super::pool::Pools;
use crate::block::probe::{self, Source};
use crate::block::{DevNo, Roots, sysfs};
use crate::mount::MountPoint;
use keystone_protocol::inventory::{Contents, Signature};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where live systems mount their medium and its images: NixOS, Debian, Fedora, Arch, Ubuntu; and
/// where an installed system has its boot partition.
const PLACES: [&str; 14] = [
    "/",
    "/boot",
    "/boot/efi",
    "/efi",
    "/iso",
    "/nix/store",
    "/nix/.ro-store",
    "/run/initramfs",
    "/run/live",
    "/run/rootfsbase",
    "/run/archiso",
    "/lib/live/mount",
    "/usr/lib/live/mount",
    "/cdrom",
];

/// Kernel names of the disks that the running system is on.
pub fn disks(roots: &Roots, mounts: &[MountPoint], pools: &Pools<'_>) -> BTreeSet<String> {
    let mut walk = Walk { roots, mounts, pools, seen: BTreeSet::new() };
    for mount in mounts.iter().filter(|mount| is_of_system(mount)) {
        walk.mount(mount);
    }
    if let Some(name) = named_on_command_line(roots) {
        walk.device(&name);
    }
    walk.seen.into_iter().filter_map(|name| sysfs::disk_of(roots, &name)).collect()
}

/// Whether somebody has claimed a disk who is not seen to use it, on a system that runs from
/// memory or an overlay: its medium then is mounted where only the initial RAM disk saw it.
pub fn is_hidden_medium(
    roots: &Roots,
    mounts: &[MountPoint],
    name: &str,
    contents: &Contents,
) -> bool {
    let live = mounts
        .iter()
        .any(|mount| mount.target == "/" && matches!(mount.fstype.as_str(), "overlay" | "tmpfs"));
    let used = !contents.holders.is_empty()
        || contents.partitions.iter().any(|partition| !partition.holders.is_empty());
    live && !used && is_claimed(roots, name)
}

fn is_claimed(roots: &Roots, name: &str) -> bool {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK)
        .open(roots.node(name))
        .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Mounts that belong to the running system: at a known place, or below one of a live system.
fn is_of_system(mount: &MountPoint) -> bool {
    let exact = ["/", "/boot", "/nix/store"];
    PLACES.iter().any(|place| {
        mount.target == *place || (!exact.contains(place) && mount.is_below(Path::new(place)))
    })
}

struct Walk<'a> {
    roots: &'a Roots,
    mounts: &'a [MountPoint],
    pools: &'a Pools<'a>,
    /// Kernel names of devices that were followed.
    seen: BTreeSet<String>,
}

impl Walk<'_> {
    fn mount(&mut self, mount: &MountPoint) {
        if mount.fstype == "overlay" {
            for layer in layers(&mount.super_options) {
                self.file(Path::new(&layer), Some(mount.id));
            }
            return;
        }
        if mount.fstype == "zfs" {
            for name in self.pools.devices_of(&mount.source).to_vec() {
                self.device(&name);
            }
            return;
        }
        let devno = match mount.devno.major {
            0 => DevNo::of_node(Path::new(&mount.source)),
            _ => Some(mount.devno),
        };
        if let Some(name) = devno.and_then(|devno| sysfs::name_of(self.roots, devno)) {
            self.device(&name);
        }
    }

    /// Follows a device to what it is made of.
    fn device(&mut self, name: &str) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        for slave in sysfs::slaves(self.roots, name) {
            self.device(&slave);
        }
        let whole = sysfs::disk_of(self.roots, name).unwrap_or_else(|| name.to_owned());
        if let Some(file) = sysfs::loop_file(self.roots, &whole) {
            self.file(&file, None);
        }
    }

    /// Follows a file or directory to the mount it is in; `not` is the mount that asks.
    fn file(&mut self, path: &Path, not: Option<u32>) {
        let around = self
            .mounts
            .iter()
            .filter(|mount| Some(mount.id) != not && path.starts_with(&mount.target))
            .max_by_key(|mount| (Path::new(&mount.target).components().count(), mount.id));
        // Never back to an overlay at `/`: a path of the initial RAM disk is not below it.
        if let Some(mount) = around.filter(|mount| mount.fstype != "overlay").cloned() {
            self.mount(&mount);
        }
    }
}

/// The directories that an overlay is made of.
fn layers(options: &[String]) -> Vec<String> {
    let values = options.iter().filter_map(|option| {
        let (key, value) = option.split_once('=')?;
        matches!(key, "lowerdir" | "lowerdir+" | "datadir+" | "upperdir").then_some(value)
    });
    values
        .flat_map(|value| value.split(':'))
        .filter(|layer| !layer.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The device that `root=` on the kernel's command line names.
fn named_on_command_line(roots: &Roots) -> Option<String> {
    let text = fs::read_to_string(roots.proc.join("cmdline")).ok()?;
    let wanted = Root::parse(text.split_whitespace().find_map(|word| word.strip_prefix("root="))?)?;
    let mut names = Vec::new();
    for disk in sysfs::whole_devices(roots) {
        let partitions =
            sysfs::partitions(roots, &disk).into_iter().map(|partition| partition.name);
        names.extend(partitions);
        names.push(disk);
    }
    names.into_iter().find(|name| wanted.is(roots, name))
}

/// What `root=` may name.
#[derive(Debug, PartialEq, Eq)]
enum Root<'a> {
    Label(&'a str),
    Uuid(&'a str),
    PartUuid(&'a str),
    Node(&'a Path),
}

impl<'a> Root<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix("live:").unwrap_or(text);
        let by = |kind: &str, link: &str| {
            let word = text.strip_prefix(kind).or_else(|| text.strip_prefix(link))?;
            Some(word.trim_matches('"'))
        };
        if let Some(label) = by("LABEL=", "/dev/disk/by-label/") {
            return Some(Root::Label(label));
        }
        if let Some(uuid) = by("UUID=", "/dev/disk/by-uuid/") {
            return Some(Root::Uuid(uuid));
        }
        if let Some(uuid) = by("PARTUUID=", "/dev/disk/by-partuuid/") {
            return Some(Root::PartUuid(uuid));
        }
        text.starts_with("/dev/").then(|| Root::Node(Path::new(text)))
    }

    fn is(&self, roots: &Roots, name: &str) -> bool {
        match self {
            Root::Node(path) => DevNo::of_node(path) == sysfs::devno(roots, name),
            Root::PartUuid(wanted) => sysfs::devno(roots, name)
                .and_then(|devno| crate::block::udev::record(roots, devno))
                .and_then(|record| record.get("ID_PART_ENTRY_UUID").map(str::to_owned))
                .is_some_and(|found| found.eq_ignore_ascii_case(wanted)),
            Root::Label(_) | Root::Uuid(_) => {
                filesystems(roots, name).iter().any(|signature| match (self, signature) {
                    (Root::Label(wanted), Signature::Filesystem { label: Some(label), .. }) => {
                        label == wanted
                    }
                    (Root::Uuid(wanted), Signature::Filesystem { uuid: Some(uuid), .. }) => {
                        uuid.eq_ignore_ascii_case(wanted)
                    }
                    _ => false,
                })
            }
        }
    }
}

fn filesystems(roots: &Roots, name: &str) -> Vec<Signature> {
    let options = |path| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let found = |file: File| {
        let size = sysfs::size(roots, name).unwrap_or(0);
        probe::signatures(Source::new(&file, size, 512)).unwrap_or_default()
    };
    options(roots.node(name)).map(found).unwrap_or_default()
}

#[cfg(test)]
mod tests;
