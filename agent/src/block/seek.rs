//! Positions, for what is read and written like a file.

use std::io::{self, SeekFrom};

/// The position that `to` means from `position`, in something of `size` bytes; in bytes. It may lie
/// behind the end, as in files.
///
/// # Errors
/// It would lie before the beginning.
pub(crate) fn seek(position: u64, size: u64, to: SeekFrom) -> io::Result<u64> {
    let found = match to {
        SeekFrom::Start(at) => Some(at),
        SeekFrom::End(by) => size.checked_add_signed(by),
        SeekFrom::Current(by) => position.checked_add_signed(by),
    };
    found.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
