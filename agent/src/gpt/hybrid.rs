//! A hybrid MBR: one that shows some partitions of the GPT to what knows no GPT.
//!
//! The same as `sgdisk --hybrid` writes (gptfdisk 1.0.9 `gptcl.cc`, `BuildMBR`; `basicmbr.cc`),
//! with the types and boot flags that disko sets afterwards: each partition shown has an entry,
//! and one of type 0xEE covers what lies before the first of them, from LBA 1 on.

use super::ensure::GptError;
use crate::mbr::{self, Entry};
use keystone_protocol::plan::{HybridMbr, PartitionTable};

/// Type of the entry that protects the GPT.
const PROTECTIVE: u8 = 0xee;

/// The first 512 bytes of the disk: no boot code, the entries, the magic.
///
/// # Errors
/// [`GptError::Hybrid`] for what an MBR can't show.
pub fn sector(hybrid: &HybridMbr, table: &PartitionTable) -> Result<[u8; 512], GptError> {
    if !(1..=3).contains(&hybrid.entries.len()) {
        return Err(GptError::Hybrid(format!("{} partitions", hybrid.entries.len())));
    }
    let mut entries = Vec::new();
    for shown in &hybrid.entries {
        let planned = table.partitions.iter().find(|planned| planned.number == shown.number);
        let cannot = || GptError::Hybrid(format!("partition {}", shown.number));
        let planned = planned.ok_or_else(cannot)?;
        let last = u32::try_from(planned.last_lba).map_err(|_| cannot())?;
        let first = u32::try_from(planned.first_lba).map_err(|_| cannot())?;
        entries.push(Entry {
            kind: shown.type_code,
            bootable: shown.bootable,
            first,
            sectors: last - first + 1,
        });
    }
    let before = entries.iter().map(|entry| entry.first).min().unwrap_or(2);
    let protective =
        Entry { kind: PROTECTIVE, bootable: false, first: 1, sectors: before.saturating_sub(1) };
    let at = if hybrid.protective_first { 0 } else { entries.len() };
    entries.insert(at, protective);
    Ok(mbr::sector(&entries, 0))
}
