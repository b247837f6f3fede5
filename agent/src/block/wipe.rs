//! Removing what is on a disk.
//!
//! Only what makes something be recognised is removed: superblocks, headers, labels, tables. They
//! lie within the first and last [`END`] bytes of a device, or at [`COPIES`]:
//!
//! | what | where |
//! |---|---|
//! | GPT | first sectors, and last |
//! | ZFS labels | 4 of 256 KiB, two at either end |
//! | LUKS2 | both headers: the second begins 16 KiB to 4 MiB from the start |
//! | md | at the start, 4 KiB from it, or within the last 128 KiB |
//! | LVM | label in the first 4 sectors, metadata behind it |
//! | file systems, swap | within the first 1 MiB; bcachefs and nilfs2 also at the end |
//! | btrfs | 64 KiB from the start; copies at 64 MiB and 256 GiB |
//!
//! What was zeroed is read back, from the device and not from memory.
//!
//! Sources: libblkid (util-linux 2.40, `libblkid/src/superblocks/`), LUKS2 On-Disk Format 1.1.3
//! (section 2.1), btrfs `super-io` (`btrfs_sb_offset`).

use super::{BlockError, Device, DiskLock, Roots, ioctl, probe, reread, sysfs};
use crate::ensure::Ensured;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// How much of each end of a device is zeroed, in bytes.
pub const END: u64 = 8 << 20;

/// Where btrfs keeps copies of its superblock, in bytes from the start.
pub const COPIES: [u64; 2] = [64 << 20, 256 << 30];

/// How much is zeroed at each of [`COPIES`], in bytes.
const COPY: u64 = 4096;

/// How much a device is told to forget at a time: the kernel holds a whole request in memory.
const DISCARD: u64 = 32 << 30;

/// Zeroes both ends of a region of a device; all of a region that is not longer than both.
pub fn region(device: &Device, region: Range<u64>) -> Result<(), BlockError> {
    let zeroes = vec![0; 1 << 20];
    for part in parts(region) {
        let mut at = part.start;
        while at < part.end {
            let length = (part.end - at).min(zeroes.len() as u64);
            device.write_at(&zeroes[..length as usize], at)?;
            at += length;
        }
    }
    Ok(())
}

/// What of a region is zeroed: its ends, and where copies may lie between them.
fn parts(region: Range<u64>) -> Vec<Range<u64>> {
    let copies = COPIES.map(|offset| {
        let start = region.start.saturating_add(offset);
        start..start.saturating_add(COPY)
    });
    let inside = copies.into_iter().filter(|copy| copy.end <= region.end);
    let mut parts: Vec<Range<u64>> = inside.collect();
    parts.extend(ends(region));
    parts
}

fn ends(region: Range<u64>) -> Vec<Range<u64>> {
    if region.end - region.start <= 2 * END {
        vec![region]
    } else {
        vec![region.start..region.start + END, region.end - END..region.end]
    }
}

/// Removes everything that can be recognised from a disk and its partitions, then the table, and
/// waits until the kernel and udev have forgotten the partitions. The disk must not be in use.
///
/// With `discard` the disk is told to forget everything first, if it can be told so.
pub fn disk(roots: &Roots, disk: &str, discard: bool) -> Result<Ensured, BlockError> {
    let lock = DiskLock::take(roots, disk)?;
    let device = Device::open_exclusive(roots, disk)?;
    let partitions = sysfs::partitions(roots, disk);
    let discarded = discard && forget(roots, &device)?;
    if !discarded && partitions.is_empty() && is_empty(&device)? {
        return Ok(Ensured::AlreadySo);
    }
    // Partitions of the table on disk may be others than those the kernel knows.
    let mut regions: Vec<Range<u64>> = partitions
        .iter()
        .map(|partition| partition.start..partition.start + partition.length)
        .collect();
    if let Some(gpt) = crate::gpt::read(device.file(), device.size(), device.sector_size()) {
        regions.extend(gpt.regions());
    }
    for found in &mut regions {
        found.end = found.end.min(device.size());
        found.start = found.start.min(found.end);
    }
    regions.push(0..device.size());
    zero(&device, &regions)?;
    drop(device);
    reread::kernel(roots, &lock, disk, &[])?;
    drop(lock);
    reread::settled(roots, disk, &[])?;
    Ok(Ensured::Created)
}

/// Discards all of a device; `false` if it knows no such thing. What it reads afterwards may be
/// anything, so it is wiped all the same.
fn forget(roots: &Roots, device: &Device) -> Result<bool, BlockError> {
    if !sysfs::can_discard(roots, device.name()) {
        return Ok(false);
    }
    let mut at = 0;
    while at < device.size() {
        let length = DISCARD.min(device.size() - at);
        ioctl::discard(device.file(), at, length)
            .map_err(BlockError::io("discarding", device.path()))?;
        at += length;
    }
    Ok(true)
}

/// Whether nothing can be recognised on a device.
pub fn is_blank(device: &Device) -> Result<bool, BlockError> {
    let source = probe::Source::from(device);
    let read = || Ok(probe::table(source)?.is_none() && probe::signatures(source)?.is_empty());
    read().map_err(BlockError::io("reading", device.path()))
}

/// Whether nothing is where things are recognised: data without a known magic count too, as those
/// of a plain dm-crypt device.
fn is_empty(device: &Device) -> Result<bool, BlockError> {
    Ok(is_blank(device)? && remains(device, 0..device.size())?.is_none())
}

/// Zeroes regions of a device, and looks that it kept that.
fn zero(device: &Device, regions: &[Range<u64>]) -> Result<(), BlockError> {
    for zeroed in regions {
        region(device, zeroed.clone())?;
    }
    device.sync()?;
    is_kept(device, regions)
}

/// Reads from the device what was zeroed of its regions.
fn is_kept(device: &Device, regions: &[Range<u64>]) -> Result<(), BlockError> {
    device.forget_read()?;
    for zeroed in regions {
        if let Some(at) = remains(device, zeroed.clone())? {
            return Err(BlockError::NotWiped { device: device.name().to_owned(), at });
        }
    }
    Ok(())
}

/// Where the first byte is that is not zero, of what is zeroed of a region.
fn remains(device: &Device, region: Range<u64>) -> Result<Option<u64>, BlockError> {
    let mut bytes = vec![0; 1 << 20];
    for part in parts(region) {
        let mut at = part.start;
        while at < part.end {
            let length = (part.end - at).min(bytes.len() as u64) as usize;
            let piece = &mut bytes[..length];
            device
                .file()
                .read_exact_at(piece, at)
                .map_err(BlockError::io("reading", device.path()))?;
            if let Some(within) = piece.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + within as u64));
            }
            at += length as u64;
        }
    }
    Ok(None)
}

/// Removes what is recognised from a partition, volume or mapper.
pub fn device(roots: &Roots, name: &str) -> Result<Ensured, BlockError> {
    let device = Device::open_exclusive(roots, name)?;
    if is_blank(&device)? {
        return Ok(Ensured::AlreadySo);
    }
    let all = 0..device.size();
    zero(&device, std::slice::from_ref(&all))?;
    Ok(Ensured::Created)
}

#[cfg(test)]
mod tests;
