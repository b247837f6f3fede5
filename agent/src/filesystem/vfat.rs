//! FAT32.
//!
//! The same as `mkfs.vfat -F 32` (dosfstools 4.2) where it matters to firmware and boot loader:
//! sector size of the device, cluster size by volume size, two FATs, FSInfo in sector 1, backup
//! boot sector in sector 6, random volume id, no label unless the layout gives one. An ESP is
//! FAT32 whatever its size (UEFI 2.10, section 13.3).

use super::window::Window;
use super::{FilesystemError, filesystem, is_there};
use crate::block::{BlockError, Device, DiskLock, Roots};
use crate::ensure::Ensured;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use keystone_protocol::inventory::Signature;
use std::io::{self, Seek, Write};

pub use keystone_planner::vfat::least_size;

/// The longest label, in bytes.
const LABEL: usize = 11;

/// Makes a FAT32 file system on the device `name`, unless it has one.
pub fn ensure(roots: &Roots, name: &str, label: Option<&str>) -> Result<Ensured, FilesystemError> {
    let label = label.map(padded).transpose()?;
    let _lock = DiskLock::take(roots, name)?;
    // One that is there may be mounted.
    if let Some(there) = filesystem(&Device::open_read(roots, name)?, "vfat")? {
        return has_label(name, there, label);
    }
    let device = Device::open_exclusive(roots, name)?;
    let least = least_size(device.sector_size());
    if device.size() < least {
        return Err(FilesystemError::TooSmall {
            device: name.to_owned(),
            fstype: "FAT32",
            size: device.size(),
            least,
        });
    }
    let fat_type = format(&device, label).map_err(|source| FilesystemError::Make {
        device: name.to_owned(),
        fstype: "FAT32",
        source,
    })?;
    if fat_type != FatType::Fat32 || !is_there(&device, "vfat")? {
        return Err(FilesystemError::NotKept {
            device: name.to_owned(),
            fstype: "FAT32".to_owned(),
            found: format!("{fat_type:?}"),
        });
    }
    Ok(Ensured::Created)
}

/// Whether a file system that is there has the label, if one is wanted.
fn has_label(
    name: &str,
    there: Signature,
    wanted: Option<[u8; LABEL]>,
) -> Result<Ensured, FilesystemError> {
    let Signature::Filesystem { label: found, .. } = there else { return Ok(Ensured::AlreadySo) };
    let found = found.unwrap_or_default();
    let wanted = wanted.map(|wanted| String::from_utf8_lossy(&wanted).trim_end().to_owned());
    match wanted {
        Some(wanted) if wanted != found => {
            Err(FilesystemError::Differs { device: name.to_owned(), what: "label", found, wanted })
        }
        _ => Ok(Ensured::AlreadySo),
    }
}

/// A label as the boot sector and the root directory hold it.
fn padded(label: &str) -> Result<[u8; LABEL], FilesystemError> {
    let mut bytes = [b' '; LABEL];
    let fits = label.is_ascii() && !label.is_empty() && label.len() <= LABEL;
    if !fits {
        return Err(FilesystemError::Label {
            fstype: "FAT32",
            label: label.to_owned(),
            most: LABEL,
        });
    }
    bytes[..label.len()].copy_from_slice(label.as_bytes());
    Ok(bytes)
}

fn format(device: &Device, label: Option<[u8; LABEL]>) -> io::Result<FatType> {
    let sectors = device.size() / u64::from(device.sector_size());
    let mut options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_sector(device.sector_size() as u16)
        .total_sectors(u32::try_from(sectors).unwrap_or(u32::MAX))
        .volume_id(rand::random());
    if let Some(label) = label {
        options = options.volume_label(label);
    }
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
