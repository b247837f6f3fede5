//! What a plan opened, in the order in which it did.

use crate::lvm::Group;
use std::path::PathBuf;

/// Something that was opened and has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Use {
    /// A LUKS container.
    Mapper {
        /// Its mapper name.
        name: String,
    },
    /// A pool.
    Pool {
        /// Its name.
        name: String,
        /// Its GUID.
        guid: u64,
        /// Nodes of its members, caches and spares left out: those whose labels say whether it
        /// is exported.
        devices: Vec<PathBuf>,
    },
    /// A software RAID.
    Array {
        /// Its name.
        name: String,
        /// Kernel names of its members.
        members: Vec<String>,
    },
    /// A volume group with active volumes.
    Group(Group),
    /// It is swapped to a device or file.
    Swap {
        /// Which.
        path: PathBuf,
    },
}

/// All that a plan opened; it stays noted when it is closed, so that its end can be proven.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Opened {
    uses: Vec<Use>,
}

impl Opened {
    /// Notes that something was opened.
    pub fn note(&mut self, used: Use) {
        if !self.uses.contains(&used) {
            self.uses.push(used);
        }
    }

    /// What was opened, the first first: nothing is on something later.
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }
}
