//! The table on the disk, and its partitions in the kernel and udev.

use super::{Entry, sector};
use crate::block::reread::{self, Expected};
use crate::block::{BlockError, Device, DiskLock, Roots, wipe};
use crate::ensure::Ensured;
use crate::gpt::TableIds;
use keystone_protocol::plan::{MbrKind, MbrPartition, MbrTable};
use std::os::unix::fs::FileExt;
use thiserror::Error;

/// Type of the entry that names the next sector of the chain.
const CHAIN: u8 = 0x05;

/// An MBR table can't be made.
#[derive(Debug, Error)]
pub enum MbrError {
    /// The device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// An MBR can't describe it.
    #[error("an MBR can't describe partition {number}: {why}")]
    #[allow(missing_docs)]
    Partition { number: u32, why: &'static str },
    /// A table that is to be kept is not the layout's.
    #[error(
        "{disk} has a partition table already, and it is not the layout's: an MBR is kept as it \
         is or made anew"
    )]
    #[allow(missing_docs)]
    Other { disk: String },
    /// What was read back is not what was written.
    #[error("{disk} did not keep its partition table: sector {lba} reads back differently")]
    #[allow(missing_docs)]
    NotKept { disk: String, lba: u64 },
}

/// A sector of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sector {
    pub(super) lba: u64,
    pub(super) bytes: [u8; 512],
}

/// Makes the disk `disk` (a kernel name) have exactly `table`, and waits until the kernel and
/// udev show its partitions. A table that is already so, but for its signature and boot code,
/// stays. Otherwise the disk must not be in use, and what can be recognised where partitions
/// begin and end is removed.
///
/// # Errors
/// [`MbrError::Other`] if a table is to be kept and is not this one.
pub fn ensure(
    roots: &Roots,
    disk: &str,
    table: &MbrTable,
) -> Result<(Ensured, TableIds), MbrError> {
    let lock = DiskLock::take(roots, disk)?;
    let device = Device::open_read(roots, disk)?;
    let sector_size = device.sector_size();
    let there = signature(&device, table)?;
    let is_blank = wipe::is_blank(&device)?;
    drop(device);
    let (ensured, signature) = match there {
        Some(signature) => (Ensured::AlreadySo, signature),
        None if table.keep && !is_blank => {
            return Err(MbrError::Other { disk: disk.to_owned() });
        }
        None => {
            let signature = rand::random::<u32>() | 1;
            let sectors = lay_out(table, signature)?;
            let device = Device::open_exclusive(roots, disk)?;
            replace(&device, table, &sectors)?;
            (Ensured::Created, signature)
        }
    };
    let expected = expected(table, sector_size, signature);
    match ensured {
        Ensured::Created => reread::kernel(roots, &lock, disk, &expected)?,
        // Rereading an unchanged table would make partitions vanish that may be in use.
        Ensured::AlreadySo => reread::missing(roots, &lock, disk, &expected)?,
    }
    drop(lock);
    reread::settled(roots, disk, &expected)?;
    let partitions = expected.into_iter().map(|expected| (expected.number, expected.guid));
    Ok((
        ensured,
        TableIds { disk_guid: format!("{signature:08x}"), partitions: partitions.collect() },
    ))
}

/// The sectors of a table, the chain's before the first.
pub(super) fn lay_out(table: &MbrTable, signature: u32) -> Result<Vec<Sector>, MbrError> {
    let of = |kind| move |partition: &&MbrPartition| partition.kind == kind;
    let extended = table.partitions.iter().find(of(MbrKind::Extended));
    let logical: Vec<_> = table.partitions.iter().filter(of(MbrKind::Logical)).collect();
    let mut sectors = Vec::new();
    for (index, partition) in logical.iter().enumerate() {
        let wrong = |why| MbrError::Partition { number: partition.number, why };
        let extended = extended.ok_or_else(|| wrong("there is no extended partition"))?;
        let lba = partition.table_lba.ok_or_else(|| wrong("it has no sector of its own"))?;
        if lba >= partition.first_lba || lba < extended.first_lba {
            return Err(wrong("its own sector does not lie before it in the extended one"));
        }
        if index == 0 && lba != extended.first_lba {
            return Err(wrong("the chain does not begin where the extended one does"));
        }
        let mut entries = vec![entry(partition, lba)?];
        if let Some(next) = logical.get(index + 1) {
            let at = next.table_lba.ok_or_else(|| wrong("the next has no sector of its own"))?;
            entries.push(Entry {
                kind: CHAIN,
                bootable: false,
                first: narrow(at - extended.first_lba, partition.number)?,
                sectors: narrow(next.last_lba - at + 1, partition.number)?,
            });
        }
        sectors.push(Sector { lba, bytes: sector(&entries, 0) });
    }
    let mut entries = [Entry { kind: 0, bootable: false, first: 0, sectors: 0 }; 4];
    for partition in table.partitions.iter().filter(|p| p.kind != MbrKind::Logical) {
        let slot = (partition.number as usize).checked_sub(1).and_then(|i| entries.get_mut(i));
        let wrong =
            MbrError::Partition { number: partition.number, why: "its number is not 1 to 4" };
        *slot.ok_or(wrong)? = entry(partition, 0)?;
    }
    let mut first = sector(&entries, signature);
    // Unused entries are zero, as every tool leaves them.
    for (index, unused) in entries.iter().enumerate().filter(|(_, entry)| entry.kind == 0) {
        debug_assert_eq!(unused.sectors, 0);
        first[446 + index * 16..446 + (index + 1) * 16].fill(0);
    }
    sectors.push(Sector { lba: 0, bytes: first });
    Ok(sectors)
}

fn entry(partition: &MbrPartition, base: u64) -> Result<Entry, MbrError> {
    let number = partition.number;
    if partition.last_lba < partition.first_lba || partition.first_lba <= base {
        return Err(MbrError::Partition { number, why: "it ends before it begins" });
    }
    Ok(Entry {
        kind: partition.type_code,
        bootable: partition.bootable,
        first: narrow(partition.first_lba - base, number)?,
        sectors: narrow(partition.last_lba - partition.first_lba + 1, number)?,
    })
}

fn narrow(value: u64, number: u32) -> Result<u32, MbrError> {
    let why = "it lies beyond what 32 bits can count";
    u32::try_from(value).map_err(|_| MbrError::Partition { number, why })
}

/// The signature of the table on a disk, if it is `table`.
fn signature(device: &Device, table: &MbrTable) -> Result<Option<u32>, MbrError> {
    let mut first = [0; 512];
    read(device, 0, &mut first)?;
    let signature = u32::from_le_bytes(first[440..444].try_into().expect("four bytes"));
    if first[510..] != [0x55, 0xaa] || signature == 0 {
        return Ok(None);
    }
    for wanted in lay_out(table, signature)? {
        let mut found = [0; 512];
        read(device, wanted.lba, &mut found)?;
        if found[446..] != wanted.bytes[446..] {
            return Ok(None);
        }
    }
    Ok(Some(signature))
}

fn read(device: &Device, lba: u64, bytes: &mut [u8; 512]) -> Result<(), BlockError> {
    let at = lba * u64::from(device.sector_size());
    device.file().read_exact_at(bytes, at).map_err(BlockError::io("reading", device.path()))
}

/// Removes a GPT that was there and what is where the partitions will be; the chain comes before
/// the first sector, which makes it valid.
fn replace(device: &Device, table: &MbrTable, sectors: &[Sector]) -> Result<(), MbrError> {
    let sector = u64::from(device.sector_size());
    crate::gpt::ensure::zero_headers(device.file(), device.size(), device.sector_size())
        .map_err(BlockError::io("writing", device.path()))?;
    for partition in table.partitions.iter().filter(|p| p.kind != MbrKind::Extended) {
        wipe::region(device, partition.first_lba * sector..(partition.last_lba + 1) * sector)?;
    }
    for written in sectors {
        device.write_at(&written.bytes, written.lba * sector)?;
        device.sync()?;
    }
    for written in sectors {
        let mut found = [0; 512];
        read(device, written.lba, &mut found)?;
        if found != written.bytes {
            let disk = device.name().to_owned();
            return Err(MbrError::NotKept { disk, lba: written.lba });
        }
    }
    Ok(())
}

fn expected(table: &MbrTable, sector_size: u32, signature: u32) -> Vec<Expected> {
    let sector = u64::from(sector_size);
    let mut expected: Vec<Expected> = table
        .partitions
        .iter()
        .map(|partition| {
            let length = (partition.last_lba - partition.first_lba + 1) * sector;
            Expected {
                number: partition.number,
                start: partition.first_lba * sector,
                // The kernel shows two sectors of 512 bytes of an extended one, for boot loaders.
                length: match partition.kind {
                    MbrKind::Extended => length.min(sector.max(1024)),
                    MbrKind::Primary | MbrKind::Logical => length,
                },
                guid: format!("{signature:08x}-{:02x}", partition.number),
                label: None,
            }
        })
        .collect();
    expected.sort_by_key(|expected| expected.number);
    expected
}
