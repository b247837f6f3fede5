//! How small FAT32 can be.

/// The fewest clusters that make a FAT volume FAT32 (Microsoft, "FAT: General Overview", 1.03).
const LEAST_CLUSTERS: u64 = 65525;

/// The least size in bytes of a device with those sectors: clusters can't be smaller than a
/// sector. Room for the two FATs and the reserved sectors is in it.
pub fn least_size(sector_size: u32) -> u64 {
    let cluster = u64::from(sector_size);
    let fat = (LEAST_CLUSTERS + 2).div_ceil(cluster / 4) * cluster;
    LEAST_CLUSTERS * cluster + 2 * fat + 9 * cluster
}
