//! File systems on devices, and the key that one of them keeps.
//!
//! | module | job |
//! |---|---|
//! | [`vfat`] | FAT32, by the `fatfs` crate |
//! | [`mkfs`] | ext4, xfs, btrfs, f2fs, bcachefs, by the running system's programs |
//! | [`swap`] | swap headers, on a device or in a file |
//! | `window` | a device read and written in large pieces |
//! | [`key`] | the raw key of an encrypted dataset, made once |
//!
//! A file system that is there already stays: the steps before removed whatever was on the disk.
//! Something else that is there is an error, never overwritten.

pub mod key;
pub mod mkfs;
pub mod swap;
pub mod vfat;
mod window;

use crate::block::{BlockError, Device, probe};
use keystone_protocol::inventory::Signature;
use thiserror::Error;

/// A file system can't be made.
#[derive(Debug, Error)]
pub enum FilesystemError {
    /// The device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Something else is on it.
    #[error("{device} is not empty: it has {found}")]
    Occupied {
        /// Kernel name.
        device: String,
        /// What is there.
        found: String,
    },
    /// Too small for the type.
    #[error("{device} has {size} bytes; {fstype} with its sectors needs {least}")]
    TooSmall {
        /// Kernel name.
        device: String,
        /// The type.
        fstype: &'static str,
        /// Its size.
        size: u64,
        /// The least size.
        least: u64,
    },
    /// The type has no such labels.
    #[error("a label of {fstype} has 1 to {most} bytes of ASCII; {label:?} has not")]
    Label {
        /// The type.
        fstype: &'static str,
        /// What was asked for.
        label: String,
        /// How many bytes there are.
        most: usize,
    },
    /// Not a UUID.
    #[error("{0:?} is no UUID")]
    Uuid(String),
    /// What is there has another label or UUID than the layout gives it.
    #[error("what is on {device} has the {what} {found:?}, and the layout gives it {wanted:?}")]
    Differs {
        /// Kernel name.
        device: String,
        /// `label` or `UUID`.
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// It was written but is not what was asked for.
    #[error("{device} does not read back as {fstype}: {found}")]
    NotKept {
        /// Kernel name.
        device: String,
        /// The type.
        fstype: String,
        /// What is there instead.
        found: String,
    },
    /// Writing it failed.
    #[error("making a {fstype} file system on {device}")]
    Make {
        /// Kernel name.
        device: String,
        /// The type.
        fstype: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The program that makes it failed or is missing.
    #[error(transparent)]
    Tool(#[from] crate::tool::ToolError),
}

/// Whether a file system of that type is on a device, or nothing.
fn is_there(device: &Device, fstype: &str) -> Result<bool, FilesystemError> {
    Ok(filesystem(device, fstype)?.is_some())
}

/// The file system of that type that is on a device, if anything is.
fn filesystem(device: &Device, fstype: &str) -> Result<Option<Signature>, FilesystemError> {
    there(
        device,
        |found| matches!(found, Signature::Filesystem { fstype: there, .. } if there == fstype),
    )
}

/// What is on a device: nothing, what is looked for, or something in the way.
fn there(
    device: &Device,
    wanted: impl Fn(&Signature) -> bool,
) -> Result<Option<Signature>, FilesystemError> {
    let found = probe::signatures(probe::Source::from(device))
        .map_err(BlockError::io("reading", device.path()))?;
    match found.as_slice() {
        [] => Ok(None),
        [only] if wanted(only) => Ok(Some(only.clone())),
        other => Err(FilesystemError::Occupied {
            device: device.name().to_owned(),
            found: other.iter().map(describe).collect::<Vec<_>>().join(" and "),
        }),
    }
}

/// A signature in words.
pub fn describe(signature: &Signature) -> String {
    match signature {
        Signature::Filesystem { fstype, label: None, .. } => format!("a {fstype} file system"),
        Signature::Filesystem { fstype, label: Some(label), .. } => {
            format!("a {fstype} file system labelled {label:?}")
        }
        Signature::Luks { version, .. } => format!("a LUKS{version} header"),
        Signature::ZfsMember { pool, .. } => format!("a member of the ZFS pool {pool}"),
        Signature::Lvm => "an LVM physical volume".to_owned(),
        Signature::MdRaid => "a member of a software RAID".to_owned(),
        Signature::Swap => "swap".to_owned(),
        Signature::Other { name } if name == probe::ZFS_MEMBER => {
            "a member of a ZFS pool".to_owned()
        }
        Signature::Other { name } => name.clone(),
    }
}

#[cfg(test)]
mod tests;
