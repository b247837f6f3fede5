//! Partition tables.

use super::{Source, has, le32};
use keystone_protocol::inventory::Table;
use std::io;

/// The partition table of a disk: GPT if either of its headers is good, else MBR if its boot
/// sector lists partitions.
pub fn table(source: Source<'_>) -> io::Result<Option<Table>> {
    if let Some(gpt) = crate::gpt::read(source.file, source.size, source.sector_size) {
        return Ok(Some(Table::Gpt { guid: gpt.disk_guid }));
    }
    Ok(mbr(&source.read(0, 512)?))
}

/// An MBR; the boot sector of a file system, which ends with the same magic, is none.
fn mbr(sector: &[u8]) -> Option<Table> {
    if !has(sector, 510, &[0x55, 0xaa]) {
        return None;
    }
    let entries: Vec<&[u8]> = sector[446..510].chunks(16).collect();
    let sane = entries.iter().all(|entry| matches!(entry[0], 0x00 | 0x80));
    let used = entries.iter().any(|entry| entry[4] != 0 && le32(entry, 12) != 0);
    (sane && used).then(|| Table::Mbr { id: format!("{:08x}", le32(sector, 440)) })
}
