//! FAT32.
//!
//! The same as `mkfs.vfat -F 32` (dosfstools 4.2) where it matters to firmware and boot loader:
//! sector size of the device, cluster size by volume size, two FATs, FSInfo in sector 1, backup
//! boot sector in sector 6, random volume id, no label. An ESP is FAT32 whatever its size (UEFI
//! 2.10, section 13.3).

use super::window::Window;
use super::{FilesystemError, is_there};
use crate::block::{BlockError, Device, DiskLock, Roots};
use crate::ensure::Ensured;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use std::io::{self, Seek, Write};

pub use keystone_planner::vfat::least_size;

/// Makes a FAT32 file system on the device `name`, unless it has one.
pub fn ensure(roots: &Roots, name: &str) -> Result<Ensured, FilesystemError> {
    let _lock = DiskLock::take(roots, name)?;
    let device = Device::open_exclusive(roots, name)?;
    if is_there(&device, "vfat")? {
        return Ok(Ensured::AlreadySo);
    }
    let least = least_size(device.sector_size());
    if device.size() < least {
        return Err(FilesystemError::TooSmall {
            device: name.to_owned(),
            fstype: "FAT32",
            size: device.size(),
            least,
        });
    }
    let fat_type = format(&device).map_err(|source| FilesystemError::Make {
        device: name.to_owned(),
        fstype: "FAT32",
        source,
    })?;
    if fat_type != FatType::Fat32 || !is_there(&device, "vfat")? {
        return Err(FilesystemError::NotKept {
            device: name.to_owned(),
            fstype: "FAT32",
            found: format!("{fat_type:?}"),
        });
    }
    Ok(Ensured::Created)
}

fn format(device: &Device) -> io::Result<FatType> {
    let sectors = device.size() / u64::from(device.sector_size());
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_sector(device.sector_size() as u16)
        .total_sectors(u32::try_from(sectors).unwrap_or(u32::MAX))
        .volume_id(rand::random());
    let mut window = Window::new(device.file(), device.size());
    fatfs::format_volume(&mut window, options)?;
    // Opened once: counting the free clusters fills in FSInfo, which formatting leaves unknown.
    window.rewind()?;
    let filesystem = FileSystem::new(&mut window, FsOptions::new())?;
    let fat_type = filesystem.fat_type();
    filesystem.stats()?;
    filesystem.unmount()?;
    window.flush()?;
    device.sync().map_err(|error| match error {
        BlockError::Io { source, .. } => source,
        other => io::Error::other(other),
    })?;
    Ok(fat_type)
}
