//! The kinds of steps and their parameters.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A block device, named by what it is in the plan; the executor finds its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "device", rename_all = "kebab-case")]
pub enum DeviceRef {
    /// A disk, by the layout's name.
    Disk {
        /// The layout's name.
        disk: String,
    },
    /// A partition.
    Partition {
        /// The layout's name of the disk.
        disk: String,
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
}

/// What a step does. Effects name their module: see `agent/src`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Ends a use of a disk that the plan destroys: leaf first.
    Release(Release),
    /// Removes all signatures from a disk and its partitions, and the table.
    WipeDisk {
        /// The layout's name of the disk.
        disk: String,
    },
    /// Writes a partition table.
    Partition(PartitionTable),
    /// Makes a FAT32 file system.
    MakeVfat {
        /// Where.
        device: DeviceRef,
    },
    /// Makes an ext4 file system with the running system's `mkfs.ext4`.
    MakeExt4 {
        /// Where.
        device: DeviceRef,
        /// Further arguments from the layout.
        extra_args: Vec<String>,
    },
    /// Makes a pool.
    CreatePool(PoolPlan),
    /// Makes a volume.
    CreateVolume {
        /// The dataset.
        dataset: String,
        /// Size, in bytes.
        size: u64,
        /// Properties from the layout.
        properties: BTreeMap<String, String>,
    },
    /// Formats a LUKS2 container with an ephemeral key and opens it.
    FormatLuks {
        /// Where.
        device: DeviceRef,
        /// Mapper name.
        name: String,
    },
    /// Makes the lasting keyslots, opens each in a test, removes the ephemeral one.
    Enroll {
        /// The container's device.
        device: DeviceRef,
        /// Mapper name.
        name: String,
        /// What will open it.
        unlock: super::ContainerUnlock,
    },
    /// Makes the raw key of an encrypted dataset in a file system, once, and reads it back.
    CreateKey {
        /// The file system that keeps it.
        device: DeviceRef,
        /// File name at the file system's root.
        file: String,
        /// Length in bytes.
        bytes: u32,
    },
    /// Makes a file system dataset, not mounted.
    CreateDataset {
        /// The dataset.
        dataset: String,
        /// Properties.
        properties: BTreeMap<String, String>,
        /// For an encryption root: which key.
        key: Option<KeyRef>,
    },
    /// Closes a LUKS container.
    CloseLuks {
        /// Mapper name.
        name: String,
    },
    /// Mounts below the target's root.
    Mount(MountPlan),
    /// Receives the closure, verifies every NAR and writes the database.
    ReceiveClosure {
        /// Number of store paths.
        paths: u64,
        /// Sum of NAR sizes, in bytes.
        bytes: u64,
    },
    /// Sets the profile, garbage collector roots and `/etc/NIXOS`.
    SetProfile {
        /// The system.
        toplevel: String,
    },
    /// Makes the machine's SSH host key unless there is one.
    HostKey,
    /// Runs the system's `activate` and `systemd-tmpfiles` in a chroot, then
    /// `switch-to-configuration boot`.
    InstallBootloader {
        /// The system.
        toplevel: String,
    },
    /// Checks what is on the ESP, independently of what put it there, and sets `BootNext`.
    VerifyBootloader {
        /// The system.
        toplevel: String,
        /// The ESP.
        esp: DeviceRef,
        /// Where the ESP is mounted in the system.
        mountpoint: String,
    },
    /// Writes the machine's copy of the report.
    WriteReport,
    /// Unmounts everything below the target's root.
    Unmount,
    /// Exports a pool and proves it from the labels.
    ExportPool {
        /// The pool's name.
        pool: String,
    },
    /// Proves the seal: no mount, no mapper, no pool, labels exported.
    ProveSeal,
}

/// Ends one use of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Release {
    /// Unmounts.
    Unmount {
        /// Where it is mounted now.
        target: String,
    },
    /// Ends swapping to it.
    Swapoff {
        /// What is swapped to. A partition is one of the table that is there now.
        device: DeviceRef,
    },
    /// Closes a device-mapper device.
    CloseMapper {
        /// Its name.
        name: String,
        /// Its UUID.
        uuid: String,
    },
    /// Destroys an imported pool that lives only on disks the plan destroys.
    DestroyPool {
        /// Its name.
        name: String,
        /// Its GUID, decimal.
        guid: String,
    },
}

/// A GPT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    /// The layout's name of the disk.
    pub disk: String,
    /// Partitions, by number.
    pub partitions: Vec<PlannedPartition>,
}

/// A partition to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPartition {
    /// Number in the table.
    pub number: u32,
    /// The layout's name.
    pub name: String,
    /// Name in the table, at most 36 UTF-16 units.
    pub label: String,
    /// Type GUID, upper case.
    pub type_guid: String,
    /// Unique GUID if the layout gives one; else drawn at execution.
    pub guid: Option<String>,
    /// First LBA, in logical sectors of the disk.
    pub first_lba: u64,
    /// Last LBA, inclusive.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
}

/// A pool to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// Its data vdevs.
    pub vdevs: Vec<Vdev>,
    /// Pool properties (`-o`), such as `ashift`.
    pub properties: BTreeMap<String, String>,
    /// Properties of the root dataset (`-O`).
    pub root_properties: BTreeMap<String, String>,
    /// Features to enable; all others stay disabled.
    pub features: Vec<String>,
}

/// A top-level vdev.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "vdev", rename_all = "kebab-case")]
pub enum Vdev {
    /// One device.
    Disk {
        /// Which.
        member: DeviceRef,
    },
    /// A mirror.
    Mirror {
        /// Of which.
        members: Vec<DeviceRef>,
    },
    /// RAID-Z.
    Raidz {
        /// 1 to 3.
        parity: u8,
        /// Of which.
        members: Vec<DeviceRef>,
    },
}

/// The key of an encrypted dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRef {
    /// The file system that keeps it.
    pub device: DeviceRef,
    /// File name at the file system's root.
    pub file: String,
}

/// A mount below the target's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// What.
    pub source: MountSource,
    /// Where, in the installed system (`/`, `/boot`).
    pub target: String,
    /// Options from the layout, `defaults` left out.
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum MountSource {
    /// A dataset.
    Dataset {
        /// Its name.
        dataset: String,
    },
    /// A file system on a device.
    Filesystem {
        /// The device.
        device: DeviceRef,
        /// Its type.
        fstype: String,
    },
}
