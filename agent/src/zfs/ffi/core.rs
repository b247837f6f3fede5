//! libzfs_core: keys are passed as bytes and never come from a file.

use std::{
    ffi::{CString, c_int},
    io, ptr,
};

use zeroize::Zeroizing;

use super::{Kind, Library, NvList, sys};
use crate::zfs::error::{Error, Result};

fn check(action: impl FnOnce() -> String, errno: c_int) -> Result<()> {
    if errno == 0 {
        return Ok(());
    }
    Err(Error::System { action: action(), source: io::Error::from_raw_os_error(errno) })
}

/// Creates a dataset with parsed properties, and its wrapping key if it is an encryption root.
pub(in crate::zfs) fn create(
    _library: &Library,
    name: &str,
    kind: Kind,
    properties: &NvList,
    key: &[u8; 32],
) -> Result<()> {
    let c_name = CString::new(name)?;
    // The C interface takes a mutable pointer and only reads.
    let mut key = Zeroizing::new(*key);
    let kind = match kind {
        Kind::Filesystem => sys::LZC_DATSET_TYPE_ZFS,
        Kind::Volume => sys::LZC_DATSET_TYPE_ZVOL,
    };
    // SAFETY: a live library keeps libzfs_core initialised; pointers and length are valid.
    let errno = unsafe {
        sys::lzc_create(c_name.as_ptr(), kind, properties.as_ptr(), key.as_mut_ptr(), 32)
    };
    check(|| format!("create {name}"), errno)
}

/// Loads a wrapping key; with `verify` only, nothing is kept.
pub(in crate::zfs) fn load_key(
    _library: &Library,
    name: &str,
    key: &[u8; 32],
    verify: bool,
) -> io::Result<()> {
    let c_name = CString::new(name)?;
    let mut key = Zeroizing::new(*key);
    let noop = if verify { sys::B_TRUE } else { sys::B_FALSE };
    // SAFETY: a live library keeps libzfs_core initialised; pointers and length are valid.
    let errno = unsafe { sys::lzc_load_key(c_name.as_ptr(), noop, key.as_mut_ptr(), 32) };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Forgets a wrapping key.
pub(in crate::zfs) fn unload_key(_library: &Library, name: &str) -> Result<()> {
    let c_name = CString::new(name)?;
    // SAFETY: a live library keeps libzfs_core initialised.
    let errno = unsafe { sys::lzc_unload_key(c_name.as_ptr()) };
    check(|| format!("unload the key of {name}"), errno)
}

/// Waits until everything written so far is on the disks.
pub(in crate::zfs) fn sync(_library: &Library, pool: &str) -> Result<()> {
    let c_name = CString::new(pool)?;
    let mut arguments = NvList::new()?;
    arguments.add_bool("force", false)?;
    // SAFETY: a live library keeps libzfs_core initialised; no result list is asked for.
    let errno = unsafe { sys::lzc_sync(c_name.as_ptr(), arguments.as_ptr(), ptr::null_mut()) };
    check(|| format!("sync pool {pool}"), errno)
}
