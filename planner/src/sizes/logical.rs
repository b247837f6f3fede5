//! What LVM makes of the sizes of logical volumes: whole extents, one volume after another.
//!
//! Source: lvm2 2.03, `tools/lvcreate.c`, `_update_extents_params` and `_read_raid_params`; seen
//! with lvm 2.03.16.

use keystone_protocol::layout::{LogicalVolume, VolumeGroup};
use keystone_protocol::plan::LvSize;

/// Size of an extent. Source: vgcreate(8), `--physicalextentsize`.
const EXTENT: u64 = 4 << 20;

/// What a physical volume has before its first extent, at least. Source: lvm2,
/// `lib/config/defaults.h`, `DEFAULT_DATA_ALIGNMENT`.
const PV_HEADER: u64 = 1 << 20;

/// What a physical volume of that size gives to its group.
pub(super) fn physical_volume(bytes: u64) -> u64 {
    bytes.saturating_sub(PV_HEADER) / EXTENT * EXTENT
}

/// A volume as it will be made, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Made {
    /// Its size, at most; of a thin volume the virtual one. `None` where it can't be told.
    pub(in super::super) size: Option<u64>,
    /// What it takes of its group, at least.
    pub(in super::super) takes: u64,
    /// What its group has left for it, at most; `None` if the group's size is not known.
    pub(in super::super) left: Option<u64>,
}

/// The volumes of a group of `room` bytes, in its order.
pub(super) fn volumes(group: &VolumeGroup, room: Option<u64>) -> Vec<Made> {
    let all = room.map(|bytes| bytes / EXTENT);
    let mut left = all;
    let mut made = Vec::new();
    for volume in &group.volumes {
        let (size, takes) = extents(volume, all, left);
        made.push(Made { size: size.map(bytes), takes: bytes(takes), left: left.map(bytes) });
        left = left.map(|left| left.saturating_sub(takes));
    }
    made
}

fn bytes(extents: u64) -> u64 {
    extents.saturating_mul(EXTENT)
}

/// A volume's size, and what it takes, of a group of `all` extents of which so many are `left`.
fn extents(volume: &LogicalVolume, all: Option<u64>, left: Option<u64>) -> (Option<u64>, u64) {
    let spread = Spread::of(volume);
    match &volume.size {
        LvSize::Bytes { bytes } => {
            let size = bytes.div_ceil(EXTENT).next_multiple_of(spread.data);
            // What a thin volume takes, its pool has taken.
            let takes = if volume.thin_pool.is_some() { 0 } else { spread.takes(size) };
            (Some(size), takes)
        }
        LvSize::Percent { .. } if volume.thin_pool.is_some() => (None, 0),
        LvSize::Percent { percent, of } => {
            let base = match of.as_str() {
                "FREE" => left,
                // No physical volumes are named, so these are all.
                "VG" | "PVS" => all,
                _ => None,
            };
            let Some((base, left)) = base.zip(left) else { return (None, 0) };
            let share = (base.saturating_mul(u64::from(*percent).min(100)) / 100).min(left);
            // On several devices a share ends where the smallest is full, so what it takes is
            // not known.
            let takes = if spread.is_linear(volume) { share } else { 0 };
            (Some(spread.holds(share, left)), takes)
        }
    }
}

/// How a volume is spread over devices of its group: what `data` extents hold takes `all`.
#[derive(Debug, Clone, Copy)]
struct Spread {
    data: u64,
    all: u64,
}

impl Spread {
    /// lvcreate's defaults. Arguments may change the number of stripes; then only what holds for
    /// any number is counted, of parity nothing. Images are never less than two.
    fn of(volume: &LogicalVolume) -> Self {
        let default = volume.extra_args.is_empty();
        let (data, all) = match volume.kind.as_deref() {
            Some("mirror" | "raid1") => (1, 2),
            Some("raid10") if default => (2, 4),
            Some("raid10") => (1, 2),
            Some("raid0") if default => (2, 2),
            Some("raid4" | "raid5") if default => (2, 3),
            Some("raid6") if default => (3, 5),
            _ => (1, 1),
        };
        Spread { data, all }
    }

    /// What a volume of `size` extents takes.
    fn takes(self, size: u64) -> u64 {
        (size / self.data).saturating_mul(self.all)
    }

    /// What a volume that is to have `share` extents holds, where so many are `left`: images share
    /// it, parity is added to it.
    fn holds(self, share: u64, left: u64) -> u64 {
        let images = self.all == 2 * self.data;
        let of = if images { share } else { left };
        share.min(of * self.data / self.all)
    }

    /// Whether it lies anywhere in its group.
    fn is_linear(self, volume: &LogicalVolume) -> bool {
        matches!(volume.kind.as_deref(), None | Some("striped" | "thin-pool"))
            && volume.extra_args.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn volume(kind: Option<&str>, size: LvSize) -> LogicalVolume {
        LogicalVolume {
            path: String::new(),
            name: String::new(),
            size,
            kind: kind.map(str::to_owned),
            thin_pool: None,
            extra_args: Vec::new(),
            content: None,
        }
    }

    fn of(bytes: u64) -> LvSize {
        LvSize::Bytes { bytes }
    }

    fn share(percent: u32, of: &str) -> LvSize {
        LvSize::Percent { percent, of: of.to_owned() }
    }

    /// Sizes and what is taken, in extents.
    fn made(volumes: Vec<LogicalVolume>, extents: Option<u64>) -> Vec<(Option<u64>, u64)> {
        let group = VolumeGroup {
            path: String::new(),
            name: String::new(),
            volumes,
            hooks: Default::default(),
        };
        let made = super::volumes(&group, extents.map(bytes)).into_iter();
        made.map(|made| (made.size.map(|size| size / EXTENT), made.takes / EXTENT)).collect()
    }

    /// The numbers are lvm's: three files of 10 GiB as physical volumes.
    #[test]
    fn extents_are_those_of_lvm() {
        assert_eq!(physical_volume(10 * GIB), 2559 * EXTENT);
        assert_eq!(physical_volume(100), 0);
        let all = 3 * 2559;
        let alone = |kind, size| made(vec![volume(kind, size)], Some(all))[0].0;
        assert_eq!(alone(None, share(50, "FREE")), Some(3838));
        assert_eq!(alone(None, share(100, "PVS")), Some(7677));
        assert_eq!(alone(Some("raid1"), share(100, "FREE")), Some(3838));
        assert_eq!(alone(Some("raid10"), share(100, "FREE")), Some(3838));
        assert_eq!(alone(Some("mirror"), share(50, "VG")), Some(1919));
        assert_eq!(alone(Some("raid0"), of(10 << 20)), Some(4));
        let swap_and_shares = vec![
            volume(None, of(8 * GIB)),
            volume(None, share(30, "FREE")),
            volume(None, share(90, "VG")),
            volume(None, share(100, "FREE")),
        ];
        let expected = [2048, 1688, 3941, 0].map(|extents| (Some(extents), extents));
        assert_eq!(made(swap_and_shares, Some(all)), expected);
    }

    #[test]
    fn copies_and_parity_are_taken_too() {
        let table: [(Option<&str>, u64, u64); 9] = [
            (None, 6, 6),
            (Some("striped"), 6, 6),
            (Some("thin-pool"), 6, 6),
            (Some("raid0"), 6, 6),
            (Some("mirror"), 6, 12),
            (Some("raid1"), 6, 12),
            (Some("raid10"), 6, 12),
            (Some("raid5"), 6, 9),
            (Some("raid6"), 6, 10),
        ];
        for (kind, size, takes) in table {
            let volume = volume(kind, of(size * EXTENT - 1));
            assert_eq!(made(vec![volume.clone()], Some(20)), [(Some(size), takes)], "{kind:?}");
            // How many stripes arguments ask for is not looked at.
            let least = if takes == 12 { 12 } else { 6 };
            let volume = LogicalVolume { extra_args: vec!["-i5".into()], ..volume };
            assert_eq!(made(vec![volume], Some(20)), [(Some(size), least)], "{kind:?}");
        }
        // Parity is not of the share, but has to be there.
        let raid5 = |percent| made(vec![volume(Some("raid5"), share(percent, "FREE"))], Some(30));
        assert_eq!(raid5(100), [(Some(20), 0)]);
        assert_eq!(raid5(50), [(Some(15), 0)]);
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let shares = ["FREE", "VG", "PVS", "ORIGIN"].map(|of| volume(None, share(50, of)));
        assert_eq!(made(shares.to_vec(), None), [(None, 0); 4]);
        assert_eq!(made(shares[3..].to_vec(), Some(10)), [(None, 0)]);
        let thin = LogicalVolume { thin_pool: Some("pool".into()), ..volume(None, of(GIB)) };
        assert_eq!(made(vec![thin], Some(10)), [(Some(256), 0)]);
        let huge = made(vec![volume(Some("raid1"), of(u64::MAX))], Some(10));
        assert_eq!(huge, [(Some(u64::MAX / EXTENT), u64::MAX / EXTENT)]);
    }
}
