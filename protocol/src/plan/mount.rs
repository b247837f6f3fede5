//! Mounts and swap.

use super::DeviceRef;
use serde::{Deserialize, Serialize};

/// A mount below the target's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// What.
    pub source: MountSource,
    /// Where, in the installed system (`/`, `/boot`).
    pub target: String,
    /// Options from the layout, `defaults` left out. Those of a file system in btrfs have
    /// `subvol=…` where the layout mounts a subvolume.
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
    /// A file system without a device: tmpfs and the like.
    Virtual {
        /// Its type.
        fstype: String,
        /// First argument of mount(2), `none` or any word.
        name: String,
    },
    /// A directory or file of the machine being installed, mounted a second time.
    Bind {
        /// Its path, on the machine as it runs now.
        path: String,
        /// Whether what is mounted below it comes along (`rbind`).
        recursive: bool,
    },
}

/// When swap space that is freed is discarded. Source: swapon(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapDiscard {
    /// All of it at swapon.
    Once,
    /// Freed pages.
    Pages,
    /// Both.
    Both,
}
