//! Block devices, named by what they are in the plan.

use serde::{Deserialize, Serialize};

/// A block device, named by what it is in the plan; the executor finds its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "device", rename_all = "kebab-case")]
pub enum DeviceRef {
    /// A disk, by the layout's name.
    Disk {
        /// The layout's name.
        disk: String,
    },
    /// A partition of a disk.
    Partition {
        /// The layout's name of the disk.
        disk: String,
        /// Number in the table.
        number: u32,
    },
    /// A partition of a table that is not on a disk but on a RAID or in a container.
    Inner {
        /// The device that has the table.
        on: Box<DeviceRef>,
        /// Number in the table.
        number: u32,
    },
    /// A ZFS volume.
    Volume {
        /// The dataset.
        dataset: String,
    },
    /// An open LUKS container.
    Mapper {
        /// Its mapper name.
        name: String,
    },
    /// An LVM logical volume.
    LogicalVolume {
        /// The volume group.
        group: String,
        /// The volume's name.
        name: String,
    },
    /// A Linux software RAID, `/dev/md/NAME`.
    Array {
        /// Its name.
        name: String,
    },
}

impl DeviceRef {
    /// Partition `number` of the table on this device.
    pub fn partition(&self, number: u32) -> DeviceRef {
        match self {
            DeviceRef::Disk { disk } => DeviceRef::Partition { disk: disk.clone(), number },
            on => DeviceRef::Inner { on: Box::new(on.clone()), number },
        }
    }

    /// The layout's name of the disk, for a disk and a partition of one.
    pub fn disk(&self) -> Option<&str> {
        match self {
            DeviceRef::Disk { disk } | DeviceRef::Partition { disk, .. } => Some(disk),
            _ => None,
        }
    }
}
