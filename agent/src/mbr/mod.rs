//! MBR partition tables, of disko's legacy type `table`.
//!
//! Sources: the format as Linux reads it (`block/partitions/msdos.c`), and what parted writes
//! (`libparted/labels/dos.c`): four entries at byte 446 of the first sector; logical partitions
//! in a chain of such sectors within the extended one, each describing its own partition,
//! relative to itself, and the next sector, relative to the extended partition.
//!
//! | module | job |
//! |---|---|
//! | [`ensure`](mod@ensure) | the table on the disk, and the partitions in kernel and udev |

pub mod ensure;

pub use ensure::{MbrError, ensure};

/// Where the entries are.
const ENTRIES_AT: usize = 446;
const ENTRY: usize = 16;
/// Where Windows and Linux look for the disk's signature.
const SIGNATURE_AT: usize = 440;

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Type.
    pub kind: u8,
    /// Whether it has the boot flag.
    pub bootable: bool,
    /// First LBA, in the frame of the sector that it is in.
    pub first: u32,
    /// Length in sectors.
    pub sectors: u32,
}

/// A sector with these entries and no code.
pub fn sector(entries: &[Entry], signature: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[SIGNATURE_AT..SIGNATURE_AT + 4].copy_from_slice(&signature.to_le_bytes());
    for (index, entry) in entries.iter().take(4).enumerate() {
        let at = ENTRIES_AT + index * ENTRY;
        sector[at..at + ENTRY].copy_from_slice(&encode(entry));
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn encode(entry: &Entry) -> [u8; ENTRY] {
    let last = entry.first.saturating_add(entry.sectors.saturating_sub(1));
    let mut bytes = [0; ENTRY];
    bytes[0] = if entry.bootable { 0x80 } else { 0 };
    bytes[1..4].copy_from_slice(&chs(entry.first));
    bytes[4] = entry.kind;
    bytes[5..8].copy_from_slice(&chs(last));
    bytes[8..12].copy_from_slice(&entry.first.to_le_bytes());
    bytes[12..].copy_from_slice(&entry.sectors.to_le_bytes());
    bytes
}

/// Cylinder, head and sector with 255 heads and 63 sectors; `fe ff ff` where those can't count so
/// far.
fn chs(lba: u32) -> [u8; 3] {
    const HEADS: u32 = 255;
    const SECTORS: u32 = 63;
    let cylinder = lba / (HEADS * SECTORS);
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let head = lba / SECTORS % HEADS;
    let sector = lba % SECTORS + 1;
    [head as u8, sector as u8 | (cylinder >> 8 << 6) as u8, cylinder as u8]
}

#[cfg(test)]
mod tests;
