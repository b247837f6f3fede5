//! A table that is there and stays, and what the layout says of it.
//!
//! As disko's `sgdisk` calls leave it when they find a partition of that number: it keeps its
//! place and gets the layout's name, type and attributes (and GUID, if the layout has one;
//! otherwise it keeps its own, where disko draws a new one every time). Partitions of which the
//! layout says nothing stay as they are, those that are missing are added. The boot code in the
//! first sector stays, and a hybrid MBR too.

use super::ensure::GptError;
use super::image::{Guids, Image};
use super::read::{Entry, Gpt};
use crate::block::{BlockError, Device};
use keystone_protocol::plan::{PartitionTable, PlannedPartition};
use std::os::unix::fs::FileExt;
use uuid::Uuid;

/// The table to have.
pub struct Merged {
    /// All partitions, those that only the disk has among them.
    pub table: PartitionTable,
    /// Their GUIDs.
    pub guids: Guids,
    /// Its bytes.
    pub image: Image,
    /// Numbers of the partitions that the disk does not have yet.
    pub new: Vec<u32>,
}

/// Merges.
///
/// # Errors
/// [`GptError::Moved`] if a partition is elsewhere than planned, [`GptError::Foreign`] if the
/// table has another shape than those that are written here.
pub fn merged(device: &Device, table: &PartitionTable, found: &Gpt) -> Result<Merged, GptError> {
    check_shape(device)?;
    let guid = |text: &str| text.parse::<Uuid>().map_err(|_| GptError::Guid(text.to_owned()));
    let mut drawn = Guids::draw(table)?;
    drawn.disk = guid(&found.disk_guid)?;
    let mut partitions = Vec::new();
    let mut new = Vec::new();
    for planned in &table.partitions {
        match found.partitions.iter().find(|entry| entry.number == planned.number) {
            None => new.push(planned.number),
            Some(entry) => {
                check_place(planned, entry)?;
                if planned.guid.is_none() {
                    drawn.partitions.insert(planned.number, guid(&entry.guid)?);
                }
            }
        }
        partitions.push(planned.clone());
    }
    for entry in &found.partitions {
        if table.partitions.iter().any(|planned| planned.number == entry.number) {
            continue;
        }
        drawn.partitions.insert(entry.number, guid(&entry.guid)?);
        partitions.push(PlannedPartition {
            number: entry.number,
            name: format!("partition {}", entry.number),
            label: entry.label.clone(),
            type_guid: entry.type_guid.clone(),
            guid: Some(entry.guid.clone()),
            first_lba: entry.first_lba,
            last_lba: entry.last_lba,
            attributes: entry.attributes,
        });
    }
    partitions.sort_by_key(|partition| partition.number);
    let table = PartitionTable { partitions, ..table.clone() };
    let mut image = Image::new(device.size(), device.sector_size(), &table, &drawn)?;
    let mut first = vec![0; device.sector_size() as usize];
    device.file().read_exact_at(&mut first, 0).map_err(BlockError::io("reading", device.path()))?;
    image.keep_first_sector(&first);
    Ok(Merged { table, guids: drawn, image, new })
}

fn check_place(planned: &PlannedPartition, entry: &Entry) -> Result<(), GptError> {
    if (planned.first_lba, planned.last_lba) == (entry.first_lba, entry.last_lba) {
        return Ok(());
    }
    Err(GptError::Moved {
        number: planned.number,
        first: entry.first_lba,
        last: entry.last_lba,
        wanted: format!("the plan has it at {} to {}", planned.first_lba, planned.last_lba),
    })
}

/// Whether the primary header is of the shape that is written here: 128 entries after it, the
/// backup at the end of the disk.
fn check_shape(device: &Device) -> Result<(), GptError> {
    let sector = u64::from(device.sector_size());
    let mut header = [0; 92];
    device
        .file()
        .read_exact_at(&mut header, sector)
        .map_err(BlockError::io("reading", device.path()))?;
    let foreign = |why| Err(GptError::Foreign { disk: device.name().to_owned(), why });
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if &header[..8] != b"EFI PART" {
        return foreign("its primary copy is damaged; mend it with `sgdisk --load-backup`");
    }
    if long(32) != device.size() / sector - 1 {
        return foreign("its backup is not at the end of the disk; move it with `sgdisk -e`");
    }
    if long(72) != 2 || word(80) != 128 {
        return foreign("it has not 128 entries from LBA 2 on");
    }
    Ok(())
}
