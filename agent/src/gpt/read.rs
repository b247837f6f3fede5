//! The table on a disk.

use ::gpt::GptConfig;
use ::gpt::disk::LogicalBlockSize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Disk GUID, lower case.
    pub disk_guid: String,
    /// Used entries, by number.
    pub partitions: Vec<Entry>,
    /// Logical sector size in bytes.
    pub sector_size: u32,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number in the table.
    pub number: u32,
    /// Type GUID, upper case.
    pub type_guid: String,
    /// Unique GUID, lower case.
    pub guid: String,
    /// Name.
    pub label: String,
    /// First LBA.
    pub first_lba: u64,
    /// Last LBA, inclusive.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
}

impl Gpt {
    /// Where the partitions are, in bytes. Entries that end before they start are left out.
    pub fn regions(&self) -> Vec<Range<u64>> {
        let sector = u64::from(self.sector_size);
        self.partitions
            .iter()
            .filter_map(|entry| {
                let start = entry.first_lba.checked_mul(sector)?;
                let end = entry.last_lba.checked_add(1)?.checked_mul(sector)?;
                (start < end).then_some(start..end)
            })
            .collect()
    }
}

/// Reads the table of a disk, from the copy at its end if the primary one is damaged. `None` if
/// there is none, or none that can be trusted.
pub fn read(file: &File, size: u64, sector_size: u32) -> Option<Gpt> {
    let sectors = size / u64::from(sector_size);
    let primary = peek(file, sector_size, 1);
    let backup = peek(file, sector_size, sectors.checked_sub(1)?);
    // The crate takes the shape of the entries on trust, so foreign ones do not get there.
    if ![primary, backup].into_iter().flatten().all(|shape| shape == Shape::Ours)
        || (primary.is_none() && backup.is_none())
    {
        return None;
    }
    let block = LogicalBlockSize::try_from(u64::from(sector_size)).ok()?;
    let device = Positioned { file, size, position: 0 };
    let disk = GptConfig::new().logical_block_size(block).open_from_device(device).ok()?;
    let used = disk.partitions().iter().filter(|(_, partition)| partition.is_used());
    Some(Gpt {
        disk_guid: disk.guid().to_string(),
        partitions: used
            .map(|(number, partition)| Entry {
                number: *number,
                type_guid: partition.part_type_guid.guid.to_string().to_uppercase(),
                guid: partition.part_guid.to_string(),
                label: partition.name.clone(),
                first_lba: partition.first_lba,
                last_lba: partition.last_lba,
                attributes: partition.flags,
            })
            .collect(),
        sector_size,
    })
}

/// Whether a disk has the magic of a GPT but no table that can be read.
pub fn is_damaged(file: &File, size: u64, sector_size: u32) -> bool {
    let last = (size / u64::from(sector_size)).saturating_sub(1);
    [1, last].into_iter().any(|lba| peek(file, sector_size, lba).is_some())
        && read(file, size, sector_size).is_none()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// At most 1024 entries of 128 bytes.
    Ours,
    Other,
}

/// Whether a header is at `lba`, and what its entries look like.
fn peek(file: &File, sector_size: u32, lba: u64) -> Option<Shape> {
    let mut header = [0; 92];
    file.read_exact_at(&mut header, lba.checked_mul(u64::from(sector_size))?).ok()?;
    if &header[..8] != b"EFI PART" {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let shape = word(84) == 128 && word(80) <= 1024;
    Some(if shape { Shape::Ours } else { Shape::Other })
}

/// A file read by position, of the size the device has, without moving the descriptor's own.
#[derive(Debug)]
struct Positioned<'a> {
    file: &'a File,
    size: u64,
    position: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Positioned<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = crate::block::seek::seek(self.position, self.size, to)?;
        Ok(self.position)
    }
}

/// The crate asks for it even to read.
impl Write for Positioned<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
