//! Swap headers: the first page of what is swapped to.
//!
//! The same as `mkswap` (util-linux 2.40, `disk-utils/mkswap.c`) writes. Source of the format:
//! Linux `include/linux/swap.h`, `union swap_header`: from byte 1024 on version, last page,
//! number of bad pages, UUID and label; the magic ends the page. Numbers are in the machine's
//! byte order, the page has the size of the machine's.

use super::FilesystemError;
use crate::block::{BlockError, Device, DiskLock, Roots};
use crate::ensure::Ensured;
use keystone_protocol::inventory::Signature;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

const INFO: usize = 1024;
const VERSION: u32 = 1;
const MAGIC: &[u8] = b"SWAPSPACE2";
const LABEL: usize = 16;

/// mkswap refuses less (`MIN_GOODPAGES`).
const LEAST_PAGES: u64 = 10;

/// Writes a swap header to the device `name`, unless it has one. `uuid` is drawn if none is
/// given.
///
/// # Errors
/// [`FilesystemError::Occupied`] if something else is there.
pub fn ensure(
    roots: &Roots,
    name: &str,
    label: Option<&str>,
    uuid: Option<&str>,
) -> Result<Ensured, FilesystemError> {
    let _lock = DiskLock::take(roots, name)?;
    // One that is there may be swapped to.
    let there = Device::open_read(roots, name)?;
    if super::there(&there, |found| *found == Signature::Swap)?.is_some() {
        return same(&there, label, uuid);
    }
    drop(there);
    let device = Device::open_exclusive(roots, name)?;
    let least = LEAST_PAGES * page_size();
    if device.size() < least {
        return Err(FilesystemError::TooSmall {
            device: name.to_owned(),
            fstype: "swap",
            size: device.size(),
            least,
        });
    }
    let header = header(device.size(), label, uuid)?;
    device.write_at(&header, 0)?;
    device.sync()?;
    let mut kept = vec![0; header.len()];
    device.file().read_exact_at(&mut kept, 0).map_err(BlockError::io("reading", device.path()))?;
    if kept != header {
        return Err(FilesystemError::NotKept {
            device: name.to_owned(),
            fstype: "swap".to_owned(),
            found: "another first page".to_owned(),
        });
    }
    Ok(Ensured::Created)
}

/// Whether swap that is there has the label and the UUID, as far as they are given.
fn same(
    device: &Device,
    label: Option<&str>,
    uuid: Option<&str>,
) -> Result<Ensured, FilesystemError> {
    let mut page = vec![0; INFO + 28 + LABEL];
    device.file().read_exact_at(&mut page, 0).map_err(BlockError::io("reading", device.path()))?;
    let differs = |what, found: String, wanted: &str| FilesystemError::Differs {
        device: device.name().to_owned(),
        what,
        found,
        wanted: wanted.to_owned(),
    };
    let bytes = &page[INFO + 28..];
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(LABEL);
    let found = String::from_utf8_lossy(&bytes[..length]).into_owned();
    if let Some(label) = label.filter(|label| *label != found) {
        return Err(differs("label", found, label));
    }
    let found = Uuid::from_slice(&page[INFO + 12..INFO + 28]).unwrap_or_default().to_string();
    if let Some(uuid) = uuid.filter(|uuid| !uuid.eq_ignore_ascii_case(&found)) {
        return Err(differs("UUID", found, uuid));
    }
    Ok(Ensured::AlreadySo)
}

/// The first page of `size` bytes of swap.
///
/// # Errors
/// The label is too long, or the UUID none.
pub fn header(
    size: u64,
    label: Option<&str>,
    uuid: Option<&str>,
) -> Result<Vec<u8>, FilesystemError> {
    let uuid = match uuid {
        None => Uuid::new_v4(),
        Some(text) => Uuid::parse_str(text).map_err(|_| FilesystemError::Uuid(text.to_owned()))?,
    };
    let label = label.unwrap_or_default();
    if label.len() > LABEL {
        let (fstype, label) = ("swap", label.to_owned());
        return Err(FilesystemError::Label { fstype, label, most: LABEL });
    }
    let last_page = u32::try_from(size / page_size() - 1).unwrap_or(u32::MAX);
    let mut page = vec![0; page_size() as usize];
    page[INFO..INFO + 4].copy_from_slice(&VERSION.to_ne_bytes());
    page[INFO + 4..INFO + 8].copy_from_slice(&last_page.to_ne_bytes());
    page[INFO + 12..INFO + 28].copy_from_slice(uuid.as_bytes());
    page[INFO + 28..INFO + 28 + label.len()].copy_from_slice(label.as_bytes());
    let end = page.len();
    page[end - MAGIC.len()..].copy_from_slice(MAGIC);
    Ok(page)
}

/// The machine's page size, in bytes.
pub fn page_size() -> u64 {
    // SAFETY: the call only returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}
