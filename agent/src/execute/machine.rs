//! What the plan's names are on this machine: nodes, GUIDs, and keys that are only in memory.

use crate::{block, luks, mount, zfs};
use keystone_protocol::inventory::Inventory;
use keystone_protocol::plan::{ContainerUnlock, DeviceRef, Plan};
use keystone_protocol::report::{
    ContainerReport, DiskReport, EndsAt, PoolReport, REPORT_VERSION, Report, StepReport,
};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Where the target's root is mounted while it is installed.
pub const TARGET: &str = "/mnt";

/// A device of the plan that is not there.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The plan names a disk that the inventory does not have.
    #[error("disk {0:?} of the plan is not on this machine")]
    NoDisk(String),
    /// The step that makes the partition table has not run.
    #[error("partition {number} of disk {disk:?} is not known yet")]
    NoPartition {
        /// The layout's name of the disk.
        disk: String,
        /// Number in the table.
        number: u32,
    },
    /// The device did not come up.
    #[error(transparent)]
    Block(#[from] block::BlockError),
}

/// What is known of this machine while a plan runs.
pub struct Machine {
    disks: BTreeMap<String, Disk>,
    /// Passphrase that opens a container now: the ephemeral one until the lasting slots exist.
    keys: BTreeMap<String, Secret>,
    /// Raw keys of encrypted datasets, by the file that keeps them.
    dataset_keys: BTreeMap<(DeviceRef, String), Secret>,
    containers: BTreeMap<String, ContainerReport>,
    pools: BTreeMap<String, PoolReport>,
    ssh_host_key: Option<String>,
    started_at: u64,
    /// Whether anything was opened that a failure has to close.
    pool_names: Vec<String>,
    mapper_names: Vec<String>,
}

struct Disk {
    kernel_name: String,
    guid: Option<String>,
    /// Partition GUIDs by number, and their layout names.
    partitions: BTreeMap<u32, (String, String)>,
}
