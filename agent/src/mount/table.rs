//! The mount table: `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use crate::block::{DevNo, Roots};
use std::io;
use std::path::Path;

/// A line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The mount's id.
    pub id: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Device number of the file system; anonymous ones have major 0.
    pub devno: DevNo,
    /// What of the file system is mounted; `/` for all of it.
    pub root: String,
    /// Where.
    pub target: String,
    /// Type (`ext4`, `zfs`, `fuse.sshfs`).
    pub fstype: String,
    /// Source: a device, a dataset, or whatever the type uses.
    pub source: String,
    /// Options of the mount.
    pub options: Vec<String>,
    /// Options of the file system (`lowerdir=…`).
    pub super_options: Vec<String>,
}

impl MountPoint {
    /// Parses a line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let (id, parent) = (mount.next()?.parse().ok()?, mount.next()?.parse().ok()?);
        let devno = mount.next()?.parse().ok()?;
        let (root, target) = (unescape(mount.next()?), unescape(mount.next()?));
        let options = mount.next()?.split(',').map(str::to_owned).collect();
        let mut filesystem = filesystem.split(' ');
        let fstype = filesystem.next()?.to_owned();
        let source = unescape(filesystem.next()?);
        let super_options = filesystem.next().unwrap_or("").split(',').map(unescape).collect();
        Some(MountPoint { id, parent, devno, root, target, fstype, source, options, super_options })
    }

    /// Whether it is at or below a directory.
    pub fn is_below(&self, dir: &Path) -> bool {
        Path::new(&self.target).starts_with(dir)
    }
}

/// The mounts of this process' namespace, in the order they were made.
pub fn read(roots: &Roots) -> io::Result<Vec<MountPoint>> {
    let text = std::fs::read(roots.proc.join("self/mountinfo"))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Parses all lines.
pub fn parse(text: &str) -> Vec<MountPoint> {
    text.lines().filter_map(MountPoint::parse).collect()
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
28 1 0:25 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/run/live/rootfs,upperdir=/run/live/rw/upper,workdir=/run/live/rw/work
41 28 254:1 / /mnt/boot rw,relatime master:7 - vfat /dev/vda1 rw,fmask=0022
43 28 0:44 /sub\\040dir /media/a\\040b rw - btrfs /dev/vdb rw,subvol=/sub
52 28 0:51 / /mnt rw,noatime - zfs rpool/crypt/system rw,xattr,posixacl
not a line
";

    #[test]
    fn lines_are_parsed() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].fstype, "overlay");
        assert!(mounts[0].super_options.contains(&"lowerdir=/run/live/rootfs".to_owned()));
        assert_eq!(mounts[1].devno, DevNo { major: 254, minor: 1 });
        assert_eq!(
            (mounts[2].root.as_str(), mounts[2].target.as_str()),
            ("/sub dir", "/media/a b")
        );
        assert_eq!(mounts[3].source, "rpool/crypt/system");
        assert!(mounts[1].is_below(Path::new("/mnt")) && mounts[3].is_below(Path::new("/mnt")));
        assert!(!mounts[2].is_below(Path::new("/mnt")));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("tail\\04"), "tail\\04");
    }
}
