//! The table on the disk, and its partitions in the kernel and udev.

use super::image::{Guids, Image};
use super::merge;
use super::read::{Gpt, read};
use crate::block::reread::{self, Expected};
use crate::block::{BlockError, Device, DiskLock, Roots, wipe};
use crate::ensure::Ensured;
use keystone_protocol::plan::PartitionTable;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use thiserror::Error;
use uuid::Uuid;

/// A partition table can't be made.
#[derive(Debug, Error)]
pub enum GptError {
    /// The device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Not 512 or 4096.
    #[error("a sector size of {0} bytes is not supported")]
    SectorSize(u32),
    /// Not even the table fits.
    #[error("a disk of {size} bytes is too small for a partition table")]
    TooSmall {
        /// Its size.
        size: u64,
    },
    /// Numbers ascend.
    #[error("partition number {0} is out of order: they have to be 1, 2, 3, … up to 128")]
    Number(u32),
    /// Names have 36 UTF-16 units.
    #[error("the partition name {0:?} is longer than 36 characters")]
    Label(String),
    /// Not a GUID, nil, or used twice.
    #[error("{0} is no GUID for a partition table: not a GUID, nil, or used twice")]
    Guid(String),
    /// Outside of what the table leaves.
    #[error(
        "partition {number} (LBA {first} to {last}) is not within the disk's usable sectors \
         {first_usable} to {last_usable}"
    )]
    #[allow(missing_docs)]
    Outside { number: u32, first: u64, last: u64, first_usable: u64, last_usable: u64 },
    /// Two partitions share sectors.
    #[error("partitions {one} and {other} overlap")]
    #[allow(missing_docs)]
    Overlap { one: u32, other: u32 },
    /// A partition that is there is not where the plan has it.
    #[error(
        "partition {number} is there already, at LBA {first} to {last}, and is not moved: {wanted}"
    )]
    #[allow(missing_docs)]
    Moved { number: u32, first: u64, last: u64, wanted: String },
    /// A table that is to be kept is of a shape that is not written here.
    #[error("the table on {disk} can't be kept: {why}")]
    #[allow(missing_docs)]
    Foreign { disk: String, why: &'static str },
    /// A hybrid MBR shows 1 to 3 partitions of the table, below 2 TiB.
    #[error("a hybrid MBR can't show {0}")]
    Hybrid(String),
    /// The crate refused what was checked to be right.
    #[error("laying out the partition table: {0}")]
    Layout(String),
    /// A partition that should be there is not.
    #[error("the partition table of {disk} is not as planned: {what}")]
    NotThere {
        /// Kernel name.
        disk: String,
        /// What is not as it should be.
        what: String,
    },
    /// What was read back is not what was written.
    #[error("{disk} did not keep its partition table: {where_} reads back differently")]
    #[allow(missing_docs)]
    NotKept { disk: String, where_: &'static str },
}

/// The GUIDs of the table on a disk, lower case.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableIds {
    /// Disk GUID.
    pub disk_guid: String,
    /// Unique GUIDs of the partitions, by number.
    pub partitions: BTreeMap<u32, String>,
}

/// Makes the disk `disk` (a kernel name) have exactly `table`, and waits until the kernel and
/// udev show its partitions.
///
/// A table that is already so, byte for byte but for its GUIDs, stays. Otherwise the disk must not
/// be in use; what can be recognised where the new partitions begin and end is removed, so that
/// no old superblock comes back to life in a new partition.
///
/// Where [`PartitionTable::keep`] is set and there is a table, the disk may be in use: see
/// [`merge`].
pub fn ensure(
    roots: &Roots,
    disk: &str,
    table: &PartitionTable,
) -> Result<(Ensured, TableIds), GptError> {
    let lock = DiskLock::take(roots, disk)?;
    let device = Device::open_read(roots, disk)?;
    let (size, sector_size) = (device.size(), device.sector_size());
    let ours = numbers(table);
    let found = read(device.file(), size, sector_size);
    let merged = match &found {
        Some(found) if table.keep => Some(merge::merged(&device, table, found)?),
        _ => None,
    };
    let (table, change) = match merged {
        Some(merge::Merged { table, guids, image, new }) => {
            let same = matches!(is_on_disk(device.file(), &image), Ok(None));
            let change = (!same).then_some((image, Change::Add(new)));
            (table, Target { guids, change })
        }
        None => {
            let same = found.and_then(|gpt| guids_if_same(&device, table, &gpt));
            let target = match same {
                Some(guids) => Target { guids, change: None },
                None => {
                    let guids = Guids::draw(table)?;
                    let image = Image::new(size, sector_size, table, &guids)?;
                    Target { guids, change: Some((image, Change::Replace)) }
                }
            };
            (table.clone(), target)
        }
    };
    drop(device);
    let Target { guids, change } = change;
    let expected = expected(&table, &ours, sector_size, &guids);
    let ensured = match change {
        None => {
            reread::missing(roots, &lock, disk, &expected)?;
            Ensured::AlreadySo
        }
        Some((image, Change::Replace)) => {
            let device = Device::open_exclusive(roots, disk)?;
            replace(&device, &table, &image)?;
            drop(device);
            reread::kernel(roots, &lock, disk, &expected)?;
            Ensured::Created
        }
        Some((image, Change::Add(new))) => {
            let device = Device::open_shared(roots, disk)?;
            add(&device, &table, &image, &new)?;
            drop(device);
            // Rereading the table would make partitions vanish that may be in use.
            reread::missing(roots, &lock, disk, &expected)?;
            Ensured::Created
        }
    };
    drop(lock);
    reread::settled(roots, disk, &expected)?;
    Ok((ensured, ids(&guids)))
}

/// Looks that the disk `disk` (a kernel name) has the partitions of `table`, and waits until the
/// kernel and udev show them. Nothing is written, and the disk may be in use.
///
/// # Errors
/// [`GptError::NotThere`] if there is no table, or a partition is not where and what it should be.
pub fn find(roots: &Roots, disk: &str, table: &PartitionTable) -> Result<TableIds, GptError> {
    let device = Device::open_read(roots, disk)?;
    let (size, sector_size) = (device.size(), device.sector_size());
    let not_there = |what: String| GptError::NotThere { disk: disk.to_owned(), what };
    let found = read(device.file(), size, sector_size)
        .ok_or_else(|| not_there("there is no GPT".to_owned()))?;
    let mut guids = Guids {
        disk: found.disk_guid.parse().map_err(|_| GptError::Guid(found.disk_guid.clone()))?,
        partitions: BTreeMap::new(),
    };
    for planned in &table.partitions {
        let number = planned.number;
        let entry = found
            .partitions
            .iter()
            .find(|entry| entry.number == number)
            .ok_or_else(|| not_there(format!("partition {number} is missing")))?;
        let same = entry.first_lba == planned.first_lba
            && entry.last_lba == planned.last_lba
            && entry.label == planned.label
            && entry.type_guid.eq_ignore_ascii_case(&planned.type_guid);
        if !same {
            return Err(not_there(format!("partition {number} is another one")));
        }
        let guid = entry.guid.parse().map_err(|_| GptError::Guid(entry.guid.clone()))?;
        guids.partitions.insert(number, guid);
    }
    let sector = u64::from(sector_size);
    let ours = numbers(table);
    // Partitions beside the layout's are there too.
    let expected: Vec<Expected> = found
        .partitions
        .iter()
        .map(|entry| Expected {
            number: entry.number,
            start: entry.first_lba * sector,
            length: (entry.last_lba - entry.first_lba + 1) * sector,
            guid: entry.guid.clone(),
            label: ours.contains(&entry.number).then(|| entry.label.clone()),
        })
        .collect();
    reread::settled(roots, disk, &expected)?;
    Ok(ids(&guids))
}

/// A table to have, and how to get there.
struct Target {
    guids: Guids,
    change: Option<(Image, Change)>,
}

/// What is done to the disk.
enum Change {
    /// The whole table is new.
    Replace,
    /// The table stays and gets these partitions, by number.
    Add(Vec<u32>),
}

/// Writes `image` over a table that is kept. It is valid at every moment, from one of its copies
/// at least: the backup is whole before the primary is touched.
fn add(
    device: &Device,
    table: &PartitionTable,
    image: &Image,
    new: &[u32],
) -> Result<(), GptError> {
    let sector = u64::from(device.sector_size());
    for planned in table.partitions.iter().filter(|planned| new.contains(&planned.number)) {
        wipe::region(device, planned.first_lba * sector..(planned.last_lba + 1) * sector)?;
    }
    write(device.file(), device.sector_size(), image)
        .map_err(BlockError::io("writing", device.path()))?;
    kept(device, image)
}

/// Makes a disk look empty again after something failed: removes both headers of its table and
/// the protective MBR. Nothing else is touched; the disk may be in use.
pub fn invalidate(roots: &Roots, disk: &str) -> Result<(), GptError> {
    let _lock = DiskLock::take(roots, disk)?;
    let path = roots.node(disk);
    let file = File::options()
        .write(true)
        .read(true)
        .open(&path)
        .map_err(BlockError::io("opening", &path))?;
    let device = Device::open_read(roots, disk)?;
    zero_headers(&file, device.size(), device.sector_size())
        .map_err(BlockError::io("writing", &path))?;
    Ok(())
}

pub(crate) fn zero_headers(file: &File, size: u64, sector_size: u32) -> io::Result<()> {
    let sector = u64::from(sector_size);
    let zeroes = vec![0; sector_size as usize];
    for lba in [1, (size / sector).saturating_sub(1), 0] {
        file.write_all_at(&zeroes, lba * sector)?;
    }
    file.sync_all()
}

/// Writes `image`, invalidating what was there first and making it valid last.
fn replace(device: &Device, table: &PartitionTable, image: &Image) -> Result<(), GptError> {
    let sector = u64::from(device.sector_size());
    zero_headers(device.file(), device.size(), device.sector_size())
        .map_err(BlockError::io("writing", device.path()))?;
    for planned in &table.partitions {
        wipe::region(device, planned.first_lba * sector..(planned.last_lba + 1) * sector)?;
    }
    write(device.file(), device.sector_size(), image)
        .map_err(BlockError::io("writing", device.path()))?;
    kept(device, image)
}

fn kept(device: &Device, image: &Image) -> Result<(), GptError> {
    let kept =
        is_on_disk(device.file(), image).map_err(BlockError::io("reading", device.path()))?;
    match kept {
        None => Ok(()),
        Some(where_) => Err(GptError::NotKept { disk: device.name().to_owned(), where_ }),
    }
}

/// Backup and entries first, then the primary header, then the protective MBR; each on stable
/// storage before the next.
pub(super) fn write(file: &File, sector_size: u32, image: &Image) -> io::Result<()> {
    let sector = sector_size as usize;
    file.write_all_at(&image.tail, image.tail_at)?;
    file.write_all_at(&image.head[2 * sector..], 2 * u64::from(sector_size))?;
    file.sync_all()?;
    file.write_all_at(&image.head[sector..2 * sector], u64::from(sector_size))?;
    file.sync_all()?;
    file.write_all_at(&image.head[..sector], 0)?;
    file.sync_all()
}

/// Which part of `image` is not on the disk.
fn is_on_disk(file: &File, image: &Image) -> io::Result<Option<&'static str>> {
    for (bytes, at, name) in
        [(&image.head, 0, "the primary copy"), (&image.tail, image.tail_at, "the backup copy")]
    {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, at)?;
        if found != *bytes {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The GUIDs of `found` if the disk holds exactly `table` with them.
fn guids_if_same(device: &Device, table: &PartitionTable, found: &Gpt) -> Option<Guids> {
    let guids = Guids {
        disk: found.disk_guid.parse().ok()?,
        partitions: found
            .partitions
            .iter()
            .map(|entry| Some((entry.number, entry.guid.parse::<Uuid>().ok()?)))
            .collect::<Option<_>>()?,
    };
    let as_given = table.partitions.iter().all(|planned| match &planned.guid {
        Some(given) => given.parse::<Uuid>().ok().as_ref() == guids.partitions.get(&planned.number),
        None => true,
    });
    if !as_given || guids.partitions.len() != table.partitions.len() {
        return None;
    }
    let image = Image::new(device.size(), device.sector_size(), table, &guids).ok()?;
    matches!(is_on_disk(device.file(), &image), Ok(None)).then_some(guids)
}

fn numbers(table: &PartitionTable) -> BTreeSet<u32> {
    table.partitions.iter().map(|planned| planned.number).collect()
}

/// Names of the layout's partitions matter, `ours`; what others have may be none that udev shows.
fn expected(
    table: &PartitionTable,
    ours: &BTreeSet<u32>,
    sector_size: u32,
    guids: &Guids,
) -> Vec<Expected> {
    let sector = u64::from(sector_size);
    table
        .partitions
        .iter()
        .map(|planned| Expected {
            number: planned.number,
            start: planned.first_lba * sector,
            length: (planned.last_lba - planned.first_lba + 1) * sector,
            guid: guids.partitions[&planned.number].to_string(),
            label: ours.contains(&planned.number).then(|| planned.label.clone()),
        })
        .collect()
}

fn ids(guids: &Guids) -> TableIds {
    let partitions = guids.partitions.iter().map(|(number, guid)| (*number, guid.to_string()));
    TableIds { disk_guid: guids.disk.to_string(), partitions: partitions.collect() }
}
