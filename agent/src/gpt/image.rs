//! The bytes of a table, before they are on any disk.

use super::ensure::GptError;
use super::hybrid;
use ::gpt::disk::LogicalBlockSize;
use ::gpt::mbr::ProtectiveMBR;
use ::gpt::partition::Partition;
use ::gpt::partition_types::Type;
use ::gpt::{GptConfig, GptDisk};
use keystone_protocol::plan::PartitionTable;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom, Write};
use uuid::Uuid;

/// Entries in the table; the specification's minimum is 16 KiB of them.
const ENTRIES: u64 = 128;
const ENTRY_BYTES: u64 = 128;

/// The GUIDs of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guids {
    /// Of the disk.
    pub disk: Uuid,
    /// Of the partitions, by number.
    pub partitions: BTreeMap<u32, Uuid>,
}

impl Guids {
    /// Random ones, except where the plan gives one.
    pub fn draw(table: &PartitionTable) -> Result<Self, GptError> {
        let mut partitions = BTreeMap::new();
        for partition in &table.partitions {
            let guid = match &partition.guid {
                Some(guid) => parse(guid)?,
                None => Uuid::new_v4(),
            };
            partitions.insert(partition.number, guid);
        }
        Ok(Guids { disk: Uuid::new_v4(), partitions })
    }
}

fn parse(guid: &str) -> Result<Uuid, GptError> {
    match guid.parse::<Uuid>() {
        Ok(parsed) if !parsed.is_nil() => Ok(parsed),
        _ => Err(GptError::Guid(guid.to_owned())),
    }
}

/// Both ends of a disk with a table on it: LBA 0 up to the first usable one, and from after the
/// last usable one to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// From the start of the disk: protective MBR, header, entries.
    pub head: Vec<u8>,
    /// Up to the end of the disk: entries, header.
    pub tail: Vec<u8>,
    /// Where the tail starts, in bytes.
    pub tail_at: u64,
}

/// What of the first sector is code, in bytes; the rest is the MBR's table.
const BOOT_CODE: usize = 446;

/// Where the four entries of 16 bytes that follow it end.
const BOOT_SIGNATURE: usize = 510;
/// What an MBR occupies, whatever the sector size.
const SECTOR: usize = 512;

impl Image {
    /// Keeps the boot code that is in a disk's first sector, and its MBR if that shows more than
    /// a protective entry (type 0xEE; UEFI 2.10, 5.2.3): somebody boots by it.
    pub fn keep_first_sector(&mut self, sector: &[u8]) {
        let hybrid = sector.get(BOOT_CODE..BOOT_SIGNATURE).is_some_and(|entries| {
            entries.chunks_exact(16).any(|entry| !matches!(entry[4], 0 | 0xee))
        });
        let kept = if hybrid { BOOT_SIGNATURE } else { BOOT_CODE }.min(sector.len());
        self.head[..kept].copy_from_slice(&sector[..kept]);
    }

    /// Lays `table` out for a disk of that size, in bytes. Every rule is checked here: what the
    /// crate is given is right.
    pub fn new(
        size: u64,
        sector_size: u32,
        table: &PartitionTable,
        guids: &Guids,
    ) -> Result<Self, GptError> {
        let sector = u64::from(sector_size);
        let block =
            LogicalBlockSize::try_from(sector).map_err(|_| GptError::SectorSize(sector_size))?;
        let sectors = size / sector;
        let array = (ENTRIES * ENTRY_BYTES).div_ceil(sector);
        let first_usable = 2 + array;
        // The last sector is the backup header's; at least one has to be left in between.
        let last_usable = match sectors.checked_sub(array + 2) {
            Some(last) if last >= first_usable => last,
            _ => return Err(GptError::TooSmall { size }),
        };
        check(table, first_usable, last_usable)?;
        check_guids(table, guids)?;
        let ends = Ends {
            head: vec![0; (first_usable * sector) as usize],
            tail: vec![0; ((array + 1) * sector) as usize],
            size: sectors * sector,
            position: 0,
        };
        let mut ends = lay_out(ends, block, sectors, table, guids)?;
        if let Some(hybrid) = &table.hybrid {
            ends.head[..SECTOR].copy_from_slice(&hybrid::sector(hybrid, table)?);
        }
        let tail_at = ends.size - ends.tail.len() as u64;
        Ok(Image { head: ends.head, tail: ends.tail, tail_at })
    }
}

fn lay_out(
    mut ends: Ends,
    block: LogicalBlockSize,
    sectors: u64,
    table: &PartitionTable,
    guids: &Guids,
) -> Result<Ends, GptError> {
    protective_mbr(sectors)
        .overwrite_lba0(&mut ends)
        .map_err(|error| GptError::Layout(error.to_string()))?;
    let layout = |error: ::gpt::GptError| GptError::Layout(error.to_string());
    let mut disk: GptDisk<Ends> = GptConfig::new()
        .writable(true)
        .logical_block_size(block)
        .create_from_device(ends, Some(guids.disk))
        .map_err(layout)?;
    let mut partitions = BTreeMap::new();
    for planned in &table.partitions {
        let partition = Partition {
            part_type_guid: Type::from(parse(&planned.type_guid)?),
            part_guid: guids.partitions[&planned.number],
            first_lba: planned.first_lba,
            last_lba: planned.last_lba,
            flags: planned.attributes,
            name: planned.label.clone(),
        };
        partitions.insert(planned.number, partition);
    }
    disk.update_partitions(partitions).map_err(layout)?;
    disk.write().map_err(layout)
}

/// The protective MBR. Its only partition ends at the cylinder, head and sector of the disk's last
/// sector, or at `ff ff ff` where those can't count so far (UEFI 2.10, table 5.4); the crate always
/// writes the latter.
fn protective_mbr(sectors: u64) -> ProtectiveMBR {
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let mut mbr = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    let last = sectors - 1;
    let cylinder = last / (HEADS * SECTORS);
    if let (Some(mut whole), 0..=1023) = (mbr.partition(0), cylinder) {
        whole.end_head = (last / SECTORS % HEADS) as u8;
        whole.end_sector = (last % SECTORS + 1) as u8 | (cylinder >> 8 << 6) as u8;
        whole.end_track = (cylinder & 0xff) as u8;
        mbr.set_partition(0, whole);
    }
    mbr
}

fn check(table: &PartitionTable, first_usable: u64, last_usable: u64) -> Result<(), GptError> {
    let mut taken: Vec<(u64, u64, u32)> = Vec::new();
    for (index, planned) in table.partitions.iter().enumerate() {
        let number = planned.number;
        // The crate writes entries one after the other, so a gap would renumber what follows.
        if number as usize != index + 1 || index as u64 >= ENTRIES {
            return Err(GptError::Number(number));
        }
        if planned.label.encode_utf16().count() > 36 {
            return Err(GptError::Label(planned.label.clone()));
        }
        let (first, last) = (planned.first_lba, planned.last_lba);
        if first > last || first < first_usable || last > last_usable {
            return Err(GptError::Outside { number, first, last, first_usable, last_usable });
        }
        if let Some((_, _, other)) = taken.iter().find(|(f, l, _)| first <= *l && *f <= last) {
            return Err(GptError::Overlap { one: *other, other: number });
        }
        taken.push((first, last, number));
    }
    Ok(())
}

fn check_guids(table: &PartitionTable, guids: &Guids) -> Result<(), GptError> {
    let mut seen = BTreeSet::from([guids.disk]);
    for planned in &table.partitions {
        let guid = guids.partitions.get(&planned.number).copied().unwrap_or_default();
        if guid.is_nil() || !seen.insert(guid) {
            return Err(GptError::Guid(guid.to_string()));
        }
    }
    Ok(())
}

/// A disk of which only the two ends are held. What the crate writes lies there; anything else
/// is an error.
#[derive(Debug)]
struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    size: u64,
    position: u64,
}

impl Ends {
    /// The bytes from the position on, as far as that end reaches.
    fn here(&mut self) -> io::Result<&mut [u8]> {
        let tail_at = self.size - self.tail.len() as u64;
        let (end, offset) = if self.position >= tail_at {
            (&mut self.tail, self.position - tail_at)
        } else {
            (&mut self.head, self.position)
        };
        end.get_mut(offset as usize..).ok_or_else(|| {
            io::Error::other(format!("byte {} belongs to no partition table", self.position))
        })
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = self.here()?;
        let length = here.len().min(buffer.len());
        buffer[..length].copy_from_slice(&here[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let here = self.here()?;
        let length = here.len().min(bytes.len());
        here[..length].copy_from_slice(&bytes[..length]);
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = crate::block::seek::seek(self.position, self.size, to)?;
        Ok(self.position)
    }
}
