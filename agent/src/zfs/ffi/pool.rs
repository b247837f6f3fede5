//! An imported pool.

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
};

use super::{Library, NvList, sys};
use crate::zfs::error::{Error, Result};

/// A handle of an imported pool.
#[derive(Debug)]
pub(in crate::zfs) struct Pool<'l> {
    library: &'l Library,
    handle: NonNull<sys::zpool_handle_t>,
}

impl<'l> Pool<'l> {
    /// Takes ownership of a handle that libzfs made with `library`.
    ///
    /// # Safety
    /// The handle is valid and nobody else closes it.
    pub(super) unsafe fn from_raw(
        library: &'l Library,
        handle: NonNull<sys::zpool_handle_t>,
    ) -> Self {
        Pool { library, handle }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::zpool_handle_t {
        self.handle.as_ptr()
    }

    /// The pool of that name, even if it is faulted.
    pub(in crate::zfs) fn open(library: &'l Library, name: &str) -> Result<Pool<'l>> {
        let c_name = CString::new(name)?;
        // SAFETY: the library's handle and the name are valid for the call.
        let handle = unsafe { sys::zpool_open_canfail(library.as_ptr(), c_name.as_ptr()) };
        match NonNull::new(handle) {
            // SAFETY: the handle is new and ours.
            Some(handle) => Ok(unsafe { Pool::from_raw(library, handle) }),
            None => Err(match library.error() {
                Error::Refused { code, .. } if code.cast_unsigned() == sys::EZFS_NOENT => {
                    Error::NotFound { what: "pool", name: name.to_owned() }
                }
                other => other,
            }),
        }
    }

    pub(in crate::zfs) fn name(&self) -> String {
        // SAFETY: the handle is valid; the name lives in it.
        unsafe { CStr::from_ptr(sys::zpool_get_name(self.as_ptr())) }.to_string_lossy().into_owned()
    }

    /// A native property as the tools print it with `-p`; None if it is unset.
    fn property(&self, property: sys::zpool_prop_t) -> Option<String> {
        let mut buffer: [c_char; 4096] = [0; 4096];
        // SAFETY: the buffer has the stated length; the call terminates what it writes.
        let result = unsafe {
            sys::zpool_get_prop(
                self.as_ptr(),
                property,
                buffer.as_mut_ptr(),
                buffer.len(),
                ptr::null_mut(),
                sys::B_TRUE,
            )
        };
        // SAFETY: on success the buffer holds a NUL-terminated string.
        let value = (result == 0).then(|| unsafe { CStr::from_ptr(buffer.as_ptr()) })?;
        let value = value.to_string_lossy();
        (value != "-").then(|| value.into_owned())
    }

    pub(in crate::zfs) fn altroot(&self) -> Option<String> {
        self.property(sys::ZPOOL_PROP_ALTROOT)
    }

    pub(in crate::zfs) fn health(&self) -> Option<String> {
        self.property(sys::ZPOOL_PROP_HEALTH)
    }

    /// The configuration: GUID, vdev tree and the like.
    pub(in crate::zfs) fn config(&self) -> Result<NvList> {
        // SAFETY: the handle is valid; the configuration belongs to it.
        let config = unsafe { sys::zpool_get_config(self.as_ptr(), ptr::null_mut()) };
        if config.is_null() {
            return Err(Error::Invalid(format!("pool {} has no configuration", self.name())));
        }
        // SAFETY: the configuration is valid while the handle is.
        unsafe { NvList::copy_of(config) }
    }

    /// What a volume of `size` bytes needs at most, with `properties` as
    /// [`Library::valid_properties`] returns them.
    pub(in crate::zfs) fn volume_reservation(&self, size: u64, properties: &NvList) -> u64 {
        // SAFETY: handle and list are valid for the call.
        unsafe { sys::zvol_volsize_to_reservation(self.as_ptr(), size, properties.as_ptr()) }
    }

    /// Exports; nothing of it may be mounted or open.
    pub(in crate::zfs) fn export(self, force: bool) -> Result<()> {
        let force = if force { sys::B_TRUE } else { sys::B_FALSE };
        // SAFETY: the handle is valid; the log string is static.
        let result =
            unsafe { sys::zpool_export(self.as_ptr(), force, c"keystone export".as_ptr()) };
        self.library.check(result)
    }

    /// Destroys; nothing of it may be mounted or open.
    pub(in crate::zfs) fn destroy(self) -> Result<()> {
        // SAFETY: the handle is valid; the log string is static.
        let result = unsafe { sys::zpool_destroy(self.as_ptr(), c"keystone destroy".as_ptr()) };
        self.library.check(result)
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { sys::zpool_close(self.as_ptr()) }
    }
}
