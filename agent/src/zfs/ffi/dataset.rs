//! An existing file system or volume.

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
};

use super::{Library, NvList, library::Kind, sys};
use crate::zfs::error::{Error, Result};

/// A handle of a dataset, with its properties as they were when it was opened.
#[derive(Debug)]
pub(in crate::zfs) struct Dataset<'l> {
    library: &'l Library,
    handle: NonNull<sys::zfs_handle_t>,
}

impl<'l> Dataset<'l> {
    pub(in crate::zfs) fn open(library: &'l Library, name: &str) -> Result<Dataset<'l>> {
        let c_name = CString::new(name)?;
        let kinds = sys::ZFS_TYPE_FILESYSTEM | sys::ZFS_TYPE_VOLUME;
        // SAFETY: the library's handle and the name are valid for the call.
        let handle =
            unsafe { sys::zfs_open(library.as_ptr(), c_name.as_ptr(), kinds.cast_signed()) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Dataset { library, handle }),
            None => Err(match library.error() {
                Error::Refused { code, .. } if code.cast_unsigned() == sys::EZFS_NOENT => {
                    Error::NotFound { what: "dataset", name: name.to_owned() }
                }
                other => other,
            }),
        }
    }

    pub(in crate::zfs) fn is(&self, kind: Kind) -> bool {
        // SAFETY: the handle is valid.
        unsafe { sys::zfs_get_type(self.handle.as_ptr()) == kind.zfs_type() }
    }

    /// Every property that is set, native and user, as the kernel keeps it:
    /// a list with `value` and `source` for each.
    pub(in crate::zfs) fn stored(&self) -> Result<NvList> {
        // SAFETY: the handle is valid and owns the list, of which we take a copy.
        unsafe { NvList::copy_of(sys::zfs_get_all_props(self.handle.as_ptr())) }
    }

    /// A native property as `zfs get -p` prints it; None if there is no such property
    /// or it has no value here.
    pub(in crate::zfs) fn property(&self, name: &str) -> Result<Option<String>> {
        let c_name = CString::new(name)?;
        // SAFETY: the name is valid for the call.
        let property = unsafe { sys::zfs_name_to_prop(c_name.as_ptr()) };
        if property == sys::ZPROP_INVAL {
            return Ok(self.stored()?.list(name).and_then(|p| p.string("value")));
        }
        let mut buffer: [c_char; 8192] = [0; 8192];
        // SAFETY: the buffer has the stated length; source and its text are not asked for.
        let result = unsafe {
            sys::zfs_prop_get(
                self.handle.as_ptr(),
                property,
                buffer.as_mut_ptr(),
                buffer.len(),
                ptr::null_mut(),
                ptr::null_mut(),
                0,
                sys::B_TRUE,
            )
        };
        // SAFETY: on success the buffer holds a NUL-terminated string.
        let value = (result == 0).then(|| unsafe { CStr::from_ptr(buffer.as_ptr()) });
        Ok(value.map(|v| v.to_string_lossy().into_owned()).filter(|v| v != "-"))
    }

    /// Sets properties and mounts nothing.
    pub(in crate::zfs) fn set(&mut self, properties: &NvList) -> Result<()> {
        let flags = sys::ZFS_SET_NOMOUNT.cast_signed();
        // SAFETY: handle and list are valid for the call.
        let result = unsafe {
            sys::zfs_prop_set_list_flags(self.handle.as_ptr(), properties.as_ptr(), flags)
        };
        self.library.check(result)
    }
}

impl Drop for Dataset<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { sys::zfs_close(self.handle.as_ptr()) }
    }
}
