//! ext4, by the running system's `mkfs.ext4`: no maintained crate makes it.

use super::tool::{self, ToolError};
use super::{FilesystemError, is_there};
use crate::block::{Device, DiskLock, Roots};
use crate::ensure::Ensured;

/// The program's name.
pub const MKFS: &str = "mkfs.ext4";

/// Makes an ext4 file system on the device `name`, unless it has one. `extra_args` come from the
/// layout and go before the device, as disko has them.
pub fn ensure(
    roots: &Roots,
    name: &str,
    extra_args: &[String],
) -> Result<Ensured, FilesystemError> {
    let _lock = DiskLock::take(roots, name)?;
    // Not kept open: `mkfs.ext4` wants the device for itself.
    let device = Device::open_exclusive(roots, name)?;
    let is_there_already = is_there(&device, "ext4")?;
    let path = device.path().to_owned();
    drop(device);
    if is_there_already {
        return Ok(Ensured::AlreadySo);
    }
    let mkfs = tool::find(MKFS).ok_or_else(|| ToolError::Missing { name: MKFS.to_owned() })?;
    let path = path.to_string_lossy();
    let mut args = vec!["-q"];
    args.extend(extra_args.iter().map(String::as_str));
    args.push(&path);
    let said = tool::run(&mkfs, &args)?;
    let device = Device::open_exclusive(roots, name)?;
    device.sync()?;
    if !is_there(&device, "ext4")? {
        return Err(FilesystemError::NotKept {
            device: name.to_owned(),
            fstype: "ext4",
            found: format!("nothing; {MKFS} said {said:?}"),
        });
    }
    Ok(Ensured::Created)
}
