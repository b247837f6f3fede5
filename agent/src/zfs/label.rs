//! Vdev labels: what a device says of its pool, read without importing anything.
//!
//! On-disk format: four labels of 256 KiB, two at the start and two at the end
//! of the device (its size rounded down to 256 KiB); 16 KiB into each, 112 KiB
//! with an XDR-encoded name-value list, then 128 KiB of uberblocks (OpenZFS
//! include/sys/vdev_impl.h, include/sys/uberblock_impl.h).

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
};

use super::{
    error::{Error, Result},
    ffi::{self, Library, NvList},
};
use crate::ensure::Ensured;

const LABEL_BYTES: u64 = 256 * 1024;
const LIST_OFFSET: u64 = 16 * 1024;
const LIST_BYTES: usize = 112 * 1024;
const RING_OFFSET: u64 = 128 * 1024;
const RING_BYTES: usize = 128 * 1024;
/// The least distance of two uberblocks.
const UBERBLOCK_STEP: usize = 1024;
const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;

/// What a label says of the pool's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelState {
    /// Imported somewhere, or never exported.
    Active,
    /// Exported.
    Exported,
    /// Destroyed.
    Destroyed,
    /// The device is a hot spare.
    Spare,
    /// The device is a cache (L2ARC).
    Cache,
}

/// A vdev label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Which of the four it is: 0 and 1 at the start, 2 and 3 at the end.
    pub index: u8,
    /// The pool's name; spares and caches have none.
    pub pool: Option<String>,
    /// The pool's GUID; spares and caches have none.
    pub pool_guid: Option<u64>,
    /// The pool's state, or what else the device is.
    pub state: LabelState,
    /// Transaction group in which the label was written; 0 for spares and caches.
    pub txg: u64,
    /// Host that had the pool last.
    pub hostname: Option<String>,
    /// Its host id; 0 is none.
    pub hostid: Option<u32>,
    /// GUID of this device.
    pub vdev_guid: u64,
    /// GUID of the top-level vdev it belongs to.
    pub top_guid: Option<u64>,
    /// GUIDs of all leaves of that top-level vdev, this one among them.
    pub leaf_guids: Vec<u64>,
    /// When the newest uberblock beside it was written, in seconds since 1970.
    pub written: Option<u64>,
}

/// The label of the device at `path`: of its valid ones the one written last.
/// None if there is none.
///
/// # Errors
/// If the device cannot be read.
pub fn read_label(path: &Path) -> Result<Option<Label>> {
    let failed = |action| move |source| Error::Device { action, path: path.to_owned(), source };
    let device = File::open(path).map_err(failed("open"))?;
    let labels = read_labels(&device).map_err(failed("read the ZFS label of"))?;
    // The first of equals: label 0 is the one that libzfs itself takes.
    Ok(labels.into_iter().rev().max_by_key(|l| l.txg))
}

/// All valid labels of an open device, by index. After a clean export there
/// are four of one pool, all [`LabelState::Exported`].
///
/// # Errors
/// If reading fails.
pub fn read_labels(device: &File) -> io::Result<Vec<Label>> {
    let mut end = device;
    let size = end.seek(SeekFrom::End(0))? / LABEL_BYTES * LABEL_BYTES;
    if size < 4 * LABEL_BYTES {
        return Ok(Vec::new());
    }
    let starts = [0, LABEL_BYTES, size - 2 * LABEL_BYTES, size - LABEL_BYTES];
    let mut labels = Vec::new();
    let mut packed = vec![0; LIST_BYTES];
    let mut ring = vec![0; RING_BYTES];
    for (index, start) in (0..).zip(starts) {
        device.read_exact_at(&mut packed, start + LIST_OFFSET)?;
        let label = NvList::unpack(&packed).and_then(|list| Label::parse(index, &list));
        if let Some(label) = label {
            device.read_exact_at(&mut ring, start + RING_OFFSET)?;
            labels.push(Label { written: written(&ring), ..label });
        }
    }
    Ok(labels)
}

/// When the newest uberblock was written: magic, version, transaction group, sum of GUIDs, time, 64 bits each
/// in the byte order of the machine that wrote it.
fn written(ring: &[u8]) -> Option<u64> {
    let word = |block: &[u8], index: usize| {
        let bytes = block.get(index * 8..index * 8 + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let uberblock = |block: &[u8]| {
        let magic = word(block, 0)?;
        let other = match magic {
            UBERBLOCK_MAGIC => false,
            _ if magic == UBERBLOCK_MAGIC.swap_bytes() => true,
            _ => return None,
        };
        let native = |word: u64| if other { word.swap_bytes() } else { word };
        Some((native(word(block, 2)?), native(word(block, 4)?)))
    };
    ring.chunks(UBERBLOCK_STEP).filter_map(uberblock).max().map(|(_, time)| time)
}

/// Zeroes the ZFS labels of the device at `path`, which nobody may be using.
///
/// # Errors
/// If the device cannot be opened exclusively, or a label remains.
pub fn clear_label(path: &Path) -> Result<Ensured> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |action| move |source| Error::Device { action, path: path.to_owned(), source };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path)
        .map_err(failed("open"))?;
    if read_labels(&device).map_err(failed("read the ZFS label of"))?.is_empty() {
        return Ok(Ensured::AlreadySo);
    }
    let cleared = Library::clear_label(device.as_fd());
    device.sync_all().map_err(failed("flush"))?;
    if !cleared || !read_labels(&device).map_err(failed("read the ZFS label of"))?.is_empty() {
        return Err(failed("clear the ZFS label of")(io::Error::other("a label remains")));
    }
    Ok(Ensured::Created)
}

impl Label {
    fn parse(index: u8, list: &NvList) -> Option<Label> {
        let state = match u32::try_from(list.u64("state")?).ok()? {
            ffi::POOL_STATE_ACTIVE => LabelState::Active,
            ffi::POOL_STATE_EXPORTED => LabelState::Exported,
            ffi::POOL_STATE_DESTROYED => LabelState::Destroyed,
            ffi::POOL_STATE_SPARE => LabelState::Spare,
            ffi::POOL_STATE_L2CACHE => LabelState::Cache,
            _ => return None,
        };
        let vdev_guid = list.u64("guid").filter(|guid| *guid != 0)?;
        let txg = list.u64("txg").unwrap_or(0);
        let member = !matches!(state, LabelState::Spare | LabelState::Cache);
        if member && txg == 0 {
            return None;
        }
        Some(Label {
            index,
            pool: list.string("name"),
            pool_guid: list.u64("pool_guid"),
            state,
            txg,
            hostname: list.string("hostname"),
            hostid: list.u64("hostid").and_then(|id| u32::try_from(id).ok()),
            vdev_guid,
            top_guid: list.u64("top_guid"),
            leaf_guids: list
                .list("vdev_tree")
                .map(|tree| super::vdev::leaf_guids(&tree))
                .unwrap_or_default(),
            written: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_uberblock_says_when_it_was_written() {
        let mut ring = vec![0; RING_BYTES];
        assert_eq!(written(&ring), None);
        let mut put = |at: usize, txg: u64, time: u64, other: bool| {
            for (index, word) in [UBERBLOCK_MAGIC, 5000, txg, 1, time].into_iter().enumerate() {
                let word = if other { word.swap_bytes() } else { word };
                ring[at * UBERBLOCK_STEP + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
            }
            written(&ring)
        };
        assert_eq!(put(4, 10, 1_700_000_000, false), Some(1_700_000_000));
        assert_eq!(put(0, 9, 1_800_000_000, false), Some(1_700_000_000));
        // Written by a machine of the other byte order.
        assert_eq!(put(8, 11, 1_750_000_000, true), Some(1_750_000_000));
    }

    fn list(state: u64, txg: u64) -> NvList {
        let mut tree = NvList::new().unwrap();
        tree.add_string("type", "disk").unwrap();
        tree.add_u64("guid", 7).unwrap();
        let mut list = NvList::new().unwrap();
        for (key, value) in
            [("state", state), ("txg", txg), ("guid", 7), ("pool_guid", 9), ("hostid", 0x8425_e349)]
        {
            list.add_u64(key, value).unwrap();
        }
        list.add_string("name", "rpool").unwrap();
        list.add_string("hostname", "installer").unwrap();
        list.add_list("vdev_tree", &tree).unwrap();
        list
    }

    #[test]
    fn a_member() {
        let label = Label::parse(0, &list(1, 42)).unwrap();
        assert_eq!(label.state, LabelState::Exported);
        assert_eq!((label.pool.as_deref(), label.pool_guid), (Some("rpool"), Some(9)));
        assert_eq!((label.hostid, label.txg, label.vdev_guid), (Some(0x8425_e349), 42, 7));
        assert_eq!(label.leaf_guids, [7]);
    }

    #[test]
    fn what_libzfs_skips_is_skipped() {
        // No transaction group: the label was never completed.
        assert_eq!(Label::parse(0, &list(0, 0)), None);
        // Spares and caches have none.
        assert_eq!(Label::parse(0, &list(4, 0)).unwrap().state, LabelState::Cache);
        assert_eq!(Label::parse(0, &list(5, 1)), None);
    }

    #[test]
    fn blank_short_and_noisy_devices_have_no_label() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for size in [0, 1000, 4 * LABEL_BYTES - 1, 16 << 20] {
            file.as_file().set_len(size).unwrap();
            assert_eq!(read_label(file.path()).unwrap(), None, "{size} bytes");
        }
        file.as_file().write_all_at(&[0xa5; 128 * 1024], LIST_OFFSET).unwrap();
        assert_eq!(read_label(file.path()).unwrap(), None);
        assert_eq!(clear_label(file.path()).unwrap(), Ensured::AlreadySo);
    }
}
