//! What will be done: data that are printed, hashed, confirmed and then executed.

mod action;
mod hash;

pub use action::*;
pub use hash::*;

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

/// How a LUKS container will be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its mapper name.
    pub name: String,
    /// What will open it.
    pub unlock: ContainerUnlock,
    /// Why that, a sentence.
    pub reason: String,
}

/// What will open a LUKS container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum ContainerUnlock {
    /// The TPM, with a recovery key beside it.
    Tpm2 {
        /// PCRs bound to.
        pcrs: Vec<u8>,
        /// PCR bank.
        bank: String,
        /// Whether a PIN is asked too.
        pin: bool,
    },
    /// A password typed at boot, with a recovery key beside it.
    Password,
    /// The key file that the layout names, exactly.
    KeyFile {
        /// Its path on the machine being installed.
        path: String,
        /// Whether a trailing newline is dropped, as disko does with `passwordFile`.
        trim_newline: bool,
    },
}
