//! Where the partitions of a `table` lie: near what parted makes of disko's commands.
//!
//! parted takes binary units and sectors exactly and moves others to a multiple of 1 MiB nearby;
//! ends are the sector before. A logical partition that would leave no room for its own table
//! begins 1 MiB later. Where parted would search further for room this refuses.

use super::geometry::Extent;
use keystone_protocol::layout::{Kind, Table, TablePartition};

/// Alignment, in bytes.
const ALIGNMENT: u64 = 1 << 20;

/// The places of a table's partitions, in the order of the list, with the sector of the table of
/// a logical one. Sectors between `first` and `last` are free for them.
pub(super) fn allocate(
    bytes: u64,
    sector_size: u32,
    table: &Table,
) -> Result<Vec<(Extent, Option<u64>)>, String> {
    let sector = u64::from(sector_size);
    let sectors = bytes / sector;
    // GPT: its header and entries at both ends. MBR: its sector, and 32 bits of sectors.
    let entries = (128u64 * 128).div_ceil(sector);
    let (first, last) = match table.gpt {
        true => (2 + entries, sectors.checked_sub(2 + entries).ok_or("the disk is too small")?),
        false => (1, sectors.saturating_sub(1).min(u64::from(u32::MAX) - 1)),
    };
    let mut placed: Vec<(Kind, Extent, Option<u64>)> = Vec::new();
    for partition in &table.partitions {
        let name = || format!("partition {}", partition.number);
        let kind = if table.gpt { Kind::Primary } else { partition.kind };
        let mut extent = place(bytes, sector, (first, last), partition)
            .ok_or_else(|| format!("{} does not fit on the disk", name()))?;
        let exact = partition.start.byte(bytes, sector_size).is_some_and(|(_, exact)| exact);
        let before = placed.iter().filter(|(kind, ..)| *kind == Kind::Logical);
        let taken = before.map(|(_, place, _)| place.last + 1).max();
        let extended = placed.iter().find(|(kind, ..)| *kind == Kind::Extended);
        // The table of a logical partition needs a sector before it. The first one's is the extended
        // partition's first sector, where the MBR says that the chain begins.
        let chain = extended.map(|(_, outer, _)| outer.first);
        let free_from = taken.or(chain);
        if kind == Kind::Logical && !exact && free_from == Some(extent.first) {
            extent.first += ALIGNMENT / sector;
        }
        let table_lba = match (kind, taken) {
            (Kind::Logical, None) => chain,
            (Kind::Logical, Some(_)) => Some(extent.first.checked_sub(1).ok_or_else(name)?),
            _ => None,
        };
        if table_lba.is_some_and(|table| table >= extent.first) {
            return Err(format!("{} leaves no sector for its own table before it", name()));
        }
        let begin = table_lba.unwrap_or(extent.first);
        let inside = |outer: &Extent| outer.first <= begin && extent.last <= outer.last;
        match (kind, extended) {
            (Kind::Logical, Some((_, outer, _))) if inside(outer) => {}
            (Kind::Logical, _) => {
                return Err(format!("{} does not lie in the extended partition", name()));
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
            return Err(format!("{} overlaps one before it", name()));
        }
        placed.push((kind, extent, table_lba));
    }
    Ok(placed.into_iter().map(|(_, extent, table)| (extent, table)).collect())
}

fn place(
    bytes: u64,
    sector: u64,
    (first, last): (u64, u64),
    partition: &TablePartition,
) -> Option<Extent> {
    let sector_size = u32::try_from(sector).ok()?;
    let aligned = |byte: u64| byte.saturating_add(ALIGNMENT / 2) / ALIGNMENT * ALIGNMENT;
    let (start, exact) = partition.start.byte(bytes, sector_size)?;
    let start = if exact { start / sector } else { aligned(start).max(ALIGNMENT) / sector };
    let (end, exact) = partition.end.byte(bytes, sector_size)?;
    // A sector is an end by itself; a byte is where the next thing begins.
    let end = match partition.end.unit {
        keystone_protocol::layout::Unit::Sectors => end / sector,
        _ if exact => (end / sector).checked_sub(1)?,
        _ if end >= bytes => last.checked_add(1)? * sector / ALIGNMENT * ALIGNMENT / sector - 1,
        _ => (aligned(end) / sector).checked_sub(1)?,
    };
    let extent = Extent { first: start.max(first), last: end.min(last) };
    (extent.first <= extent.last).then_some(extent)
}
