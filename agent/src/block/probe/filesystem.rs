//! File systems.

use super::{Source, has, le16, le32, text, used, uuid};
use keystone_protocol::inventory::Signature;
use std::io;

/// All file systems whose superblock is there.
pub(super) fn signatures(source: Source<'_>) -> io::Result<Vec<Signature>> {
    let head = source.read(0, 4096)?;
    let at_64k = source.read(64 * 1024, 4096)?;
    let at_32k = source.read(32 * 1024, 2048)?;
    let found = [
        ext(head.get(1024..).unwrap_or_default()),
        vfat(&head),
        xfs(&head),
        btrfs(&at_64k),
        squashfs(&head),
        iso9660(&at_32k),
        erofs(&head),
        f2fs(&head),
        bcachefs(&source.read(4096, 512)?),
        ntfs(&head),
        exfat(&head),
    ];
    let mut found: Vec<Signature> = found.into_iter().flatten().collect();
    for signature in &mut found {
        if let Signature::Filesystem { fstype, used, .. } = signature {
            *used = used::of(source, fstype);
        }
    }
    Ok(found)
}

fn filesystem(fstype: &str, label: Option<String>, uuid: Option<String>) -> Option<Signature> {
    Some(Signature::Filesystem { fstype: fstype.to_owned(), label, uuid, used: None })
}

/// Features that ext2 and ext3 know (`ext.c`: `EXT3_FEATURE_*_SUPP`).
const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
const EXT_HAS_JOURNAL: u32 = 0x4;
const EXT_JOURNAL_DEVICE: u32 = 0x8;

fn ext(sb: &[u8]) -> Option<Signature> {
    if le16(sb, 0x38) != 0xef53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(sb, 0x5c), le32(sb, 0x60), le32(sb, 0x64));
    let fstype = if incompat & EXT_JOURNAL_DEVICE != 0 {
        "jbd"
    } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & EXT_HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    filesystem(fstype, text(sb, 0x78, 16), uuid(sb, 0x68))
}

/// FAT12, FAT16 and FAT32, all mounted as `vfat`: a boot sector whose BPB makes sense.
fn vfat(head: &[u8]) -> Option<Signature> {
    if !has(head, 510, &[0x55, 0xaa]) || !matches!(head[0], 0xeb | 0xe9) {
        return None;
    }
    let (sector, cluster, fats) = (le16(head, 11), head[13], head[16]);
    let sane = sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && cluster.is_power_of_two()
        && matches!(fats, 1 | 2)
        && (head[21] == 0xf0 || head[21] >= 0xf8)
        && le16(head, 14) != 0;
    if !sane {
        return None;
    }
    // FAT32 has no 16-bit FAT length, and its extended boot record lies further on.
    let at = if le16(head, 22) == 0 { 64 } else { 36 };
    if head[at + 2] != 0x29 {
        return filesystem("vfat", None, None);
    }
    let label = text(head, at + 7, 11).filter(|label| label != "NO NAME");
    let id = le32(head, at + 3);
    filesystem("vfat", label, Some(format!("{:04X}-{:04X}", id >> 16, id & 0xffff)))
}

fn xfs(head: &[u8]) -> Option<Signature> {
    has(head, 0, b"XFSB").then(|| filesystem("xfs", text(head, 108, 12), uuid(head, 32)))?
}

fn btrfs(sb: &[u8]) -> Option<Signature> {
    has(sb, 0x40, b"_BHRfS_M").then(|| filesystem("btrfs", text(sb, 0x12b, 256), uuid(sb, 0x20)))?
}

fn squashfs(head: &[u8]) -> Option<Signature> {
    has(head, 0, b"hsqs").then(|| filesystem("squashfs", None, None))?
}

/// ECMA-119: the primary volume descriptor is at sector 16 of 2048 bytes. The UUID is the
/// modification time, else the creation time, as libblkid writes it.
fn iso9660(descriptor: &[u8]) -> Option<Signature> {
    if !has(descriptor, 1, b"CD001") {
        return None;
    }
    let time = |at: usize| {
        let digits = std::str::from_utf8(descriptor.get(at..at + 16)?).ok()?;
        let real = digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.bytes().any(|byte| byte != b'0');
        real.then(|| {
            let d = |from: usize, to: usize| &digits[from..to];
            let (day, clock) = ((d(0, 4), d(4, 6), d(6, 8)), (d(8, 10), d(10, 12), d(12, 14)));
            format!(
                "{}-{}-{}-{}-{}-{}-{}",
                day.0,
                day.1,
                day.2,
                clock.0,
                clock.1,
                clock.2,
                d(14, 16)
            )
        })
    };
    filesystem("iso9660", text(descriptor, 40, 32), time(830).or_else(|| time(813)))
}

fn erofs(head: &[u8]) -> Option<Signature> {
    let magic = has(head, 1024, &0xe0f5_e1e2_u32.to_le_bytes());
    magic.then(|| filesystem("erofs", text(head, 1024 + 64, 16), uuid(head, 1024 + 48)))?
}

fn f2fs(head: &[u8]) -> Option<Signature> {
    let magic = has(head, 1024, &0xf2f5_2010_u32.to_le_bytes());
    magic.then(|| filesystem("f2fs", None, uuid(head, 1024 + 108)))?
}

fn bcachefs(sb: &[u8]) -> Option<Signature> {
    const MAGICS: [&[u8; 16]; 2] = [
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ];
    let magic = MAGICS.iter().any(|magic| has(sb, 24, *magic));
    magic.then(|| filesystem("bcachefs", text(sb, 72, 32), uuid(sb, 56)))?
}

fn ntfs(head: &[u8]) -> Option<Signature> {
    has(head, 3, b"NTFS    ").then(|| filesystem("ntfs", None, None))?
}

fn exfat(head: &[u8]) -> Option<Signature> {
    has(head, 3, b"EXFAT   ").then(|| filesystem("exfat", None, None))?
}
