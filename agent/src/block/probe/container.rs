//! What is no file system itself: LUKS, LVM, RAID, swap, ZFS.

use super::{Source, ZFS_MEMBER, has, le32, text};
use keystone_protocol::inventory::Signature;
use std::io;

/// All of them that are there.
pub(super) fn signatures(source: Source<'_>) -> io::Result<Vec<Signature>> {
    let head = source.read(0, 4096)?;
    let mut found = Vec::new();
    found.extend(luks(&head));
    if lvm(&head) {
        found.push(Signature::Lvm);
    }
    if md(source)? {
        found.push(Signature::MdRaid);
    }
    if swap(source)? {
        found.push(Signature::Swap);
    }
    if zfs(source)? {
        found.push(Signature::Other { name: ZFS_MEMBER.to_owned() });
    }
    if source.read(source.size.saturating_sub(1024), 24)?.starts_with(b"Intel Raid ISM Cfg Sig.") {
        found.push(Signature::Other { name: "isw_raid_member".to_owned() });
    }
    Ok(found)
}

/// LUKS1 and LUKS2 ("LUKS2 On-Disk Format Specification" 1.1.2, section 2.1).
fn luks(head: &[u8]) -> Option<Signature> {
    if !has(head, 0, b"LUKS\xba\xbe") {
        return None;
    }
    let version = u32::from(u16::from_be_bytes([head[6], head[7]]));
    let label = if version == 2 { text(head, 24, 48) } else { None };
    Some(Signature::Luks { version, uuid: text(head, 168, 40), label })
}

/// The physical volume's label is in one of the first four sectors.
fn lvm(head: &[u8]) -> bool {
    (0..4).any(|n| has(head, n * 512, b"LABELONE") && has(head, n * 512 + 24, b"LVM2 001"))
}

/// Linux software RAID: 1.1 at the start, 1.2 at 4 KiB, 1.0 and 0.90 near the end.
fn md(source: Source<'_>) -> io::Result<bool> {
    const MAGIC: u32 = 0xa92b_4efc;
    let at_end_1_0 = (source.size & !511).saturating_sub(8192) & !4095;
    let at_end_0_90 = (source.size & !0xffff).saturating_sub(0x1_0000);
    for offset in [0, 4096, at_end_1_0, at_end_0_90] {
        let sb = source.read(offset, 4)?;
        if sb.len() == 4 && le32(&sb, 0) == MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The magic ends the first page; pages are 4 to 64 KiB.
fn swap(source: Source<'_>) -> io::Result<bool> {
    for page in [4096u64, 8192, 16384, 32768, 65536] {
        let magic = source.read(page - 10, 10)?;
        if magic == b"SWAPSPACE2" || magic == b"SWAP-SPACE" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// ZFS: four labels of 256 KiB, two at the start and two at the end, each with a ring of
/// uberblocks in its second half (OpenZFS `include/sys/vdev_impl.h`, `uberblock_impl.h`).
fn zfs(source: Source<'_>) -> io::Result<bool> {
    const LABEL: u64 = 256 * 1024;
    const RING: usize = 128 * 1024;
    const MAGIC: u64 = 0x00ba_b10c;
    let end = source.size & !(LABEL - 1);
    for label in [0, LABEL, end.saturating_sub(2 * LABEL), end.saturating_sub(LABEL)] {
        let ring = source.read(label + LABEL / 2, RING)?;
        let magic =
            |slot: &[u8]| has(slot, 0, &MAGIC.to_le_bytes()) || has(slot, 0, &MAGIC.to_be_bytes());
        if ring.chunks(1024).any(magic) {
            return Ok(true);
        }
    }
    Ok(false)
}
