//! Disks and what is on them.

use serde::{Deserialize, Serialize};

/// What tells one disk from another, however it is named today.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The stable name the operator is shown and types: the best `/dev/disk/by-id` link, or
    /// `serial:…`, or the kernel's name where the disk has no identity at all.
    pub name: String,
    /// Serial number.
    pub serial: Option<String>,
    /// World Wide Name.
    pub wwn: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Size, in bytes.
    pub size: u64,
    /// Logical sector size, in bytes: 512 or 4096.
    pub sector_size: u32,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name (`vda`), good until the next boot at most.
    pub kernel_name: String,
    /// Device number, `major:minor`.
    pub devno: String,
    /// Who it is.
    pub identity: DiskIdentity,
    /// All links to it below `/dev/disk`, sorted.
    pub links: Vec<String>,
    /// Physical sector size, in bytes.
    pub physical_sector_size: u32,
    /// How it is attached (`virtio`, `nvme`, `sata`, `usb`, …).
    pub transport: Option<String>,
    /// Whether it can be removed.
    pub removable: bool,
    /// Whether it spins.
    pub rotational: bool,
    /// Whether it is write-protected.
    pub read_only: bool,
    /// Whether it can be told to forget what is on it (discard, TRIM).
    #[serde(default)]
    pub discard: bool,
    /// Whether the running system was booted from it.
    pub boot_medium: bool,
    /// What is on it.
    pub contents: Contents,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Contents {
    /// The partition table, if there is one.
    pub table: Option<Table>,
    /// Signatures on the whole device.
    pub signatures: Vec<Signature>,
    /// Partitions that the kernel knows, by number.
    pub partitions: Vec<Partition>,
    /// Who uses the whole device.
    pub holders: Vec<Holder>,
}

impl Contents {
    /// Whether nothing that could be recognised is there.
    pub fn is_blank(&self) -> bool {
        self.table.is_none()
            && self.signatures.is_empty()
            && self.partitions.is_empty()
            && self.holders.is_empty()
    }

    /// Signatures of the device and all its partitions.
    pub fn all_signatures(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().chain(self.partitions.iter().flat_map(|p| &p.signatures))
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Table {
    /// GPT.
    Gpt {
        /// Disk GUID.
        guid: String,
    },
    /// MBR.
    Mbr {
        /// Disk signature, hex.
        id: String,
    },
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Number in the table.
    pub number: u32,
    /// Kernel name (`vda1`).
    pub kernel_name: String,
    /// First LBA, in logical sectors.
    pub first_lba: u64,
    /// Size, in bytes.
    pub size: u64,
    /// GPT type GUID, upper case.
    pub type_guid: Option<String>,
    /// GPT unique GUID, lower case.
    pub guid: Option<String>,
    /// GPT name.
    pub label: Option<String>,
    /// GPT attribute bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<u64>,
    /// What is on it.
    pub signatures: Vec<Signature>,
    /// The NixOS that boots from it, as its boot entries say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nixos: Option<InstalledNixos>,
    /// Who uses it.
    pub holders: Vec<Holder>,
}

/// A NixOS that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledNixos {
    /// Its newest generation that can be booted.
    pub generation: u32,
    /// That generation's system.
    pub toplevel: Option<String>,
    /// Its host name, from the system's own name.
    pub hostname: Option<String>,
    /// What the boot menu says it is (`Generation 7 NixOS 25.05 …`).
    pub version: Option<String>,
}

/// Something recognised by its magic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Signature {
    /// A file system.
    Filesystem {
        /// `ext4`, `vfat`, `xfs`, `btrfs`, `squashfs`, `iso9660`, …
        fstype: String,
        /// Its label.
        label: Option<String>,
        /// Its UUID.
        uuid: Option<String>,
        /// How much of it is in use, in bytes, where that is known: of what is mounted, of ext2 to ext4 and
        /// FAT32 that were unmounted, and of btrfs, of all its devices.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<u64>,
    },
    /// A LUKS header.
    Luks {
        /// 1 or 2.
        version: u32,
        /// Its UUID.
        uuid: Option<String>,
        /// Its label.
        label: Option<String>,
    },
    /// A member of a ZFS pool, read from its label without importing it.
    ZfsMember {
        /// The pool's name.
        pool: String,
        /// The pool's GUID, decimal.
        guid: String,
        /// Host that imported it last.
        hostname: Option<String>,
        /// Its host id.
        hostid: Option<u32>,
        /// Whether it was exported.
        state: PoolState,
        /// Last transaction group in the label.
        txg: u64,
        /// When the pool was written last, as this member says: seconds since 1970. ZFS keeps no time of
        /// an import; a pool that is imported is written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        written: Option<u64>,
    },
    /// An LVM physical volume.
    Lvm,
    /// A member of a Linux software RAID.
    MdRaid,
    /// Swap.
    Swap,
    /// Something else that is known to be in use.
    Other {
        /// What.
        name: String,
    },
}

/// A read cache of a ZFS pool, as [`Signature::Other`]: its label does not say of which.
pub const ZFS_CACHE: &str = "a ZFS cache device";
/// A hot spare of ZFS pools, as [`Signature::Other`]: its label does not say of which.
pub const ZFS_SPARE: &str = "a ZFS spare device";

impl Signature {
    /// Whether it is the label of a read cache or hot spare of ZFS.
    pub fn is_zfs_auxiliary(&self) -> bool {
        matches!(self, Signature::Other { name } if name == ZFS_CACHE || name == ZFS_SPARE)
    }
}

/// A pool's state in its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    /// Imported somewhere, or never exported.
    Active,
    /// Exported.
    Exported,
    /// Destroyed.
    Destroyed,
}

/// Who uses a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Holder {
    /// It is mounted.
    Mount {
        /// Where.
        target: String,
    },
    /// It is active swap.
    Swap,
    /// An imported pool has it.
    Pool {
        /// The pool's name.
        name: String,
        /// The pool's GUID, decimal.
        guid: String,
    },
    /// A device-mapper, md or other block device is made of it.
    Device {
        /// Kernel name of the holder.
        kernel_name: String,
        /// Its own name (`dm/name`), if it has one.
        name: Option<String>,
    },
}

/// A pool that is imported now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedPool {
    /// Its name.
    pub name: String,
    /// Its GUID, decimal.
    pub guid: String,
    /// `ONLINE`, `DEGRADED`, …
    pub health: String,
    /// Kernel names of its leaves (`vda2`).
    pub devices: Vec<String>,
    /// Kernel names of its volumes (`zd0`) → dataset.
    pub volumes: std::collections::BTreeMap<String, String>,
    /// Where its file systems are mounted.
    pub mounts: Vec<String>,
}

/// A device-mapper device that is open now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapper {
    /// Kernel name (`dm-0`).
    pub kernel_name: String,
    /// Name (`credstore`).
    pub name: String,
    /// Its UUID (`CRYPT-LUKS2-…-credstore`).
    pub uuid: String,
    /// Kernel names of what it is made of.
    pub slaves: Vec<String>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
}

/// A software RAID that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningArray {
    /// Kernel name (`md127`).
    pub kernel_name: String,
    /// The name that its members' superblocks have, without a host's (`raid1`).
    pub name: String,
    /// Kernel names of its members.
    pub slaves: Vec<String>,
    /// Where it or a partition on it is mounted.
    pub mounts: Vec<String>,
}

/// A time as people read it, to the minute, in UTC: `2025-11-03 14:07 UTC`. Seconds since 1970 that no
/// calendar has are said as they are.
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| chrono::DateTime::from_timestamp(s, 0));
    match time {
        Some(time) => time.format("%Y-%m-%d %H:%M UTC").to_string(),
        None => format!("{seconds} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(1_762_178_820), "2025-11-03 14:07 UTC");
        assert_eq!(utc(u64::MAX), "18446744073709551615 s after 1970");
    }
}
