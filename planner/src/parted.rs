//! Where the partitions of a `table` lie: near what parted makes of disko's commands.
//!
//! parted takes binary units and sectors exactly and moves others to a multiple of 1 MiB nearby;
//! ends are the sector before, but of sectors and bytes that one. A place outside of the disk is
//! refused; one that is not exact may be beyond the end by half its unit, and is the end then. A
//! logical partition that would leave no room for its own table begins 1 MiB later. Where parted
//! would search further for room this refuses.

use super::geometry::Extent;
use keystone_protocol::layout::{Kind, Limit, Table, TablePartition, Unit};

/// Alignment, in bytes.
const ALIGNMENT: u64 = 1 << 20;

/// The last sector that an MBR can count to.
const MBR_LAST: u64 = u32::MAX as u64;

/// Why partitions can't lie where the layout has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPlace {
    /// After the disk's name.
    pub(super) problem: String,
    /// What to do.
    pub(super) way_out: &'static str,
}

impl From<String> for NoPlace {
    fn from(problem: String) -> Self {
        NoPlace { problem, way_out: "choose a larger disk, or other places in the layout" }
    }
}

/// The sectors that a table can give to partitions.
struct Room {
    bytes: u64,
    sector_size: u32,
    gpt: bool,
    first: u64,
    last: u64,
}

/// The places of a table's partitions, in the order of the list, with the sector of the table of
/// a logical one.
pub(super) fn allocate(
    bytes: u64,
    sector_size: u32,
    table: &Table,
) -> Result<Vec<(Extent, Option<u64>)>, NoPlace> {
    let room = Room::new(bytes, sector_size, table.gpt)?;
    let mut placed: Vec<(Kind, Extent, Option<u64>)> = Vec::new();
    for partition in &table.partitions {
        let name = || format!("partition {}", partition.number);
        let kind = if table.gpt { Kind::Primary } else { partition.kind };
        let mut extent = room.place(partition)?;
        let exact = partition.start.byte(bytes, sector_size).is_some_and(|(_, exact)| exact);
        let before = placed.iter().filter(|(kind, ..)| *kind == Kind::Logical);
        let taken = before.map(|(_, place, _)| place.last + 1).max();
        let extended = placed.iter().find(|(kind, ..)| *kind == Kind::Extended);
        // The table of a logical partition needs a sector before it. The first one's is the extended
        // partition's first sector, where the MBR says that the chain begins.
        let chain = extended.map(|(_, outer, _)| outer.first);
        let free_from = taken.or(chain);
        if kind == Kind::Logical && !exact && free_from == Some(extent.first) {
            extent.first += room.sectors(ALIGNMENT);
            if extent.first > extent.last {
                let Extent { first, last } = extent;
                return Err(format!(
                    "{} has no room beside its own table: after that it would begin at sector \
                     {first}, and it is to end at {last}",
                    name()
                )
                .into());
            }
        }
        let table_lba = match (kind, taken) {
            (Kind::Logical, None) => chain,
            (Kind::Logical, Some(_)) => Some(extent.first.checked_sub(1).ok_or_else(name)?),
            _ => None,
        };
        if table_lba.is_some_and(|table| table >= extent.first) {
            return Err(format!("{} leaves no sector for its own table before it", name()).into());
        }
        let begin = table_lba.unwrap_or(extent.first);
        let inside = |outer: &Extent| outer.first <= begin && extent.last <= outer.last;
        match (kind, extended) {
            (Kind::Logical, Some((_, outer, _))) if inside(outer) => {}
            (Kind::Logical, _) => {
                return Err(format!("{} does not lie in the extended partition", name()).into());
            }
            _ => {}
        }
        let level = |kind: Kind| kind == Kind::Logical;
        let clash = placed.iter().find(|(other, place, table)| {
            level(*other) == level(kind)
                && table.unwrap_or(place.first) <= extent.last
                && begin <= place.last
        });
        if clash.is_some() {
            return Err(format!("{} overlaps one before it", name()).into());
        }
        placed.push((kind, extent, table_lba));
    }
    Ok(placed.into_iter().map(|(_, extent, table)| (extent, table)).collect())
}

impl Room {
    fn new(bytes: u64, sector_size: u32, gpt: bool) -> Result<Self, String> {
        let sectors = bytes / u64::from(sector_size);
        // GPT: its header and entries at both ends. MBR: its sector.
        let first = match gpt {
            true => 2 + (128u64 * 128).div_ceil(u64::from(sector_size)),
            false => 1,
        };
        let last = sectors.checked_sub(if gpt { first } else { 1 });
        let last = last.ok_or("it is too small for a partition table")?;
        Ok(Room { bytes, sector_size, gpt, first, last })
    }

    fn sectors(&self, bytes: u64) -> u64 {
        bytes / u64::from(self.sector_size)
    }

    /// Where a partition lies if there is no other.
    fn place(&self, partition: &TablePartition) -> Result<Extent, NoPlace> {
        let number = partition.number;
        let first = self.start(&partition.start, number)?;
        let last = self.end(&partition.end, number)?;
        if first > last {
            return Err(format!(
                "partition {number} would begin at sector {first}, and end at {last} before that"
            )
            .into());
        }
        if !self.gpt && last > MBR_LAST {
            return Err(NoPlace {
                problem: format!(
                    "partition {number} is to end at sector {last}, and an MBR counts no further than \
                     {MBR_LAST}"
                ),
                way_out: "give it an end before that, or the table the format gpt",
            });
        }
        Ok(Extent { first, last })
    }

    fn start(&self, limit: &Limit, number: u32) -> Result<u64, NoPlace> {
        let (byte, exact) = self.byte(limit, number, "begin")?;
        if !exact {
            return Ok(self.sectors(aligned(byte).max(ALIGNMENT)));
        }
        match self.sectors(byte) {
            first if first >= self.first => Ok(first),
            first => Err(NoPlace {
                problem: format!(
                    "partition {number} is to begin at sector {first}, and the first that its table \
                     leaves free is {}",
                    self.first
                ),
                way_out: "let it begin later: 1MiB is usual",
            }),
        }
    }

    fn end(&self, limit: &Limit, number: u32) -> Result<u64, NoPlace> {
        let (byte, exact) = self.byte(limit, number, "end")?;
        let last = match limit.unit {
            Unit::Sectors | Unit::Bytes { bytes: 1, .. } => Some(self.sectors(byte)),
            // Where the next thing begins.
            _ if exact => self.sectors(byte).checked_sub(1),
            _ => match self.sectors(aligned(byte)).checked_sub(1) {
                Some(last) if byte >= self.bytes || last > self.last => self.aligned_end(),
                last => last,
            },
        };
        let last =
            last.ok_or_else(|| format!("nothing is left for partition {number} before its end"))?;
        if last > self.last {
            return Err(NoPlace {
                problem: format!(
                    "partition {number} is to end at sector {last}, and the last that its table \
                     leaves free is {}",
                    self.last
                ),
                way_out: "choose a larger disk, or the end 100%, which is as far as any goes",
            });
        }
        Ok(last)
    }

    /// The last sector before a multiple of 1 MiB.
    fn aligned_end(&self) -> Option<u64> {
        let bytes = (self.last + 1) * u64::from(self.sector_size);
        self.sectors(bytes / ALIGNMENT * ALIGNMENT).checked_sub(1)
    }

    /// The byte that is meant, and whether exactly that one; refused if it is not on the disk.
    fn byte(&self, limit: &Limit, number: u32, verb: &str) -> Result<(u64, bool), NoPlace> {
        let outside = |place: String| NoPlace {
            problem: format!("partition {number} is to {verb} {place}"),
            way_out: "choose a larger disk, or a place on it: 100% is the end of any",
        };
        let Some((byte, exact)) = limit.byte(self.bytes, self.sector_size) else {
            return Err(outside("before the disk begins".to_owned()));
        };
        let unit = match limit.unit {
            Unit::Percent => self.bytes / 100,
            Unit::Bytes { bytes, exact: false } => bytes,
            Unit::Sectors | Unit::Bytes { .. } => 0,
        };
        let beyond = match exact {
            true => byte >= self.bytes,
            false => byte > self.bytes.saturating_add(unit / 2),
        };
        if beyond {
            let (at, of) = (self.sectors(byte), self.sectors(self.bytes));
            return Err(outside(format!("at sector {at}, and the disk has {of}")));
        }
        Ok((byte, exact))
    }
}

/// The multiple of 1 MiB that is nearest.
fn aligned(byte: u64) -> u64 {
    byte.saturating_add(ALIGNMENT / 2) / ALIGNMENT * ALIGNMENT
}

#[cfg(test)]
mod tests;
