//! What a member says of its array: the superblock of version 1.
//!
//! Source: Linux `include/uapi/linux/raid/md_p.h`, `struct mdp_superblock_1`; where it lies:
//! md(4), "The version-1 superblock". Numbers are little-endian.

use crate::block::Device;
use std::io;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

const MAGIC: u32 = 0xa92b_4efc;
const LENGTH: usize = 256;

/// A member's superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The array's UUID.
    pub uuid: Uuid,
    /// The array's name, without the host's (`any:raid1` is `raid1`).
    pub name: String,
    /// RAID level; -1 is linear.
    pub level: i32,
    /// Number of devices that the array has.
    pub devices: u32,
}

/// Reads the superblock of a device, if it has one of version 1.
///
/// # Errors
/// The device can't be read.
pub fn read(device: &Device) -> io::Result<Option<Superblock>> {
    // 1.0 is 8 to 12 KiB before the end, 1.1 at the start, 1.2 at 4 KiB.
    let at_end = (device.size() & !511).saturating_sub(8192) & !4095;
    for offset in [4096, 0, at_end] {
        let mut bytes = [0; LENGTH];
        if offset + LENGTH as u64 > device.size() {
            continue;
        }
        device.file().read_exact_at(&mut bytes, offset)?;
        if let Some(found) = parse(&bytes) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn parse(bytes: &[u8; LENGTH]) -> Option<Superblock> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if word(0) != MAGIC || word(4) != 1 {
        return None;
    }
    let name = bytes[32..64].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    Some(Superblock {
        uuid: Uuid::from_slice(&bytes[16..32]).ok()?,
        name: name.split_once(':').map_or(&*name, |(_, name)| name).to_owned(),
        level: word(72).cast_signed(),
        devices: word(92),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Roots;
    use crate::testing::Loop;
    use std::fs::File;

    fn superblock() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = 1;
        bytes[16..32].copy_from_slice(&[7; 16]);
        bytes[32..41].copy_from_slice(b"any:raid1");
        bytes[72] = 1;
        bytes[92] = 2;
        bytes
    }

    #[test]
    fn found_wherever_its_version_puts_it() {
        let roots = Roots::default();
        for offset in [0, 4096, (16 << 20) - 8192] {
            let disk = Loop::new(16 << 20, 512);
            let read = || read(&Device::open_read(&roots, disk.name()).unwrap()).unwrap();
            assert_eq!(read(), None);
            let file = File::options().write(true).open(disk.node()).unwrap();
            file.write_all_at(&superblock(), offset).unwrap();
            file.sync_all().unwrap();
            let found = read().unwrap();
            assert_eq!((found.name.as_str(), found.level, found.devices), ("raid1", 1, 2));
        }
    }

    #[test]
    fn other_versions_are_none() {
        let mut other = superblock();
        other[4] = 0;
        assert_eq!(parse(&other), None);
    }
}
