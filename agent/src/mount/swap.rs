//! Ending swapping, by `swapoff(2)`.

use super::MountError;
use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Ends swapping to a device, if it is swapped to.
pub fn swapoff(roots: &Roots, device: &Node) -> Result<Ensured, MountError> {
    let swaps = std::fs::read_to_string(roots.proc.join("swaps")).map_err(MountError::Table)?;
    let active = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .any(|source| is_device(roots, source, device));
    if !active {
        return Ok(Ensured::AlreadySo);
    }
    let fail = |source| MountError::Swapoff { device: device.path.clone(), source };
    let path =
        CString::new(device.path.as_os_str().as_bytes()).map_err(|_| fail(Errno::EINVAL))?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    Errno::result(unsafe { libc::swapoff(path.as_ptr()) }).map_err(fail)?;
    Ok(Ensured::Created)
}

/// Whether a path of `/proc/swaps`, which may be a link, is the device.
fn is_device(roots: &Roots, source: &str, device: &Node) -> bool {
    let source = super::table::unescape(source);
    let path = std::fs::canonicalize(&source).unwrap_or_else(|_| Path::new(&source).to_owned());
    path == device.path || path == roots.node(&device.name)
}
