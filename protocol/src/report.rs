//! What was done: kept on the machine at `/var/lib/keystone/install.json` and by the controller.
//!
//! No secrets. The machine's copy ends at the seal, since it is written just before the file
//! system is unmounted; the controller's adds seal, reboot and verification.

use crate::inventory::DiskIdentity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Format of this document.
    pub version: u32,
    /// The agent's version.
    pub agent_version: String,
    /// The plan's hash.
    pub plan: String,
    /// The installed system.
    pub toplevel: String,
    /// Disks by the layout's name.
    pub disks: BTreeMap<String, DiskReport>,
    /// Pools by name.
    pub pools: BTreeMap<String, PoolReport>,
    /// LUKS containers by name.
    pub containers: BTreeMap<String, ContainerReport>,
    /// The public half of the machine's SSH host key, `ssh-ed25519 AAAA…`.
    pub ssh_host_key: Option<String>,
    /// What every step took.
    pub steps: Vec<StepReport>,
    /// Warnings, in order.
    pub warnings: Vec<String>,
    /// How far this copy reaches.
    pub ends_at: EndsAt,
    /// Unix time at which the execution began, by the machine's clock, in seconds.
    pub started_at: u64,
}

/// How far a report reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndsAt {
    /// The target is made and mounted, and nothing is in it yet.
    Mounted,
    /// Written before the seal: the machine's copy.
    BeforeSeal,
    /// Sealed and proven.
    Sealed,
    /// The installed system was seen running.
    Verified,
}

/// A disk as it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Which disk.
    pub identity: DiskIdentity,
    /// The GPT's disk GUID.
    pub guid: String,
    /// Partition GUIDs by the layout's partition name.
    pub partitions: BTreeMap<String, String>,
}

/// A pool as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// The pool's GUID, decimal as `zpool get guid` prints it.
    pub guid: String,
    /// Features that were enabled.
    pub features: Vec<String>,
}

/// A LUKS container as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// The LUKS UUID.
    pub uuid: String,
    /// Keyslots: number → what opens it (`tpm2`, `recovery`, `password`, `key-file`). The
    /// numbers are text, as JSON's keys are: messages are tagged, and serde reads no number
    /// from a key inside one.
    pub keyslots: BTreeMap<String, String>,
}

/// A step and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's id.
    pub id: String,
    /// What it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Whether it changed something.
    pub outcome: crate::event::Outcome,
}

/// The format of [`Report`].
pub const REPORT_VERSION: u32 = 1;
