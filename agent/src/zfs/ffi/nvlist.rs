//! Name-value lists (libnvpair), the language between libzfs and the kernel.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    io,
    ptr::{self, NonNull},
};

use super::sys;
use crate::zfs::error::{Error, Result};

/// A list that owns its pairs; names are unique.
#[derive(Debug)]
pub(in crate::zfs) struct NvList(NonNull<sys::nvlist_t>);

fn check(key: &str, errno: c_int) -> Result<()> {
    if errno == 0 {
        return Ok(());
    }
    Err(Error::Nvlist { key: key.to_owned(), source: io::Error::from_raw_os_error(errno) })
}

impl NvList {
    /// An empty list.
    pub(in crate::zfs) fn new() -> Result<NvList> {
        let mut list = ptr::null_mut();
        // SAFETY: `list` is a valid place for the result.
        check("", unsafe { sys::nvlist_alloc(&mut list, sys::NV_UNIQUE_NAME, 0) })?;
        // SAFETY: nvlist_alloc succeeded, so the list is new and ours.
        Ok(unsafe { NvList::from_raw(list) }.expect("nvlist_alloc succeeded"))
    }

    /// A list of strings.
    pub(in crate::zfs) fn of_strings(pairs: &BTreeMap<String, String>) -> Result<NvList> {
        let mut list = NvList::new()?;
        for (key, value) in pairs {
            list.add_string(key, value)?;
        }
        Ok(list)
    }

    /// Unpacks an encoded list (native or XDR), such as a label's; None if these
    /// bytes are none.
    pub(in crate::zfs) fn unpack(packed: &[u8]) -> Option<NvList> {
        let mut copy = packed.to_vec();
        let mut list = ptr::null_mut();
        // SAFETY: the buffer is ours, writable and of the stated length; the
        // unpacked list does not refer to it afterwards.
        let errno =
            unsafe { sys::nvlist_unpack(copy.as_mut_ptr().cast(), copy.len(), &mut list, 0) };
        // SAFETY: on success the list is new and ours.
        if errno == 0 { unsafe { NvList::from_raw(list) } } else { None }
    }

    /// Takes ownership.
    ///
    /// # Safety
    /// `list` is null or a list nobody else will free.
    pub(super) unsafe fn from_raw(list: *mut sys::nvlist_t) -> Option<NvList> {
        NonNull::new(list).map(NvList)
    }

    /// A copy of a list that somebody else owns.
    ///
    /// # Safety
    /// `list` is a valid list for the time of the call.
    pub(super) unsafe fn copy_of(list: *mut sys::nvlist_t) -> Result<NvList> {
        let mut copy = ptr::null_mut();
        // SAFETY: `list` is valid by contract, `copy` a place for the result.
        check("", unsafe { sys::nvlist_dup(list, &mut copy, 0) })?;
        // SAFETY: the copy is new and ours.
        Ok(unsafe { NvList::from_raw(copy) }.expect("nvlist_dup succeeded"))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::nvlist_t {
        self.0.as_ptr()
    }

    pub(in crate::zfs) fn add_string(&mut self, key: &str, value: &str) -> Result<()> {
        let (name, value) = (CString::new(key)?, CString::new(value)?);
        // SAFETY: the list is ours; both strings are copied by the call.
        check(key, unsafe { sys::nvlist_add_string(self.as_ptr(), name.as_ptr(), value.as_ptr()) })
    }

    pub(in crate::zfs) fn add_u64(&mut self, key: &str, value: u64) -> Result<()> {
        let name = CString::new(key)?;
        // SAFETY: the list is ours; the name is copied by the call.
        check(key, unsafe { sys::nvlist_add_uint64(self.as_ptr(), name.as_ptr(), value) })
    }

    pub(in crate::zfs) fn add_bool(&mut self, key: &str, value: bool) -> Result<()> {
        let name = CString::new(key)?;
        let value = if value { sys::B_TRUE } else { sys::B_FALSE };
        // SAFETY: the list is ours; the name is copied by the call.
        check(key, unsafe { sys::nvlist_add_boolean_value(self.as_ptr(), name.as_ptr(), value) })
    }

    pub(in crate::zfs) fn add_lists(&mut self, key: &str, lists: &[NvList]) -> Result<()> {
        let name = CString::new(key)?;
        let mut pointers: Vec<*const sys::nvlist_t> =
            lists.iter().map(|l| l.as_ptr().cast_const()).collect();
        let count =
            u32::try_from(lists.len()).map_err(|_| Error::Invalid("too many devices".into()))?;
        // SAFETY: `pointers` holds `count` valid lists, which are copied by the call.
        check(key, unsafe {
            sys::nvlist_add_nvlist_array(self.as_ptr(), name.as_ptr(), pointers.as_mut_ptr(), count)
        })
    }

    #[cfg(test)]
    pub(in crate::zfs) fn add_list(&mut self, key: &str, list: &NvList) -> Result<()> {
        let name = CString::new(key)?;
        // SAFETY: both lists are valid; the added one is copied by the call.
        check(key, unsafe { sys::nvlist_add_nvlist(self.as_ptr(), name.as_ptr(), list.as_ptr()) })
    }

    pub(in crate::zfs) fn string(&self, key: &str) -> Option<String> {
        let name = CString::new(key).ok()?;
        let mut value: *const c_char = ptr::null();
        // SAFETY: the list is ours, `value` a place for the result.
        let errno = unsafe { sys::nvlist_lookup_string(self.as_ptr(), name.as_ptr(), &mut value) };
        if errno != 0 {
            return None;
        }
        // SAFETY: on success `value` points to a string inside our list.
        Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
    }

    pub(in crate::zfs) fn u64(&self, key: &str) -> Option<u64> {
        let name = CString::new(key).ok()?;
        let mut value = 0;
        // SAFETY: the list is ours, `value` a place for the result.
        let errno = unsafe { sys::nvlist_lookup_uint64(self.as_ptr(), name.as_ptr(), &mut value) };
        (errno == 0).then_some(value)
    }

    pub(in crate::zfs) fn list(&self, key: &str) -> Option<NvList> {
        let name = CString::new(key).ok()?;
        let mut value = ptr::null_mut();
        // SAFETY: the list is ours, `value` a place for the result.
        let errno = unsafe { sys::nvlist_lookup_nvlist(self.as_ptr(), name.as_ptr(), &mut value) };
        if errno != 0 {
            return None;
        }
        // SAFETY: on success `value` is a list inside ours, valid until we change ours.
        unsafe { NvList::copy_of(value) }.ok()
    }

    pub(in crate::zfs) fn lists(&self, key: &str) -> Vec<NvList> {
        let Ok(name) = CString::new(key) else { return Vec::new() };
        let (mut values, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the list is ours, `values` and `count` places for the result.
        let errno = unsafe {
            sys::nvlist_lookup_nvlist_array(self.as_ptr(), name.as_ptr(), &mut values, &mut count)
        };
        if errno != 0 {
            return Vec::new();
        }
        (0..count as usize)
            // SAFETY: on success there are `count` valid lists at `values`, inside ours.
            .filter_map(|i| unsafe { NvList::copy_of(*values.add(i)) }.ok())
            .collect()
    }

    /// The names of all pairs, in the list's order.
    pub(in crate::zfs) fn names(&self) -> Vec<String> {
        self.pairs()
            // SAFETY: the pair and its name live as long as our list.
            .map(|pair| unsafe { CStr::from_ptr(sys::nvpair_name(pair)) }.to_string_lossy().into())
            .collect()
    }

    /// All values that are lists, whatever their names. Works for lists whose names
    /// are not unique too, where looking up by name does not.
    pub(in crate::zfs) fn list_values(&self) -> Vec<NvList> {
        let value = |pair| {
            let mut value = ptr::null_mut();
            // SAFETY: the pair lives as long as our list, `value` is a place for the result.
            let errno = unsafe { sys::nvpair_value_nvlist(pair, &mut value) };
            // SAFETY: on success `value` is a list inside ours.
            if errno == 0 { unsafe { NvList::copy_of(value) }.ok() } else { None }
        };
        self.pairs().filter_map(value).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = *mut sys::nvpair_t> {
        let mut pair = ptr::null_mut();
        std::iter::from_fn(move || {
            // SAFETY: the list is ours and not changed while it is walked; `pair`
            // is null at first and a pair of this list later.
            pair = unsafe { sys::nvlist_next_nvpair(self.as_ptr(), pair) };
            (!pair.is_null()).then_some(pair)
        })
    }
}

impl Drop for NvList {
    fn drop(&mut self) {
        // SAFETY: the list is ours and nobody uses it any more.
        unsafe { sys::nvlist_free(self.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back() {
        let mut inner = NvList::new().unwrap();
        inner.add_string("type", "disk").unwrap();
        let mut list = NvList::new().unwrap();
        list.add_u64("ashift", 12).unwrap();
        list.add_lists("children", &[inner]).unwrap();
        assert_eq!(list.u64("ashift"), Some(12));
        assert_eq!(list.u64("type"), None);
        assert_eq!(list.string("ashift"), None);
        assert_eq!(list.lists("children")[0].string("type").as_deref(), Some("disk"));
        assert_eq!(list.names(), ["ashift", "children"]);
        assert!(list.list_values().is_empty());
        // Names are unique: the later value wins, as with the C tools.
        list.add_u64("ashift", 13).unwrap();
        assert_eq!(list.u64("ashift"), Some(13));
        assert!(matches!(list.add_string("a\0b", ""), Err(Error::Nul(_))));
    }

    #[test]
    fn garbage_is_no_list() {
        assert!(NvList::unpack(&[0; 512]).is_none());
        assert!(NvList::unpack(&[0xff; 512]).is_none());
        assert!(NvList::unpack(&[]).is_none());
    }
}
