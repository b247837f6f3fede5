//! Removing what is on a disk.
//!
//! Only what makes something be recognised is removed: superblocks, headers, labels, tables. They
//! lie within the first and last [`END`] bytes of a device: ZFS labels (4 × 256 KiB), LUKS2
//! headers, RAID superblocks, both copies of a GPT.

use super::{BlockError, Device, DiskLock, Roots, probe, reread, sysfs};
use crate::ensure::Ensured;
use std::ops::Range;

/// How much of each end of a device is zeroed, in bytes.
pub const END: u64 = 4 << 20;

/// Zeroes both ends of a region of a device; all of a region that is not longer than both.
pub fn region(device: &Device, region: Range<u64>) -> Result<(), BlockError> {
    let zeroes = vec![0; 1 << 20];
    for part in ends(region) {
        let mut at = part.start;
        while at < part.end {
            let length = (part.end - at).min(zeroes.len() as u64);
            device.write_at(&zeroes[..length as usize], at)?;
            at += length;
        }
    }
    Ok(())
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
pub fn disk(roots: &Roots, disk: &str) -> Result<Ensured, BlockError> {
    let lock = DiskLock::take(roots, disk)?;
    let device = Device::open_exclusive(roots, disk)?;
    let partitions = sysfs::partitions(roots, disk);
    if partitions.is_empty() && is_blank(&device)? {
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
    for found in regions {
        let end = found.end.min(device.size());
        region(&device, found.start.min(end)..end)?;
    }
    region(&device, 0..device.size())?;
    device.sync()?;
    drop(device);
    reread::kernel(roots, &lock, disk, &[])?;
    drop(lock);
    reread::settled(roots, disk, &[])?;
    Ok(Ensured::Created)
}

/// Whether nothing can be recognised on a device.
pub fn is_blank(device: &Device) -> Result<bool, BlockError> {
    let source = probe::Source::from(device);
    let read = || Ok(probe::table(source)?.is_none() && probe::signatures(source)?.is_empty());
    read().map_err(BlockError::io("reading", device.path()))
}

/// Removes what is recognised from a partition, volume or mapper.
pub fn device(roots: &Roots, name: &str) -> Result<Ensured, BlockError> {
    let device = Device::open_exclusive(roots, name)?;
    if is_blank(&device)? {
        return Ok(Ensured::AlreadySo);
    }
    region(&device, 0..device.size())?;
    device.sync()?;
    Ok(Ensured::Created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn ends_do_not_overlap() {
        assert_eq!(ends(0..100), [0..100]);
        assert_eq!(ends(10..10 + 2 * END), [10..10 + 2 * END]);
        assert_eq!(ends(10..11 + 2 * END), [10..10 + END, 11 + END..11 + 2 * END]);
        assert!(ends(5..5).iter().all(|range| range.is_empty()));
    }
}
