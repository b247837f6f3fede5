//! Where partitions lie: what `sgdisk` makes of disko's commands.
//!
//! disko makes partitions one by one, each by its own
//!
//! ```sh
//! sgdisk --align-end [--set-alignment=N] --new=NUMBER:START:END … DEVICE
//! ```
//!
//! and an installed system must not depend on which of the two laid out its disk. So the rules of
//! gptfdisk 1.0.9 (`gptcl.cc` option `n`, `support.cc` `IeeeToInt`, `gpt.cc` `Align`,
//! `FindLastInFree`, `ComputeAlignment`, `CreatePartition`) are followed to the sector:
//!
//! * Partitions begin at multiples of 1 MiB, or at the largest power of two below that at which
//!   all earlier ones begin, but on disks from 300 GB never less than 8 sectors.
//! * A partition goes into the largest free area; its first aligned sector is the default start,
//!   and the area's end, moved back to the alignment if that is possible, the default end.
//! * `+SIZE` as an end counts from the start, `-SIZE` back from the default end; neither is
//!   aligned again.
//!
//! The tests compare with the real program over many sizes, both sector sizes.

use super::words::human;
use keystone_protocol::layout::{Anchor, Partition, Position};
use thiserror::Error;

/// Entries of the table. gptfdisk and the UEFI specification's minimum agree.
const ENTRIES: u64 = 128;
/// Size of an entry, in bytes.
const ENTRY_SIZE: u64 = 128;
/// Alignment, in bytes.
const ALIGNMENT: u64 = 1 << 20;
/// From this many sectors on, [`LARGE_DISK_ALIGNMENT`] is the least alignment.
const LARGE_DISK: u64 = 585_937_500;
/// In sectors.
const LARGE_DISK_ALIGNMENT: u64 = 8;

/// What the layout says about a partition's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Where it begins.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
    /// Alignment in sectors, instead of the disk's.
    pub alignment: Option<u32>,
}

impl From<&Partition> for Wanted {
    fn from(partition: &Partition) -> Self {
        Wanted { start: partition.start, end: partition.end, alignment: partition.alignment }
    }
}

/// A partition's place, in logical sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First LBA.
    pub first: u64,
    /// Last LBA, inclusive.
    pub last: u64,
}

impl Extent {
    /// Number of sectors.
    pub fn sectors(self) -> u64 {
        self.last - self.first + 1
    }
}

/// A partition that has no room.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// Not even the table has room.
    #[error("too small for a partition table")]
    NoTable,
    /// Nothing is left for this partition.
    #[error("nothing is left on the disk for partition {number}")]
    Full {
        /// Its number, from 1.
        number: usize,
    },
    /// It does not fit into what is left.
    #[error("partition {number} does not fit into the {} that are left", human(*left))]
    NoRoom {
        /// Its number, from 1.
        number: usize,
        /// Size of the largest free area, aligned, in bytes.
        left: u64,
    },
}

/// The places of `wanted` on an empty disk of `bytes`, made in that order.
pub fn allocate(
    bytes: u64,
    sector_size: u32,
    wanted: &[Wanted],
) -> Result<Vec<Extent>, GeometryError> {
    let mut table = Table::new(bytes, sector_size)?;
    for wanted in wanted {
        table.add(wanted)?;
    }
    Ok(table.used)
}

/// A table being filled.
struct Table {
    sector_size: u32,
    disk_sectors: u64,
    first_usable: u64,
    last_usable: u64,
    used: Vec<Extent>,
}

impl Table {
    fn new(bytes: u64, sector_size: u32) -> Result<Self, GeometryError> {
        let disk_sectors = bytes / u64::from(sector_size);
        let entries = (ENTRIES * ENTRY_SIZE).div_ceil(u64::from(sector_size));
        if disk_sectors <= entries * 2 + 3 {
            return Err(GeometryError::NoTable);
        }
        // Protective MBR, header and entries; the same from the end, without the MBR.
        let first_usable = 2 + entries;
        let last_usable = disk_sectors - first_usable;
        Ok(Table { sector_size, disk_sectors, first_usable, last_usable, used: Vec::new() })
    }

    fn add(&mut self, wanted: &Wanted) -> Result<(), GeometryError> {
        let number = self.used.len() + 1;
        let align = wanted.alignment.map_or_else(|| self.alignment(), u64::from);
        let free = self.largest_free().ok_or(GeometryError::Full { number })?;
        let default_start = self.aligned(free.first, align).unwrap_or(free.first);
        let default_end = self.default_end(default_start, align);

        let start = self.resolve(wanted.start, default_start, default_end, default_start, align);
        let end = self.resolve(wanted.end, start, default_end, default_end, align);
        let first = self.aligned(start, align).unwrap_or(start);

        let fits = self.is_free(first) && first <= end && end <= self.free_until(first);
        if !fits {
            return Err(GeometryError::NoRoom {
                number,
                left: (default_end + 1).saturating_sub(default_start) * u64::from(self.sector_size),
            });
        }
        self.used.push(Extent { first, last: end });
        Ok(())
    }

    /// The sector that `position` stands for, between `low` and `high` as a rule; 0, which is
    /// never free, where it can't be computed.
    fn resolve(&self, position: Position, low: u64, high: u64, default: u64, align: u64) -> u64 {
        if position.count == 0 {
            return default;
        }
        let Some(sectors) = position.sectors(self.sector_size) else { return 0 };
        match position.anchor {
            Anchor::Absolute => sectors,
            Anchor::End => high.saturating_sub(sectors),
            // Near the end of the area it is an end that is asked for, which counts from the
            // start and includes it; else it is a start, which counts from the default.
            Anchor::Start if high.wrapping_sub(default) < align => {
                low.checked_add(sectors.saturating_sub(1)).unwrap_or(0)
            }
            Anchor::Start => default.checked_add(sectors).unwrap_or(0),
        }
    }

    /// The alignment for the next partition, from where the others begin.
    fn alignment(&self) -> u64 {
        let mut align = ALIGNMENT / u64::from(self.sector_size);
        for extent in &self.used {
            while !extent.first.is_multiple_of(align) {
                align /= 2;
            }
        }
        if align < LARGE_DISK_ALIGNMENT && self.disk_sectors >= LARGE_DISK {
            align = LARGE_DISK_ALIGNMENT;
        }
        align
    }

    /// `sector` moved to a multiple of `align`: back if that is free up to it, else on. `None` if
    /// it is one already or can't be moved.
    fn aligned(&self, sector: u64, align: u64) -> Option<u64> {
        if sector.is_multiple_of(align) {
            return None;
        }
        let earlier = sector / align * align;
        if earlier >= self.first_usable && self.all_free(earlier, sector - 1) {
            return Some(earlier);
        }
        let later = earlier + align;
        (later <= self.last_usable && self.all_free(sector + 1, later)).then_some(later)
    }

    fn is_free(&self, sector: u64) -> bool {
        self.all_free(sector, sector)
    }

    fn all_free(&self, first: u64, last: u64) -> bool {
        first >= self.first_usable
            && last <= self.last_usable
            && !self.used.iter().any(|used| used.first <= last && first <= used.last)
    }

    /// The last sector before the next partition after `start`, or of the disk.
    fn free_until(&self, start: u64) -> u64 {
        self.used
            .iter()
            .filter(|used| used.first > start)
            .map(|used| used.first - 1)
            .min()
            .unwrap_or(self.last_usable)
    }

    /// [`Table::free_until`], moved so that the sector after it is aligned, if that is possible.
    fn default_end(&self, start: u64, align: u64) -> u64 {
        let end = self.free_until(start);
        match self.aligned(end + 1, align) {
            Some(next) if next > start && self.is_free(next - 1) => next - 1,
            _ => end,
        }
    }

    fn largest_free(&self) -> Option<Extent> {
        let mut starts: Vec<u64> = vec![self.first_usable];
        starts.extend(self.used.iter().map(|used| used.last + 1));
        starts.sort_unstable();
        let areas = starts
            .into_iter()
            .filter(|start| self.is_free(*start))
            .map(|first| Extent { first, last: self.free_until(first) });
        // The first of equal ones, so not `max_by_key`.
        areas.fold(None, |best: Option<Extent>, area| match best {
            Some(best) if best.sectors() >= area.sectors() => Some(best),
            _ => Some(area),
        })
    }
}

#[cfg(test)]
mod tests;
