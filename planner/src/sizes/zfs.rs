//! What ZFS takes for parity, padding and metadata.
//!
//! RAID-Z gives each block whole rows of sectors with parity, and fills them up to a multiple of
//! parity and one. What is shown of such a vdev, and what its volumes reserve, is scaled by what
//! blocks of 128 KiB take.
//!
//! Source: OpenZFS 2.3, `lib/libzfs/libzfs_dataset.c`, `zvol_volsize_to_reservation`,
//! `volsize_from_vdevs`, `vdev_raidz_asize`; `module/zfs/vdev.c`, `vdev_set_deflate_ratio`.

use keystone_protocol::layout::{ZfsVolume, Zpool};

/// The block that the accounting of RAID-Z is about, and the largest of metadata.
const BLOCK: u64 = 128 << 10;

/// The least block of a volume that says nothing of it. Source: OpenZFS, `ZVOL_DEFAULT_BLOCKSIZE`.
const VOLUME_BLOCK: u64 = 16 << 10;

/// Pointers to blocks in a block of metadata, `DNODES_PER_LEVEL`.
const POINTERS: u64 = 1024;

/// Blocks of metadata beside those of pointers: the levels of the metadnode.
const METADNODE: u64 = 7;

/// Size of a sector in terms of which space is shown, `SPA_MINBLOCKSIZE`.
const UNIT: u64 = 512;

/// A RAID-Z vdev.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raidz {
    pub(super) members: u64,
    pub(super) parity: u64,
}

/// The exponent of a pool's sector size, if the layout gives it. Else the module chooses by what
/// the disks say of themselves.
pub(super) fn ashift(pool: &Zpool) -> Option<u32> {
    pool.options.get("ashift")?.parse().ok().filter(|ashift| (9..=16).contains(ashift))
}

impl Raidz {
    /// What of a vdev of so many bytes is shown as its size.
    pub(super) fn shown(self, bytes: u64, ashift: u32) -> u64 {
        let ratio = BLOCK / (self.allocated(BLOCK, ashift) / UNIT);
        (bytes / UNIT).saturating_mul(ratio)
    }

    /// What a block takes: its sectors, parity for each row, padding.
    fn allocated(self, block: u64, ashift: u32) -> u64 {
        let data = self.members.saturating_sub(self.parity).max(1);
        let sectors = block.div_ceil(1 << ashift);
        let with_parity = sectors + self.parity * sectors.div_ceil(data);
        with_parity.next_multiple_of(self.parity + 1) << ashift
    }

    /// The least that can be allocated, in sectors, as far as the block size of volumes depends on
    /// it.
    fn least(self) -> u64 {
        (self.parity + 1).next_power_of_two()
    }
}

/// What a volume reserves, at least, in a pool with those RAID-Z vdevs.
pub(super) fn reserved(volume: &ZfsVolume, raidz: &[Raidz], ashift: Option<u32>) -> u64 {
    match volume.options.get("refreservation").map(String::as_str) {
        // The option `-s` is about this property, and one that is given counts.
        Some("auto") => {}
        Some(given) => return size(given).unwrap_or(0),
        None if volume.sparse => return 0,
        None => {}
    }
    let Some(block) = block(volume, raidz, ashift) else {
        // Smaller blocks only take more.
        return volume.size.saturating_add(metadata(volume.size / BLOCK));
    };
    let blocks = volume.size.div_ceil(block);
    let plain = u128::from(blocks) * u128::from(block);
    let scaled = |vdev: &Raidz, ashift| {
        let allocated = u128::from(blocks) * u128::from(vdev.allocated(block, ashift));
        allocated / u128::from(vdev.allocated(BLOCK, ashift) / UNIT) * u128::from(BLOCK / UNIT)
    };
    // What it is on RAID-Z of unknown sectors is not less than plain.
    let most = ashift.and_then(|ashift| raidz.iter().map(|vdev| scaled(vdev, ashift)).max());
    u64::try_from(most.unwrap_or(plain)).unwrap_or(u64::MAX).saturating_add(metadata(blocks))
}

/// A volume's block, if it is known.
fn block(volume: &ZfsVolume, raidz: &[Raidz], ashift: Option<u32>) -> Option<u64> {
    let least = raidz.iter().map(|vdev| vdev.least()).max().unwrap_or(1);
    let block = match volume.options.get("volblocksize") {
        Some(given) => size(given)?,
        None => (least << ashift?).max(VOLUME_BLOCK),
    };
    // Source: zfsprops(7).
    (block.is_power_of_two() && block <= BLOCK).then_some(block)
}

/// What the metadata of a volume of so many blocks can take: two copies, nothing compressed.
fn metadata(mut blocks: u64) -> u64 {
    let mut count = METADNODE;
    while blocks > 1 {
        blocks = blocks.div_ceil(POINTERS);
        count += blocks;
    }
    count.saturating_mul(2 * BLOCK)
}

/// A size as zfs takes it: `16384`, `16k`, `10G`. `None` for `none` and what is not whole.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let power = ["", "K", "M", "G", "T", "P", "E"].iter().position(|known| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn volume(size: u64, options: &[(&str, &str)]) -> ZfsVolume {
        let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ZfsVolume {
            path: String::new(),
            name: String::new(),
            size,
            sparse: false,
            options: options.collect::<BTreeMap<_, _>>(),
            key: None,
            content: None,
            snapshots: Vec::new(),
            hooks: Default::default(),
        }
    }

    fn raidz(parity: u64, members: u64) -> Raidz {
        Raidz { members, parity }
    }

    /// Sectors of 4 KiB, as OpenZFS's sources draw them.
    #[test]
    fn blocks_take_parity_and_padding() {
        let table = [
            (raidz(1, 5), 128 << 10, 40),
            (raidz(1, 5), 4 << 10, 2),
            (raidz(1, 5), 8 << 10, 4),
            (raidz(1, 3), 16 << 10, 6),
            (raidz(1, 4), 128 << 10, 44),
            (raidz(2, 4), 16 << 10, 9),
            (raidz(3, 4), 512, 4),
        ];
        for (vdev, block, sectors) in table {
            assert_eq!(vdev.allocated(block, 12), sectors << 12, "{vdev:?}, {block}");
        }
        assert_eq!(raidz(1, 3).shown(3 * GIB, 12), 3 * GIB / 512 * 341);
        assert_eq!(raidz(1, 4).shown(4 * GIB, 12), 4 * GIB / 512 * 372);
    }

    #[test]
    fn volumes_reserve_metadata_too() {
        // 6400 blocks: 7 of pointers, 1 above, 7 of the metadnode.
        assert_eq!(reserved(&volume(100 * MIB, &[]), &[], Some(12)), 100 * MIB + 15 * 2 * BLOCK);
        // The 1.03G that `zfs list` shows of a volume of 1G with blocks of 8 KiB.
        let small = volume(GIB, &[("volblocksize", "8K")]);
        assert_eq!(reserved(&small, &[], Some(12)), GIB + (7 + 128 + 1) * 2 * BLOCK);
        // Rounded up to whole blocks.
        let odd = volume(100 * MIB - 1, &[("volblocksize", "65536")]);
        assert_eq!(reserved(&odd, &[], None), 100 * MIB + (7 + 2 + 1) * 2 * BLOCK);
        // Larger sectors, larger blocks.
        let large = reserved(&volume(100 * MIB, &[]), &[], Some(16));
        assert_eq!(large, 100 * MIB + (7 + 2 + 1) * 2 * BLOCK);
        assert_eq!(reserved(&volume(u64::MAX, &[]), &[raidz(3, 4)], Some(12)), u64::MAX);
    }

    #[test]
    fn on_raidz_volumes_reserve_more_than_they_hold() {
        let data = |vdevs: &[Raidz], ashift| {
            let volume = volume(120 * MIB, &[("volblocksize", "16k")]);
            reserved(&volume, vdevs, ashift) - metadata(7680)
        };
        // 6 sectors of 4 where 128 KiB take 48 of 32: as much as they hold.
        assert_eq!(data(&[raidz(1, 3)], Some(12)), 120 * MIB);
        // 6 of 4 where 128 KiB take 44 of 32.
        assert_eq!(data(&[raidz(1, 4)], Some(12)), 7680 * 6 * 4096 / 352 * 256);
        // 9 of 4 where they take 66 of 32.
        assert_eq!(data(&[raidz(2, 4)], Some(12)), 7680 * 9 * 4096 / 528 * 256);
        // The worst of several; nothing that is not known.
        assert_eq!(data(&[raidz(1, 3), raidz(1, 4)], Some(12)), data(&[raidz(1, 4)], Some(12)));
        assert_eq!(data(&[raidz(1, 4)], None), 120 * MIB);
    }

    /// What is counted where something is not known is never more than what it may turn out to be.
    #[test]
    fn what_is_not_known_is_counted_as_the_least() {
        for members in 2..12 {
            for parity in 1..members.min(4) {
                for ashift in 9..=14 {
                    let vdev = [raidz(parity, members)];
                    let told = |options: &[(&str, &str)], ashift| {
                        reserved(&volume(100 * MIB, options), &vdev, ashift)
                    };
                    let least = told(&[], None);
                    for block in ["512", "4k", "16K", "64KiB", "128K"] {
                        let options = [("volblocksize", block)];
                        let (all, one) = (told(&options, Some(ashift)), told(&options, None));
                        assert!(least <= one && one <= all, "{vdev:?}, {ashift}, {block}");
                    }
                    assert!(least <= told(&[], Some(ashift)), "{vdev:?}, {ashift}");
                }
            }
        }
    }

    #[test]
    fn what_the_layout_says_of_the_reservation_counts() {
        let told = |sparse, options: &[(&str, &str)]| {
            let volume = ZfsVolume { sparse, ..volume(100 * MIB, options) };
            reserved(&volume, &[], Some(12))
        };
        assert_eq!(told(true, &[]), 0);
        assert_eq!(told(false, &[("refreservation", "none")]), 0);
        assert_eq!(told(true, &[("refreservation", "20M")]), 20 * MIB);
        assert_eq!(told(true, &[("refreservation", "auto")]), told(false, &[]));
    }
}
