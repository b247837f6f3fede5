//! What will be done: data that are printed, hashed, confirmed and then executed.

mod action;
mod device;
mod hash;
mod hook;
mod luks;
mod lvm;
mod mount;
mod pool;
mod table;
mod uses;

pub use action::*;
pub use device::*;
pub use hash::*;
pub use hook::*;
pub use luks::*;
pub use lvm::*;
pub use mount::*;
pub use pool::*;
pub use table::*;

use crate::inventory::DiskIdentity;
use serde::{Deserialize, Serialize};

/// A plan. Everything that decides what is written where is in it; random values (GUIDs, keys)
/// are drawn at execution and stand in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the plan is made from; its hash is the plan's.
    pub basis: Basis,
    /// Blake3 of [`Plan::basis`], 64 hex digits.
    pub hash: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// How each LUKS container will be opened.
    pub containers: Vec<ContainerPlan>,
    /// Decisions and deviations the operator should know: why TPM2 or password, which hooks are
    /// replaced, which pool features are left out.
    pub notes: Vec<String>,
    /// What deserves a second thought. Shown at consent and again at the end.
    pub warnings: Vec<String>,
}

/// What the hash covers: no time, address, free memory or random value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The layout, canonical JSON.
    pub layout: String,
    /// The operator's options.
    pub options: crate::options::InstallOptions,
    /// The system to install.
    pub toplevel: String,
    /// The disks of the layout, by the layout's name.
    pub disks: std::collections::BTreeMap<String, DiskIdentity>,
    /// What is destroyed, as found.
    pub destroys: Vec<Destroyed>,
    /// The steps, each as canonical JSON: their parameters are confirmed too.
    pub steps: Vec<String>,
}

/// Something that is on a disk now and will be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// The layout's name of the disk.
    pub disk: String,
    /// Which disk.
    pub identity: DiskIdentity,
    /// What is on it now, a phrase each; empty for a blank disk.
    pub contents: Vec<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in the plan and stable between runs: `partition:root`, `pool:rpool`.
    pub id: String,
    /// What it does, a short phrase.
    pub title: String,
    /// What exactly.
    pub action: Action,
}
