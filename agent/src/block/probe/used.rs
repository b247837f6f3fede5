//! How much of a file system that is not mounted is in use, in bytes.
//!
//! What it counted when it was unmounted. One that was not, since the power failed, has not counted, and
//! nothing is said of it; nor of XFS, whose superblock does not tell whether it was.

use super::{Source, has, le16, le32, le64};

/// Of a device with a file system of that type.
pub(super) fn of(source: Source<'_>, fstype: &str) -> Option<u64> {
    let read = |offset, length| source.read(offset, length).ok();
    let used = match fstype {
        "ext2" | "ext3" | "ext4" => ext(&read(1024, 1024)?)?,
        "vfat" => {
            let head = read(0, 512)?;
            let info = u64::from(le16(&head, 48)) * u64::from(le16(&head, 11));
            fat32(&head, &read(info, 512)?)?
        }
        // Of all its devices, which may be more than this one has.
        "btrfs" => return btrfs(&read(64 * 1024, 4096)?),
        _ => return None,
    };
    (used <= source.size).then_some(used)
}

const EXT_UNMOUNTED: u16 = 0x1;
const EXT_RECOVER: u32 = 0x4;
const EXT_64BIT: u32 = 0x80;
/// The largest block, as a power of two of KiB.
const EXT_BLOCK: u32 = 6;

/// Linux' `Documentation/filesystems/ext4/super.rst`: blocks, and which of them are free.
fn ext(sb: &[u8]) -> Option<u64> {
    let (state, incompat, block) = (le16(sb, 0x3a), le32(sb, 0x60), le32(sb, 0x18));
    if state & EXT_UNMOUNTED == 0 || incompat & EXT_RECOVER != 0 || block > EXT_BLOCK {
        return None;
    }
    let count = |low: usize, high: usize| {
        let high = if incompat & EXT_64BIT != 0 { le32(sb, high) } else { 0 };
        u64::from(high) << 32 | u64::from(le32(sb, low))
    };
    count(0x4, 0x150).checked_sub(count(0xc, 0x158))?.checked_mul(1024 << block)
}

const FAT_DIRTY: u8 = 0x1;

/// What FAT32's FSInfo sector says (Microsoft's `fatgen103`, "FAT32 FSInfo Sector Structure and Backup
/// Boot Sector"; the mark of one that is mounted: Linux' `fs/fat/inode.c`). The smaller ones would have
/// to be counted.
fn fat32(head: &[u8], info: &[u8]) -> Option<u64> {
    let is_small = le16(head, 22) != 0;
    let is_info = has(info, 0, b"RRaA") && has(info, 484, b"rrAa");
    if is_small || !is_info || head.get(65)? & FAT_DIRTY != 0 {
        return None;
    }
    let (sector, per_cluster) = (u64::from(le16(head, 11)), u64::from(*head.get(13)?));
    let reserved =
        u64::from(le16(head, 14)) + u64::from(*head.get(16)?) * u64::from(le32(head, 36));
    let sectors = match le16(head, 19) {
        0 => u64::from(le32(head, 32)),
        few => u64::from(few),
    };
    let clusters = sectors.checked_sub(reserved)?.checked_div(per_cluster)?;
    Some(clusters.checked_sub(u64::from(le32(info, 488)))? * per_cluster * sector)
}

/// Linux' `include/uapi/linux/btrfs_tree.h`, `struct btrfs_super_block`: what is in use, if that is no
/// more than there is. It is written twice a minute at least.
fn btrfs(sb: &[u8]) -> Option<u64> {
    let (all, used) = (le64(sb, 0x70), le64(sb, 0x78));
    (used <= all).then_some(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run, sparse};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// What is not to be believed: not unmounted, more than there is, sizes that no file system has.
    #[test]
    fn what_is_not_to_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let image = path.to_str().unwrap();
        let altered = |fstype: &str, at: u64, bytes: &[u8]| {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut was = vec![0; bytes.len()];
            file.read_exact_at(&mut was, at).unwrap();
            file.write_all_at(bytes, at).unwrap();
            let used = of(Source::new(&file, 64 << 20, 512), fstype);
            file.write_all_at(&was, at).unwrap();
            assert!(of(Source::new(&file, 64 << 20, 512), fstype).is_some());
            used
        };
        sparse(&path, 64 << 20);
        run("e2fsprogs", "mkfs.ext4", &["-q", image]);
        for (what, at, bytes) in [
            ("not unmounted", 0x3a, &[0][..]),
            ("a journal to replay", 0x60, &[0xc6]),
            ("blocks of 2^73 bytes", 0x18, &[63]),
            ("more blocks than the device has", 0x4, &[0xff; 4]),
            ("more free than there are", 0xc, &[0xff; 4]),
        ] {
            assert_eq!(altered("ext4", 1024 + at, bytes), None, "{what}");
        }
        run("dosfstools", "mkfs.vfat", &["-F", "32", image]);
        for (what, at, bytes) in [
            ("mounted", 65, &[1][..]),
            ("clusters of nothing", 13, &[0]),
            ("FATs longer than the device", 36, &[0xff; 4]),
            ("an FSInfo that is none", 48, &[9, 0]),
            ("an FSInfo behind the device", 48, &[0xff, 0xff]),
            ("not counted", 512 + 488, &[0xff; 4]),
        ] {
            assert_eq!(altered("vfat", at, bytes), None, "{what}");
        }
        assert_eq!(of(Source::new(&File::open(&path).unwrap(), 64 << 20, 512), "xfs"), None);
    }
}
