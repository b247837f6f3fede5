//! What the machine is, as the agent found it. Nothing here is secret, nothing is guessed: what
//! could not be read is `None`.

mod disk;
mod machine;

pub use disk::*;
pub use machine::*;

use serde::{Deserialize, Serialize};

/// The whole inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Format of this document.
    pub version: u32,
    /// The running system.
    pub system: System,
    /// Firmware and Secure Boot.
    pub firmware: Firmware,
    /// The TPM, if `/dev/tpmrm0` answers.
    pub tpm: Option<Tpm>,
    /// Processor.
    pub cpu: Cpu,
    /// Memory, in bytes.
    pub memory: Memory,
    /// Network interfaces other than loopback.
    pub network: Vec<Interface>,
    /// ZFS in the running kernel.
    pub zfs: Zfs,
    /// Programs of the running system that a step may need: name → path.
    pub tools: std::collections::BTreeMap<String, String>,
    /// Disks, sorted by kernel name.
    pub disks: Vec<Disk>,
    /// Pools imported now.
    pub pools: Vec<ImportedPool>,
    /// Device-mapper devices that are open now.
    pub mappers: Vec<Mapper>,
    /// Software RAIDs that run now.
    #[serde(default)]
    pub arrays: Vec<RunningArray>,
    /// Kernel names of the block devices that are active swap.
    #[serde(default)]
    pub swaps: Vec<String>,
    /// What is mounted at or below `/mnt`, outermost first.
    pub target_mounts: Vec<String>,
}

/// The format of [`Inventory`].
pub const INVENTORY_VERSION: u32 = 1;
