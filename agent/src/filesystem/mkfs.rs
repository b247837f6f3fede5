//! File systems made by the running system's `mkfs.TYPE`: no maintained crate makes them.

use super::{FilesystemError, is_there};
use crate::block::{Device, DiskLock, Roots};
use crate::ensure::Ensured;
use crate::tool::{self, Run, Say};

/// The program that makes a file system of that type.
pub fn program(fstype: &str) -> String {
    format!("mkfs.{fstype}")
}

/// Makes a file system on the device `name`, unless it has one of that type. `extra_args` come
/// from the layout and go before the device; disko puts them on either side, which the programs
/// do not tell apart.
///
/// # Errors
/// [`FilesystemError::Occupied`] if something else is there; the program's failure;
/// [`FilesystemError::NotKept`] if the device does not show the file system afterwards.
pub fn ensure(
    roots: &Roots,
    name: &str,
    fstype: &str,
    extra_args: &[String],
    say: Say<'_>,
) -> Result<Ensured, FilesystemError> {
    let _lock = DiskLock::take(roots, name)?;
    // One that is there may be mounted.
    if is_there(&Device::open_read(roots, name)?, fstype)? {
        return Ok(Ensured::AlreadySo);
    }
    // Not kept open: the program wants the device for itself.
    let path = Device::open_exclusive(roots, name)?.path().to_owned();
    let mkfs = tool::need(&program(fstype))?;
    let said = Run::new(&mkfs).args(quiet(fstype)).args(extra_args).arg(&path).run(say)?;
    let device = Device::open_exclusive(roots, name)?;
    device.sync()?;
    if !is_there(&device, fstype)? {
        return Err(FilesystemError::NotKept {
            device: name.to_owned(),
            fstype: fstype.to_owned(),
            found: format!("nothing; {} said {said:?}", program(fstype)),
        });
    }
    Ok(Ensured::Created)
}

/// What keeps a program from saying more than what went wrong, and from asking.
fn quiet(fstype: &str) -> &'static [&'static str] {
    match fstype {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => &["-q"],
        "f2fs" => &["-q"],
        _ => &[],
    }
}
