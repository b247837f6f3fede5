//! LVM and Linux software RAID.

use super::DeviceRef;
use serde::{Deserialize, Serialize};

/// A logical volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalVolumePlan {
    /// Its volume group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its size; for a thin volume its virtual size.
    pub size: LvSize,
    /// `--type`, if the layout gives one: `mirror`, `raid0` to `raid10`, `thin-pool`, …
    pub kind: Option<String>,
    /// For a thin volume: the pool's name.
    pub thin_pool: Option<String>,
    /// Further arguments to lvcreate, from the layout.
    pub extra_args: Vec<String>,
}

/// The size of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "size", rename_all = "kebab-case")]
pub enum LvSize {
    /// In bytes (`-L`).
    Bytes {
        /// How many.
        bytes: u64,
    },
    /// A share (`-l`).
    Percent {
        /// How much.
        percent: u32,
        /// Of what: `FREE`, `VG`, `PVS` or `ORIGIN`. disko's `100%` has none, and lvcreate then
        /// takes it as that of `FREE`.
        of: String,
    },
}

/// A RAID to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayPlan {
    /// Its name, below `/dev/md`; its `--homehost` is `any`.
    pub name: String,
    /// `--level`.
    pub level: u32,
    /// `--metadata`: `default`, `1`, `1.0`, `1.1`, `1.2`, `ddf` or `imsm`.
    pub metadata: String,
    /// Its members.
    pub members: Vec<DeviceRef>,
    /// Further arguments to `mdadm --create`, from the layout.
    pub extra_args: Vec<String>,
}
