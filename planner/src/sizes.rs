//! How large everything of the layout will be, in bytes: exactly, or at most.

mod logical;
mod zfs;

use super::geometry::{self, Extent, GeometryError, Wanted};
use super::{Context, tables::Tables};
use keystone_protocol::layout::{
    Content, Dataset, Gpt, PoolMode, TopologyVdev, VdevMode, VolumeGroup, ZfsVolume, Zpool,
    partition_type,
};
use keystone_protocol::plan::DeviceRef;
pub(super) use logical::Made;
use zfs::Raidz;

/// Size of a LUKS2 header. Source: cryptsetup-luksFormat(8).
pub(super) const LUKS_HEADER: u64 = 16 << 20;

/// The most that ZFS keeps for itself of a pool.
const MOST_SLOP: u64 = 128 << 30;

/// Sizes of devices and pools that do not exist yet. Of RAIDs, volume groups and what is on them
/// they are upper bounds: how much their metadata takes is not decided here.
pub(super) struct Sizes<'a> {
    context: &'a Context<'a>,
    tables: &'a Tables,
}

impl<'a> Sizes<'a> {
    pub(super) fn new(context: &'a Context<'a>, tables: &'a Tables) -> Self {
        Sizes { context, tables }
    }

    /// Size of a device; `None` for one that the layout does not make.
    pub(super) fn device(&self, device: &DeviceRef) -> Option<u64> {
        match device {
            DeviceRef::Disk { disk } => Some(self.context.disks.get(disk.as_str())?.identity.size),
            DeviceRef::Partition { disk, number } => {
                Some(self.sectors(disk, *number)? * u64::from(self.sector_size(device)?))
            }
            DeviceRef::Inner { on, number } => self.inner(on, *number),
            DeviceRef::Volume { dataset } => Some(self.volume(dataset)?.1.size),
            DeviceRef::Mapper { name } => {
                let below = self.context.layout.below(name)?;
                Some(self.device(&below)?.saturating_sub(LUKS_HEADER))
            }
            DeviceRef::LogicalVolume { group, name } => self.logical_volume(group, name),
            DeviceRef::Array { name } => self.array(name),
        }
    }

    /// How much can be written to a device, at most: in a thin volume no more than in its thin
    /// pool, in a sparse one no more than in its pool.
    pub(super) fn room(&self, device: &DeviceRef) -> Option<u64> {
        let size = self.device(device)?;
        Some(self.behind(device).map_or(size, |behind| size.min(behind)))
    }

    /// The room of what a device is in, where that may be less than the device's size.
    fn behind(&self, device: &DeviceRef) -> Option<u64> {
        let layout = self.context.layout;
        match device {
            DeviceRef::Mapper { name } => self.room(&layout.below(name)?),
            DeviceRef::Inner { on, .. } => self.room(on),
            DeviceRef::Volume { dataset } => {
                let (pool, volume) = self.volume(dataset)?;
                let own = self.reserved_by(pool, volume);
                let unreserved = self.unreserved(&pool.name)?;
                (own < volume.size).then_some(unreserved.saturating_add(own))
            }
            DeviceRef::LogicalVolume { group, name } => {
                let of_group = layout.groups.iter().find(|found| found.name == *group)?;
                let mut volumes = of_group.volumes.iter();
                let volume = volumes.find(|volume| volume.name == *name)?;
                self.logical_volume(group, volume.thin_pool.as_ref()?)
            }
            DeviceRef::Disk { .. } | DeviceRef::Partition { .. } | DeviceRef::Array { .. } => None,
        }
    }

    /// Sectors of a partition of a disk.
    fn sectors(&self, disk: &str, number: u32) -> Option<u64> {
        let on_disk = |device: &DeviceRef| device.disk() == Some(disk);
        let gpt = self.tables.gpt.iter().filter(|table| on_disk(&table.device));
        let gpt = gpt.flat_map(|table| &table.partitions);
        let mbr = self.tables.mbr.iter().filter(|table| on_disk(&table.device));
        let mbr = mbr.flat_map(|table| &table.partitions);
        gpt.map(|p| (p.number, p.first_lba, p.last_lba))
            .chain(mbr.map(|p| (p.number, p.first_lba, p.last_lba)))
            .find(|(found, ..)| *found == number)
            .map(|(_, first, last)| last - first + 1)
    }

    /// Whether a partition is an ESP by a disko `table`.
    pub(super) fn is_parted_esp(&self, device: &DeviceRef) -> bool {
        let DeviceRef::Partition { disk, number } = device else { return false };
        let mut tables = self.tables.gpt.iter().filter(|table| table.device.disk() == Some(disk));
        tables.any(|table| {
            let mut partitions = table.partitions.iter();
            partitions.any(|p| p.number == *number && p.type_guid == partition_type::ESP)
        })
    }

    /// Logical sector size of the disks under a device, the largest of several.
    pub(super) fn sector_size(&self, device: &DeviceRef) -> Option<u32> {
        let layout = self.context.layout;
        let largest = |members: Vec<DeviceRef>| {
            members.iter().filter_map(|member| self.sector_size(member)).max()
        };
        match device {
            DeviceRef::Disk { disk } | DeviceRef::Partition { disk, .. } => {
                Some(self.context.disks.get(disk.as_str())?.identity.sector_size)
            }
            DeviceRef::Volume { .. } => Some(512),
            DeviceRef::Mapper { name } => self.sector_size(&layout.below(name)?),
            DeviceRef::Inner { on, .. } => self.sector_size(on),
            DeviceRef::LogicalVolume { group, .. } => largest(layout.physical_volumes(group)),
            DeviceRef::Array { name } => largest(layout.array_members(name)),
        }
    }

    /// A partition of a table on a RAID or in a container.
    fn inner(&self, on: &DeviceRef, number: u32) -> Option<u64> {
        let contents = self.context.layout.contents();
        let table = contents.into_iter().find_map(|(device, content)| match content {
            Content::Gpt(gpt) if device == *on => Some(gpt),
            _ => None,
        });
        let places = self.inner_places(on, table?)?.ok()?;
        let place = places.get(usize::try_from(number.checked_sub(1)?).ok()?)?;
        Some(place.sectors() * u64::from(self.sector_size(on)?))
    }

    /// Whether such a table is on something that is made too.
    pub(super) fn is_new_inner(&self, on: &DeviceRef) -> bool {
        self.tables.inner.iter().any(|table| table.device == *on && table.presence.is_new())
    }

    /// Where the partitions of such a table lie if the device has all that it can have.
    pub(super) fn inner_places(
        &self,
        on: &DeviceRef,
        table: &Gpt,
    ) -> Option<Result<Vec<Extent>, GeometryError>> {
        let wanted: Vec<Wanted> = table.partitions.iter().map(Wanted::from).collect();
        Some(geometry::allocate(self.device(on)?, self.sector_size(on)?, &wanted))
    }

    fn logical_volume(&self, group: &str, name: &str) -> Option<u64> {
        let group = self.context.layout.groups.iter().find(|found| found.name == group)?;
        let index = group.volumes.iter().position(|volume| volume.name == name)?;
        self.logical_volumes(group)[index].size
    }

    /// The volumes of a group as they will be made, in its order.
    pub(super) fn logical_volumes(&self, group: &VolumeGroup) -> Vec<Made> {
        logical::volumes(group, self.group(&group.name))
    }

    /// Whether all physical volumes of a group are on disks that hold nothing, or soon nothing.
    pub(super) fn is_new_group(&self, group: &VolumeGroup) -> bool {
        let members = self.context.layout.physical_volumes(&group.name);
        members.iter().all(|member| self.is_new(member))
    }

    fn is_new(&self, device: &DeviceRef) -> bool {
        let layout = self.context.layout;
        let all = |members: Vec<DeviceRef>| members.iter().all(|member| self.is_new(member));
        match device {
            DeviceRef::Disk { disk } | DeviceRef::Partition { disk, .. } => {
                let mut disks = layout.disks.iter().filter(|found| found.name == *disk);
                disks.any(|found| {
                    let there = &self.context.disks[found.name.as_str()].contents;
                    self.context.wipes(found) || there.is_blank()
                })
            }
            DeviceRef::Mapper { name } => layout.below(name).is_some_and(|on| self.is_new(&on)),
            DeviceRef::Inner { on, .. } => self.is_new(on),
            DeviceRef::LogicalVolume { group, .. } => all(layout.physical_volumes(group)),
            DeviceRef::Array { name } => all(layout.array_members(name)),
            DeviceRef::Volume { dataset } => {
                all(layout.members(dataset.split('/').next().unwrap_or_default()))
            }
        }
    }

    /// What all physical volumes of a group have for volumes.
    fn group(&self, group: &str) -> Option<u64> {
        let sizes = self.all(&self.context.layout.physical_volumes(group))?.into_iter();
        Some(sizes.map(logical::physical_volume).fold(0, u64::saturating_add))
    }

    fn array(&self, name: &str) -> Option<u64> {
        let array = self.context.layout.arrays.iter().find(|array| array.name == name)?;
        let sizes = self.all(&self.context.layout.array_members(name))?;
        let least = sizes.iter().copied().min()?;
        let count = sizes.len() as u64;
        Some(match array.level {
            0 => sizes.iter().copied().fold(0, u64::saturating_add),
            1 => least,
            10 => least.saturating_mul(count) / 2,
            6 => least.saturating_mul(count.saturating_sub(2)),
            _ => least.saturating_mul(count.saturating_sub(1)),
        })
    }

    fn all(&self, devices: &[DeviceRef]) -> Option<Vec<u64>> {
        devices.iter().map(|device| self.device(device)).collect()
    }

    /// What a pool can hold: its data vdevs less parity, less the share that ZFS keeps for itself
    /// (1/32, and [`MOST_SLOP`] at most; `spa_slop_shift` and `spa_max_slop` in OpenZFS
    /// module/zfs/spa_misc.c).
    pub(super) fn pool(&self, name: &str) -> Option<u64> {
        let pool = self.context.layout.zpools.iter().find(|pool| pool.name == name)?;
        let ashift = zfs::ashift(pool);
        let mut raw: u64 = 0;
        for (mode, members) in self.vdevs(pool)? {
            let rooms: Option<Vec<u64>> = members.iter().map(|member| self.room(member)).collect();
            raw = raw.saturating_add(usable(mode, &rooms?, ashift)?);
        }
        Some(raw - (raw / 32).min(MOST_SLOP))
    }

    /// The vdevs that hold a pool's data.
    fn vdevs(&self, pool: &Zpool) -> Option<Vec<(VdevMode, Vec<DeviceRef>)>> {
        let layout = self.context.layout;
        let topology = match &pool.mode {
            PoolMode::One(mode) => return Some(vec![(*mode, layout.members(&pool.name))]),
            PoolMode::Topology(topology) => topology,
        };
        let members = |vdev: &TopologyVdev| {
            let members = vdev.members.iter().map(|word| layout.member(&pool.name, word));
            members.collect::<Option<Vec<_>>>()
        };
        topology.vdevs.iter().map(|vdev| Some((vdev.mode, members(vdev)?))).collect()
    }

    /// What the volumes of a pool reserve, at least.
    pub(super) fn reserved(&self, pool: &str) -> u64 {
        let pools = self.context.layout.zpools.iter().filter(|found| found.name == pool);
        let all = pools.flat_map(|pool| pool.datasets.iter().map(move |found| (pool, found)));
        all.fold(0, |sum: u64, (pool, dataset)| match dataset {
            Dataset::Volume(volume) => sum.saturating_add(self.reserved_by(pool, volume)),
            Dataset::Fs(_) => sum,
        })
    }

    fn reserved_by(&self, pool: &Zpool, volume: &ZfsVolume) -> u64 {
        let vdevs = self.vdevs(pool).unwrap_or_default().into_iter();
        let raidz = vdevs.filter_map(|(mode, members)| match mode {
            VdevMode::Raidz(parity) => {
                Some(Raidz { members: members.len() as u64, parity: parity.into() })
            }
            _ => None,
        });
        zfs::reserved(volume, &raidz.collect::<Vec<_>>(), zfs::ashift(pool))
    }

    /// What a pool can hold beside what its volumes reserve.
    pub(super) fn unreserved(&self, pool: &str) -> Option<u64> {
        Some(self.pool(pool)?.saturating_sub(self.reserved(pool)))
    }

    /// A volume of a pool, by its full name, and its pool.
    fn volume(&self, dataset: &str) -> Option<(&'a Zpool, &'a ZfsVolume)> {
        let pools = self.context.layout.zpools.iter();
        let mut all = pools.flat_map(|pool| pool.datasets.iter().map(move |found| (pool, found)));
        all.find_map(|(pool, found)| match found {
            Dataset::Volume(volume) if pool.full_name(&volume.name) == dataset => {
                Some((pool, volume))
            }
            _ => None,
        })
    }
}

/// What a vdev of members of these sizes can hold; `None` without members. RAID-Z and mirrors use
/// of each member only as much as the smallest has. What RAID-Z holds depends on the size of its
/// sectors; it is a little less than all but parity.
fn usable(mode: VdevMode, sizes: &[u64], ashift: Option<u32>) -> Option<u64> {
    let least = sizes.iter().copied().min()?;
    Some(match mode {
        VdevMode::Stripe => sizes.iter().copied().fold(0, u64::saturating_add),
        VdevMode::Mirror => least,
        VdevMode::Raidz(parity) => {
            let vdev = Raidz { members: sizes.len() as u64, parity: parity.into() };
            let data = least.saturating_mul(vdev.members.saturating_sub(vdev.parity));
            let shown = |ashift| vdev.shown(least.saturating_mul(vdev.members), ashift);
            ashift.map_or(data, |ashift| data.min(shown(ashift)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vdev_holds() {
        let table: [(VdevMode, &[u64], Option<u64>); 14] = [
            (VdevMode::Stripe, &[10], Some(10)),
            (VdevMode::Stripe, &[10, 20], Some(30)),
            (VdevMode::Mirror, &[10, 10], Some(10)),
            (VdevMode::Mirror, &[10, 8, 30], Some(8)),
            (VdevMode::Raidz(1), &[10, 10], Some(10)),
            (VdevMode::Raidz(1), &[10, 10, 10], Some(20)),
            (VdevMode::Raidz(1), &[10, 7, 30], Some(14)),
            (VdevMode::Raidz(2), &[10, 10, 10], Some(10)),
            (VdevMode::Raidz(2), &[10, 10, 10, 9], Some(18)),
            (VdevMode::Raidz(3), &[10, 10, 10, 10], Some(10)),
            (VdevMode::Raidz(3), &[5, 10, 20, 40, 80], Some(10)),
            // Fewer members than parity hold nothing, and no size is too large.
            (VdevMode::Raidz(3), &[10, 10], Some(0)),
            (VdevMode::Raidz(1), &[u64::MAX; 3], Some(u64::MAX)),
            (VdevMode::Mirror, &[], None),
        ];
        for (mode, sizes, holds) in table {
            assert_eq!(usable(mode, sizes, None), holds, "{mode:?} of {sizes:?}");
        }
        // Three of four, but blocks of 128 KiB take 44 sectors of 4 KiB, and of 512 bytes 342.
        let four = |ashift| usable(VdevMode::Raidz(1), &[64 << 30; 4], Some(ashift));
        assert_eq!(four(12), Some((256 << 30) / 512 * 372));
        assert_eq!(four(9), Some((256 << 30) / 512 * 383));
        assert_eq!(usable(VdevMode::Raidz(3), &[10, 10], Some(12)), Some(0));
    }
}
