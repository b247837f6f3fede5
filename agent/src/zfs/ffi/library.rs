//! libzfs's handle and its errors.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::Mutex,
};

use super::{NvList, Pool, sys};
use crate::zfs::error::{Error, Result};

/// libzfs_init() and libzfs_fini() fill and drop process-wide tables.
static TABLES: Mutex<()> = Mutex::new(());

/// A handle of libzfs, for one thread.
#[derive(Debug)]
pub(in crate::zfs) struct Library(NonNull<sys::libzfs_handle_t>);

/// Kinds of datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::zfs) enum Kind {
    Filesystem,
    Volume,
}

impl Kind {
    pub(super) fn zfs_type(self) -> sys::zfs_type_t {
        match self {
            Kind::Filesystem => sys::ZFS_TYPE_FILESYSTEM,
            Kind::Volume => sys::ZFS_TYPE_VOLUME,
        }
    }
}

impl Library {
    /// Initialises libzfs. `/dev/zfs` must exist: otherwise libzfs would run `modprobe`.
    pub(in crate::zfs) fn open() -> Result<Library> {
        let _tables = TABLES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: no other thread is in libzfs_init or libzfs_fini.
        let handle = unsafe { sys::libzfs_init() };
        let handle = NonNull::new(handle).ok_or_else(|| Error::Init(io::Error::last_os_error()))?;
        // SAFETY: the handle is new. Messages come with the error, not on stderr.
        unsafe { sys::libzfs_print_on_error(handle.as_ptr(), sys::B_FALSE) };
        Ok(Library(handle))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::libzfs_handle_t {
        self.0.as_ptr()
    }

    /// The error of the call that just failed.
    pub(super) fn error(&self) -> Error {
        // SAFETY: the handle is valid; the strings live in it until the next call.
        let (code, action, reason) = unsafe {
            (
                sys::libzfs_errno(self.as_ptr()),
                CStr::from_ptr(sys::libzfs_error_action(self.as_ptr())),
                CStr::from_ptr(sys::libzfs_error_description(self.as_ptr())),
            )
        };
        let action = action.to_string_lossy().into_owned();
        let reason = reason.to_string_lossy().trim().replace('\n', " ");
        match code.cast_unsigned() {
            sys::EZFS_BUSY => Error::Busy { action, reason },
            _ => Error::Refused { action, reason, code },
        }
    }

    /// 0 or the library's error.
    pub(super) fn check(&self, result: c_int) -> Result<()> {
        if result == 0 { Ok(()) } else { Err(self.error()) }
    }

    /// Makes a pool of the vdevs in `root`.
    pub(in crate::zfs) fn create_pool(
        &self,
        name: &str,
        root: &NvList,
        properties: &NvList,
        root_properties: &NvList,
    ) -> Result<()> {
        let name = CString::new(name)?;
        // SAFETY: all pointers are valid for the call, which copies what it keeps.
        let result = unsafe {
            sys::zpool_create(
                self.as_ptr(),
                name.as_ptr(),
                root.as_ptr(),
                properties.as_ptr(),
                root_properties.as_ptr(),
            )
        };
        self.check(result)
    }

    /// All imported pools.
    pub(in crate::zfs) fn pools(&self) -> Result<Vec<Pool<'_>>> {
        extern "C" fn collect(
            pool: *mut sys::zpool_handle_t,
            into: *mut std::ffi::c_void,
        ) -> c_int {
            // SAFETY: `into` is the vector passed to zpool_iter below.
            unsafe { &mut *into.cast::<Vec<NonNull<sys::zpool_handle_t>>>() }
                .extend(NonNull::new(pool));
            0
        }
        let mut found: Vec<NonNull<sys::zpool_handle_t>> = Vec::new();
        // SAFETY: the callback only stores the handles, which it owns.
        let result = unsafe {
            sys::zpool_iter(self.as_ptr(), Some(collect), ptr::from_mut(&mut found).cast())
        };
        // Wrapped before the check, so that they are closed in any case.
        // SAFETY: zpool_iter gave us these handles.
        let pools = found.into_iter().map(|p| unsafe { Pool::from_raw(self, p) }).collect();
        self.check(result)?;
        Ok(pools)
    }

    /// The configuration of every pool found on `devices` and not imported here.
    pub(in crate::zfs) fn search(&self, devices: &[CString]) -> Result<Vec<NvList>> {
        let mut paths: Vec<*mut c_char> = devices.iter().map(|d| d.as_ptr().cast_mut()).collect();
        // SAFETY: all-zero is a valid value of both plain C structs.
        let (mut search, mut args): (sys::libpc_handle_t, sys::importargs_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        search.lpc_lib_handle = self.as_ptr().cast();
        search.lpc_ops = (&raw const sys::libzfs_config_ops).cast_mut();
        search.lpc_printerr = sys::B_FALSE;
        args.path = paths.as_mut_ptr();
        args.paths =
            c_int::try_from(paths.len()).map_err(|_| Error::Invalid("too many devices".into()))?;
        // The given devices and nothing else: no libblkid cache.
        args.scan = sys::B_TRUE;
        // SAFETY: both structs and the paths outlive the call, which does not change the paths.
        let found = unsafe { sys::zpool_search_import(&mut search, &mut args) };
        // SAFETY: the returned list is the caller's.
        let Some(found) = (unsafe { NvList::from_raw(found) }) else {
            if search.lpc_error == 0 {
                return Ok(Vec::new());
            }
            // SAFETY: the description is a NUL-terminated array in `search`.
            let reason =
                unsafe { CStr::from_ptr(search.lpc_desc.as_ptr()) }.to_string_lossy().into_owned();
            return Err(Error::Refused {
                action: "cannot search for pools".into(),
                reason,
                code: search.lpc_error,
            });
        };
        // Keyed by pool name, and two pools may have the same.
        Ok(found.list_values())
    }

    /// Imports a pool that [`Library::search`] has found, without mounting anything. The
    /// kernel asks for no host id here: that is the caller's business.
    pub(in crate::zfs) fn import(
        &self,
        config: &NvList,
        properties: &NvList,
        any_host: bool,
    ) -> Result<()> {
        let flags = sys::ZFS_IMPORT_ONLY | if any_host { sys::ZFS_IMPORT_ANY_HOST } else { 0 };
        // SAFETY: all pointers are valid for the call; a null name keeps the pool's own.
        let result = unsafe {
            sys::zpool_import_props(
                self.as_ptr(),
                config.as_ptr(),
                ptr::null(),
                properties.as_ptr(),
                flags.cast_signed(),
            )
        };
        self.check(result)
    }

    /// Parses properties as the tools do: names checked, values turned into what the kernel takes.
    pub(in crate::zfs) fn valid_properties(
        &self,
        kind: Kind,
        properties: &NvList,
        pool: &Pool<'_>,
        action: &str,
    ) -> Result<NvList> {
        let action = CString::new(action)?;
        // SAFETY: all pointers are valid for the call; there is no dataset yet.
        let parsed = unsafe {
            sys::zfs_valid_proplist(
                self.as_ptr(),
                kind.zfs_type(),
                properties.as_ptr(),
                0,
                ptr::null_mut(),
                pool.as_ptr(),
                sys::B_TRUE,
                action.as_ptr(),
            )
        };
        // SAFETY: the returned list is the caller's.
        unsafe { NvList::from_raw(parsed) }.ok_or_else(|| self.error())
    }

    /// `zfs create` without the mounting; no key is handled here.
    pub(in crate::zfs) fn create_dataset(
        &self,
        name: &str,
        kind: Kind,
        properties: &NvList,
    ) -> Result<()> {
        let name = CString::new(name)?;
        // SAFETY: all pointers are valid for the call.
        let result = unsafe {
            sys::zfs_create(self.as_ptr(), name.as_ptr(), kind.zfs_type(), properties.as_ptr())
        };
        self.check(result)
    }

    /// Whether a file system or volume of that name exists.
    pub(in crate::zfs) fn exists(&self, name: &str) -> Result<bool> {
        let name = CString::new(name)?;
        let kinds = sys::ZFS_TYPE_FILESYSTEM | sys::ZFS_TYPE_VOLUME;
        // SAFETY: all pointers are valid for the call.
        Ok(unsafe { sys::zfs_dataset_exists(self.as_ptr(), name.as_ptr(), kinds) } == sys::B_TRUE)
    }

    /// Whether a snapshot of that name exists.
    pub(in crate::zfs) fn has_snapshot(&self, name: &str) -> Result<bool> {
        let name = CString::new(name)?;
        let kind = sys::ZFS_TYPE_SNAPSHOT;
        // SAFETY: all pointers are valid for the call.
        Ok(unsafe { sys::zfs_dataset_exists(self.as_ptr(), name.as_ptr(), kind) } == sys::B_TRUE)
    }

    /// Makes a snapshot, `pool/dataset@name`.
    pub(in crate::zfs) fn snapshot(&self, name: &str) -> Result<()> {
        let name = CString::new(name)?;
        // SAFETY: all pointers are valid for the call; a null list is no properties.
        let result = unsafe {
            sys::zfs_snapshot(self.as_ptr(), name.as_ptr(), sys::B_FALSE, ptr::null_mut())
        };
        self.check(result)
    }

    /// Zeroes the labels on an open device. Needs no handle; false if there was none to clear.
    pub(in crate::zfs) fn clear_label(device: BorrowedFd<'_>) -> bool {
        // SAFETY: the descriptor is open for the time of the call.
        unsafe { sys::zpool_clear_label(device.as_raw_fd()) == 0 }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _tables = TABLES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the handle is ours; pools and datasets borrow it and are gone.
        unsafe { sys::libzfs_fini(self.as_ptr()) }
    }
}

/// Names of the features that the linked libzfs knows and can enable.
pub(in crate::zfs) fn known_features() -> Vec<String> {
    let _tables = TABLES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let table = &raw const sys::spa_feature_table;
    // SAFETY: the table is filled by zpool_feature_init(), which libzfs_init() calls too,
    // always with the same static strings and, under our lock, by one thread at a time.
    unsafe {
        if (*table)[0].fi_uname.is_null() {
            sys::zpool_feature_init();
        }
        (*table).iter().map(|f| CStr::from_ptr(f.fi_uname).to_string_lossy().into_owned()).collect()
    }
}

/// This system's host id as ZFS sees it (module parameter, else `/etc/hostid`); 0 is none.
pub(in crate::zfs) fn system_hostid() -> u64 {
    // SAFETY: the function only reads files.
    unsafe { sys::get_system_hostid() }
}
