//! How large everything of the layout will be, in bytes.

use super::Context;
use keystone_protocol::layout::{Content, Dataset, PoolMode};
use keystone_protocol::plan::{DeviceRef, PartitionTable};

/// Size of a LUKS2 header. Source: cryptsetup-luksFormat(8).
pub(super) const LUKS_HEADER: u64 = 16 << 20;

/// Sizes of devices and pools that do not exist yet.
pub(super) struct Sizes<'a> {
    context: &'a Context<'a>,
    tables: &'a [PartitionTable],
}

impl<'a> Sizes<'a> {
    pub(super) fn new(context: &'a Context<'a>, tables: &'a [PartitionTable]) -> Self {
        Sizes { context, tables }
    }

    /// Size of a device; `None` for one that the layout does not make.
    pub(super) fn device(&self, device: &DeviceRef) -> Option<u64> {
        match device {
            DeviceRef::Disk { disk } => Some(self.context.disks.get(disk.as_str())?.identity.size),
            DeviceRef::Partition { disk, number } => {
                let table = self.tables.iter().find(|table| table.device.disk() == Some(disk))?;
                let mut partitions = table.partitions.iter();
                let partition = partitions.find(|partition| partition.number == *number)?;
                let sectors = partition.last_lba - partition.first_lba + 1;
                Some(sectors * u64::from(self.sector_size(device)?))
            }
            DeviceRef::Volume { dataset } => {
                self.volumes().find(|(name, _)| name == dataset).map(|(_, size)| size)
            }
            DeviceRef::Mapper { name } => {
                Some(self.device(&self.below(name)?)?.saturating_sub(LUKS_HEADER))
            }
            DeviceRef::Inner { .. } | DeviceRef::LogicalVolume { .. } | DeviceRef::Array { .. } => {
                None
            }
        }
    }

    /// Logical sector size of the disk under a partition.
    pub(super) fn sector_size(&self, device: &DeviceRef) -> Option<u32> {
        match device {
            DeviceRef::Disk { disk } | DeviceRef::Partition { disk, .. } => {
                Some(self.context.disks.get(disk.as_str())?.identity.sector_size)
            }
            DeviceRef::Volume { .. } => Some(512),
            DeviceRef::Inner { .. } | DeviceRef::LogicalVolume { .. } | DeviceRef::Array { .. } => {
                None
            }
            DeviceRef::Mapper { name } => self.sector_size(&self.below(name)?),
        }
    }

    /// The device that a container is on.
    fn below(&self, container: &str) -> Option<DeviceRef> {
        let is_it = |content: &Content| matches!(content, Content::Luks(l) if l.name == container);
        let contents = self.context.layout.contents();
        contents.into_iter().find(|(_, content)| is_it(content)).map(|(device, _)| device)
    }

    /// What a pool can hold: its members less parity, less the share that ZFS keeps for itself
    /// (1/32, `spa_slop_shift` in OpenZFS module/zfs/spa_misc.c).
    pub(super) fn pool(&self, name: &str) -> Option<u64> {
        let pool = self.context.layout.zpools.iter().find(|pool| pool.name == name)?;
        let members = self.context.layout.members(name);
        let sizes: Option<Vec<u64>> = members.iter().map(|member| self.device(member)).collect();
        let sizes = sizes?;
        let least = sizes.iter().copied().min()?;
        let raw = match pool.mode {
            PoolMode::Stripe => sizes.iter().fold(0u64, |sum, size| sum.saturating_add(*size)),
            PoolMode::Mirror => least,
            PoolMode::Raidz(parity) => {
                least.saturating_mul((sizes.len() as u64).saturating_sub(parity.into()))
            }
        };
        Some(raw - raw / 32)
    }

    /// What the volumes of a pool reserve.
    pub(super) fn reserved(&self, pool: &str) -> u64 {
        let of_pool = |name: &str| name.split('/').next() == Some(pool);
        self.volumes()
            .filter(|(name, _)| of_pool(name))
            .fold(0, |sum: u64, (_, size)| sum.saturating_add(size))
    }

    /// Volumes of the layout with their sizes.
    fn volumes(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.context.layout.zpools.iter().flat_map(|pool| {
            pool.datasets.iter().filter_map(move |dataset| match dataset {
                Dataset::Volume(volume) => {
                    Some((format!("{}/{}", pool.name, volume.name), volume.size))
                }
                Dataset::Fs(_) => None,
            })
        })
    }
}
