//! The kernel's view of block devices: `/sys/class/block`, `/sys/block`.
//!
//! The formats are those of `Documentation/ABI/stable/sysfs-block`. `start` and `size` count 512
//! bytes whatever the device's sectors are.

use super::{DevNo, Roots};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A partition as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPartition {
    /// Number in the table.
    pub number: u32,
    /// Kernel name.
    pub name: String,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Device number.
    pub devno: DevNo,
}

/// The directory of a disk or partition.
pub fn dir(roots: &Roots, name: &str) -> PathBuf {
    roots.sys.join("class/block").join(name)
}

/// An attribute of a disk or partition, trimmed; `None` if it is missing or empty.
pub fn attribute(roots: &Roots, name: &str, attribute: &str) -> Option<String> {
    let text = fs::read(dir(roots, name).join(attribute)).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A numeric attribute.
pub fn number(roots: &Roots, name: &str, attr: &str) -> Option<u64> {
    attribute(roots, name, attr)?.parse().ok()
}

/// The device number of a disk or partition.
pub fn devno(roots: &Roots, name: &str) -> Option<DevNo> {
    attribute(roots, name, "dev")?.parse().ok()
}

/// Size in bytes.
pub fn size(roots: &Roots, name: &str) -> Option<u64> {
    number(roots, name, "size")?.checked_mul(512)
}

/// All whole block devices (`/sys/block`), sorted: disks, but also loop, dm, md, zd, zram.
pub fn whole_devices(roots: &Roots) -> Vec<String> {
    names_in(roots.sys.join("block"))
}

/// Partitions of a whole device, by number.
pub fn partitions(roots: &Roots, disk: &str) -> Vec<KernelPartition> {
    let mut partitions: Vec<_> = names_in(dir(roots, disk))
        .into_iter()
        .filter_map(|name| {
            let attr = |attr: &str| {
                let path = dir(roots, disk).join(&name).join(attr);
                Some(fs::read_to_string(path).ok()?.trim().to_owned())
            };
            Some(KernelPartition {
                number: attr("partition")?.parse().ok()?,
                start: attr("start")?.parse::<u64>().ok()?.checked_mul(512)?,
                length: attr("size")?.parse::<u64>().ok()?.checked_mul(512)?,
                devno: attr("dev")?.parse().ok()?,
                name,
            })
        })
        .collect();
    partitions.sort_by_key(|partition| partition.number);
    partitions
}

/// The disk a partition is on; a whole device is its own.
pub fn disk_of(roots: &Roots, name: &str) -> Option<String> {
    let whole = whole_devices(roots);
    if whole.iter().any(|disk| disk == name) {
        return Some(name.to_owned());
    }
    whole.into_iter().find(|disk| dir(roots, disk).join(name).join("partition").exists())
}

/// Kernel name of a device number.
pub fn name_of(roots: &Roots, devno: DevNo) -> Option<String> {
    names_in(roots.sys.join("class/block"))
        .into_iter()
        .find(|name| self::devno(roots, name) == Some(devno))
}

/// Kernel names of the devices made of this one (dm, md, bcache).
pub fn holders(roots: &Roots, name: &str) -> Vec<String> {
    names_in(dir(roots, name).join("holders"))
}

/// Kernel names of the devices this one is made of.
pub fn slaves(roots: &Roots, name: &str) -> Vec<String> {
    names_in(dir(roots, name).join("slaves"))
}

/// The disks that a device lies on in the end: through mappers and RAIDs, down to what is made of
/// nothing else. A disk or partition lies on its disk.
pub fn disks_below(roots: &Roots, name: &str) -> BTreeSet<String> {
    let slaves = slaves(roots, name);
    if slaves.is_empty() {
        // A partition of something that has slaves itself lies on those.
        return match disk_of(roots, name) {
            Some(disk) if disk != name => disks_below(roots, &disk),
            Some(disk) => BTreeSet::from([disk]),
            None => BTreeSet::from([name.to_owned()]),
        };
    }
    slaves.iter().flat_map(|slave| disks_below(roots, slave)).collect()
}

/// A device-mapper device's name, if it is one.
pub fn mapper_name(roots: &Roots, name: &str) -> Option<String> {
    attribute(roots, name, "dm/name")
}

/// The file behind a loop device, if it is one in use.
pub fn loop_file(roots: &Roots, name: &str) -> Option<PathBuf> {
    attribute(roots, name, "loop/backing_file").map(PathBuf::from)
}

fn names_in(dir: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Whether a device can be told to forget what is on it.
pub fn can_discard(roots: &Roots, name: &str) -> bool {
    number(roots, name, "queue/discard_max_bytes").is_some_and(|most| most > 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// Writes files below `root`, making directories.
    pub(crate) fn tree(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn what_lies_on_several_disks_lies_on_all_of_them() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[
                ("sys/block/vda/vda1/partition", "1"),
                ("sys/block/vdb/vdb1/partition", "1"),
                ("sys/block/md127/slaves/dm-0/x", ""),
                ("sys/block/md127/slaves/vdb1/x", ""),
                ("sys/block/md127/md127p1/partition", "1"),
                ("sys/block/dm-0/slaves/vda1/x", ""),
            ],
        );
        let sys = root.path().join("sys");
        fs::create_dir_all(sys.join("class/block")).unwrap();
        for (name, at) in [
            ("vda", "vda"),
            ("vda1", "vda/vda1"),
            ("vdb", "vdb"),
            ("vdb1", "vdb/vdb1"),
            ("md127", "md127"),
            ("md127p1", "md127/md127p1"),
            ("dm-0", "dm-0"),
        ] {
            symlink(sys.join("block").join(at), sys.join("class/block").join(name)).unwrap();
        }
        let roots = Roots::below(root.path());
        let below = |name| disks_below(&roots, name).into_iter().collect::<Vec<_>>();
        assert_eq!(below("md127p1"), ["vda", "vdb"]);
        assert_eq!(below("dm-0"), ["vda"]);
        assert_eq!(below("vdb1"), ["vdb"]);
    }

    #[test]
    fn a_disk_with_partitions() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[
                ("sys/devices/virtio1/block/vda/dev", "254:0\n"),
                ("sys/devices/virtio1/block/vda/size", "41943040\n"),
                ("sys/devices/virtio1/block/vda/queue/rotational", "1\n"),
                ("sys/devices/virtio1/block/vda/vda2/partition", "2\n"),
                ("sys/devices/virtio1/block/vda/vda2/start", "2099200\n"),
                ("sys/devices/virtio1/block/vda/vda2/size", "1000\n"),
                ("sys/devices/virtio1/block/vda/vda2/dev", "254:2\n"),
                ("sys/devices/virtio1/block/vda/vda1/partition", "1\n"),
                ("sys/devices/virtio1/block/vda/vda1/start", "2048\n"),
                ("sys/devices/virtio1/block/vda/vda1/size", "2097152\n"),
                ("sys/devices/virtio1/block/vda/vda1/dev", "254:1\n"),
            ],
        );
        let sys = root.path().join("sys");
        fs::create_dir_all(sys.join("class/block")).unwrap();
        fs::create_dir_all(sys.join("block")).unwrap();
        let disk = sys.join("devices/virtio1/block/vda");
        symlink(&disk, sys.join("class/block/vda")).unwrap();
        symlink(&disk, sys.join("block/vda")).unwrap();
        for part in ["vda1", "vda2"] {
            symlink(disk.join(part), sys.join("class/block").join(part)).unwrap();
        }
        let roots = Roots::below(root.path());
        let partitions = partitions(&roots, "vda");
        assert_eq!(partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(partitions[0].start, 1 << 20);
        assert_eq!(partitions[0].length, 1 << 30);
        assert_eq!(size(&roots, "vda"), Some(20 << 30));
        assert_eq!(disk_of(&roots, "vda2").as_deref(), Some("vda"));
        assert_eq!(disk_of(&roots, "vda").as_deref(), Some("vda"));
        assert_eq!(disk_of(&roots, "vdb1"), None);
        assert_eq!(name_of(&roots, "254:1".parse().unwrap()).as_deref(), Some("vda1"));
    }
}
