//! `filesystem`: a file system made by its `mkfs`.

use super::error::{LayoutError, closest};
use super::{hooks, mount, read::Object};

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its place in the document.
    pub path: String,
    /// Which.
    pub format: Format,
    /// The link by which the installed system knows its device.
    pub device: String,
    /// Further arguments to its `mkfs`.
    pub extra_args: Vec<String>,
    /// Where it is mounted in the installed system, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
}

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// FAT.
    Vfat,
    /// ext4.
    Ext4,
}

/// Formats that people use with disko and this version can't make.
const NOT_YET: [&str; 9] =
    ["bcachefs", "btrfs", "exfat", "ext2", "ext3", "f2fs", "jfs", "ntfs", "xfs"];

impl Format {
    /// The name in the layout, in fstab and for mount(2).
    pub fn name(self) -> &'static str {
        match self {
            Format::Vfat => "vfat",
            Format::Ext4 => "ext4",
        }
    }

    fn read(path: String, name: &str) -> Result<Self, LayoutError> {
        match name {
            "vfat" => Ok(Format::Vfat),
            "ext4" => Ok(Format::Ext4),
            other if NOT_YET.contains(&other) => {
                Err(LayoutError::not_supported(path, format!("the file system {other} is")))
            }
            other => Err(LayoutError::UnknownName {
                path,
                what: "file system",
                found: other.to_owned(),
                closest: closest(other, NOT_YET.into_iter().chain(["vfat", "ext4"])),
            }),
        }
    }
}

impl Filesystem {
    /// Reads a file system whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse(&mut object)?;
        let format = object.string("format")?;
        let filesystem = Filesystem {
            path: object.path().to_owned(),
            format: Format::read(object.path_of("format"), &format)?,
            device: object.string("device")?,
            extra_args: object.strings("extraArgs")?,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
        };
        if filesystem.format == Format::Vfat && !filesystem.extra_args.is_empty() {
            return Err(LayoutError::not_supported(
                object.path_of("extraArgs"),
                "arguments of mkfs.vfat are",
            ));
        }
        object.finish()?;
        Ok(filesystem)
    }
}
