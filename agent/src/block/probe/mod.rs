//! What is on a block device, recognised by its magic.
//!
//! Offsets and rules are those of util-linux' libblkid (2.40, `libblkid/src/superblocks/`) unless
//! a function says otherwise. Nothing is written; a damaged superblock is passed over, never
//! trusted.

mod container;
mod filesystem;
mod table;
mod used;

pub use table::table;

use keystone_protocol::inventory::Signature;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something to probe: a device, a partition, a file.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    file: &'a File,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
}

impl<'a> Source<'a> {
    /// Of an open file of that size.
    pub fn new(file: &'a File, size: u64, sector_size: u32) -> Self {
        Source { file, size, sector_size }
    }

    /// `length` bytes at `offset`; empty where the device does not reach that far.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

impl<'a> From<&'a super::Device> for Source<'a> {
    fn from(device: &'a super::Device) -> Self {
        Source::new(device.file(), device.size(), device.sector_size())
    }
}

/// All signatures of a device, containers first. A member of a ZFS pool is an
/// [`Signature::Other`] named [`ZFS_MEMBER`]: its label has to be read by the `zfs` module.
pub fn signatures(source: Source<'_>) -> io::Result<Vec<Signature>> {
    let mut found = container::signatures(source)?;
    found.extend(filesystem::signatures(source)?);
    if crate::gpt::is_damaged(source.file, source.size, source.sector_size) {
        found.push(Signature::Other { name: "damaged GPT".to_owned() });
    }
    Ok(found)
}

/// The name under which [`signatures`] lists a member of a ZFS pool.
pub const ZFS_MEMBER: &str = "zfs_member";

/// The type of the only file system on a device, if there is exactly one signature.
pub fn only_filesystem(source: Source<'_>) -> io::Result<Option<String>> {
    Ok(match signatures(source)?.as_slice() {
        [Signature::Filesystem { fstype, .. }] => Some(fstype.clone()),
        _ => None,
    })
}

/// `bytes[at..]` starts with `magic`.
fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..at + magic.len()) == Some(magic)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2).and_then(|word| word.try_into().ok());
    word.map_or(0, u16::from_le_bytes)
}

/// Text in a fixed field, up to the first NUL, trimmed; `None` if nothing is left.
fn text(bytes: &[u8], at: usize, length: usize) -> Option<String> {
    let field = bytes.get(at..at + length)?;
    let field = field.split(|byte| *byte == 0).next()?;
    let text = String::from_utf8_lossy(field).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A UUID in network order; `None` for the nil one.
fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let uuid = uuid::Uuid::from_slice(bytes.get(at..at + 16)?).ok()?;
    (!uuid.is_nil()).then(|| uuid.to_string())
}

#[cfg(test)]
mod tests;
