//! The kinds of steps and their parameters.

use super::{
    ArrayPlan, ContainerUnlock, DatasetKey, DeviceRef, HookPlan, ImportPlan, InnerTable, KeyFile,
    LogicalVolumePlan, LuksFormat, LuksOpen, MbrTable, MountPlan, PartitionTable, PoolPlan,
    SwapDiscard,
};
use crate::options::{Chown, ExtraFiles, HostKeys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
        /// Whether the disk is told to forget everything on it first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        discard: bool,
    },
    /// Writes a GPT.
    Partition(PartitionTable),
    /// Writes an MBR partition table.
    PartitionMbr(MbrTable),
    /// Checks that the partitions are as the plan says, and keeps them.
    FindPartitions(PartitionTable),
    /// Writes a GPT onto something that has no size before it is made.
    PartitionInner(InnerTable),
    /// Makes a FAT32 file system.
    MakeVfat {
        /// Where.
        device: DeviceRef,
        /// Its label, at most 11 bytes, if the layout gives one.
        #[serde(default)]
        label: Option<String>,
    },
    /// Makes a file system with the running system's `mkfs.FSTYPE`.
    MakeFilesystem {
        /// Where.
        device: DeviceRef,
        /// `ext4`, `xfs`, `btrfs`, `f2fs`, `bcachefs`, …
        fstype: String,
        /// Further arguments from the layout.
        extra_args: Vec<String>,
    },
    /// Makes a btrfs subvolume, its parents in the path as directories.
    CreateSubvolume {
        /// The btrfs file system.
        device: DeviceRef,
        /// The subvolume's path in it, without a slash at the beginning.
        subvolume: String,
        /// Further arguments to `btrfs subvolume create`, from the layout.
        extra_args: Vec<String>,
    },
    /// Makes a swap file in a btrfs file system, as `btrfs filesystem mkswapfile` does: no
    /// copy-on-write, no holes.
    CreateSwapFile {
        /// The btrfs file system.
        device: DeviceRef,
        /// The file's path from the file system's top (subvolume 5), without a slash at the
        /// beginning.
        path: String,
        /// Its size, in bytes.
        size: u64,
    },
    /// Writes a swap header.
    MakeSwap {
        /// Where.
        device: DeviceRef,
        /// Its label, at most 16 bytes.
        label: Option<String>,
        /// Its UUID; else drawn at execution.
        uuid: Option<String>,
    },
    /// Begins to swap to a device, until the seal.
    Swapon {
        /// Which.
        device: DeviceRef,
        /// Priority, 0 to 32767; else the kernel's.
        priority: Option<u16>,
        /// When what is freed is discarded.
        discard: Option<SwapDiscard>,
        /// Further options from the layout (`nofail`), as fstab(5) has them.
        options: Vec<String>,
    },
    /// Ends swapping to a device that the plan made.
    Swapoff {
        /// Which.
        device: DeviceRef,
    },
    /// Makes a Linux software RAID with the running system's `mdadm` and removes what looks like
    /// a partition table on it.
    CreateArray(ArrayPlan),
    /// Starts a RAID that is there; none is made.
    AssembleArray(ArrayPlan),
    /// Stops a RAID.
    StopArray {
        /// Its name.
        name: String,
    },
    /// Makes an LVM physical volume.
    CreatePhysicalVolume {
        /// Where.
        device: DeviceRef,
    },
    /// Makes a volume group.
    CreateVolumeGroup {
        /// Its name.
        name: String,
        /// Its physical volumes.
        members: Vec<DeviceRef>,
    },
    /// Makes a logical volume.
    CreateLogicalVolume(LogicalVolumePlan),
    /// Makes the volumes of a volume group that is there available; none is made.
    ActivateGroup {
        /// Its name.
        name: String,
        /// Its physical volumes.
        members: Vec<DeviceRef>,
    },
    /// Deactivates all volumes of a volume group.
    DeactivateGroup {
        /// Its name.
        name: String,
    },
    /// Runs a hook of the layout.
    Hook(HookPlan),
    /// Makes a pool.
    CreatePool(PoolPlan),
    /// Imports a pool that is there; its members are on the layout's disks and no others.
    ImportPool(ImportPlan),
    /// Makes a volume.
    CreateVolume {
        /// The dataset.
        dataset: String,
        /// Size, in bytes.
        size: u64,
        /// Properties from the layout.
        properties: BTreeMap<String, String>,
        /// Whether it reserves no room (`zfs create -s`).
        #[serde(default)]
        sparse: bool,
        /// Its key, if it is an encryption root.
        #[serde(default)]
        key: Option<DatasetKey>,
    },
    /// Makes a snapshot.
    CreateSnapshot {
        /// Its name, `pool/dataset@name`.
        snapshot: String,
    },
    /// Formats a LUKS2 container with an ephemeral key and opens it.
    FormatLuks {
        /// Where.
        device: DeviceRef,
        /// Mapper name.
        name: String,
        /// How it is formatted.
        #[serde(default)]
        format: LuksFormat,
        /// How it is opened.
        #[serde(default)]
        open: LuksOpen,
    },
    /// Opens a container that is there: by the TPM, by the layout's key file, or by a password or
    /// recovery key that is asked for. Left out if nothing needs what is in it.
    OpenLuks {
        /// Where.
        device: DeviceRef,
        /// Mapper name.
        name: String,
        /// The layout's key file, tried too if it can be read.
        key_file: Option<KeyFile>,
    },
    /// Makes the lasting keyslots, opens each in a test, removes the ephemeral one.
    Enroll {
        /// The container's device.
        device: DeviceRef,
        /// Mapper name.
        name: String,
        /// What will open it.
        unlock: ContainerUnlock,
        /// Further keys that open it, from the layout.
        #[serde(default)]
        additional: Vec<KeyFile>,
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
    /// Loads the key of an encryption root that is there, in whatever format, from a file or from
    /// what the operator gives.
    UnlockDataset {
        /// The dataset or volume.
        dataset: String,
        /// Its key.
        key: DatasetKey,
    },
    /// Loads the raw key of an encrypted dataset.
    LoadKey {
        /// The dataset.
        dataset: String,
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
        /// Its key, if it is an encryption root.
        key: Option<DatasetKey>,
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
    /// Puts the operator's files into the system, owned by root.
    PutFiles(ExtraFiles),
    /// Sets the owner of a path of the system and of all below it.
    Chown(Chown),
    /// Gives the machine its SSH host keys, and makes an Ed25519 key unless there is one.
    HostKey {
        /// Where they come from.
        keys: HostKeys,
    },
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
    /// Copies everything on the ESP to another one, which gets a boot entry of its own, so that
    /// the machine boots without the first one's disk.
    CopyEsp {
        /// Where the ESP is mounted in the system.
        mountpoint: String,
        /// The other one, with a FAT32 file system.
        to: DeviceRef,
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
    /// Stops a software RAID.
    StopArray {
        /// Its name.
        name: String,
    },
    /// Ends all volumes of a volume group.
    DeactivateGroup {
        /// Its name.
        name: String,
    },
    /// Exports an imported pool of the layout, and proves it from the labels.
    ExportPool {
        /// Its name.
        name: String,
        /// Its GUID, decimal.
        guid: String,
        /// Its members, those whose labels say whether it is exported.
        members: Vec<DeviceRef>,
    },
    /// Destroys an imported pool that lives only on disks the plan destroys.
    DestroyPool {
        /// Its name.
        name: String,
        /// Its GUID, decimal.
        guid: String,
    },
}
