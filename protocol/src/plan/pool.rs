//! ZFS pools and datasets.

use super::DeviceRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A pool to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// Its data vdevs.
    pub vdevs: Vec<Vdev>,
    /// Intent log vdevs; no RAID-Z.
    #[serde(default)]
    pub log: Vec<Vdev>,
    /// Vdevs for metadata and small blocks.
    #[serde(default)]
    pub special: Vec<Vdev>,
    /// Vdevs for deduplication tables.
    #[serde(default)]
    pub dedup: Vec<Vdev>,
    /// Read caches.
    #[serde(default)]
    pub cache: Vec<DeviceRef>,
    /// Hot spares.
    #[serde(default)]
    pub spare: Vec<DeviceRef>,
    /// Pool properties (`-o`), such as `ashift`.
    pub properties: BTreeMap<String, String>,
    /// Properties of the root dataset (`-O`).
    pub root_properties: BTreeMap<String, String>,
    /// The key of the root dataset, if it is an encryption root.
    #[serde(default)]
    pub root_key: Option<DatasetKey>,
    /// Features to enable; all others stay disabled.
    pub features: Vec<String>,
}

/// A pool that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPlan {
    /// Its name.
    pub name: String,
    /// Its GUID, decimal; `None` if it can't be seen before a container is open: then all
    /// members must be of one pool of that name.
    pub guid: Option<String>,
    /// The devices that it is looked for on, and no others: those that hold its data, whose
    /// labels say which pool it is.
    pub members: Vec<DeviceRef>,
    /// Its read caches and hot spares, whose labels say nothing of it; it is imported without one
    /// that has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auxiliary: Vec<DeviceRef>,
    /// Import it although another host had it last and did not export it.
    pub any_host: bool,
}

/// A top-level vdev.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "vdev", rename_all = "kebab-case")]
pub enum Vdev {
    /// One device.
    Disk {
        /// Which.
        member: DeviceRef,
    },
    /// A mirror.
    Mirror {
        /// Of which.
        members: Vec<DeviceRef>,
    },
    /// RAID-Z.
    Raidz {
        /// 1 to 3.
        parity: u8,
        /// Of which.
        members: Vec<DeviceRef>,
    },
}

impl Vdev {
    /// Its devices.
    pub fn members(&self) -> &[DeviceRef] {
        match self {
            Vdev::Disk { member } => std::slice::from_ref(member),
            Vdev::Mirror { members } | Vdev::Raidz { members, .. } => members,
        }
    }
}

/// The key of an encryption root. Its format is the property `keyformat`: `raw` is 32 bytes,
/// `hex` 64 digits, `passphrase` 8 to 512 bytes; of the latter two a line break at the end is
/// not part. Source: zfsprops(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum DatasetKey {
    /// A raw key that a step of the plan made in a file system of the plan.
    Made {
        /// The file system that keeps it.
        device: DeviceRef,
        /// File name at the file system's root.
        file: String,
    },
    /// A file of the machine being installed, as `keylocation=file://…` says.
    File {
        /// Its path.
        path: String,
    },
    /// The password that the operator gives (`keylocation=prompt`).
    Asked,
}

/// Properties of datasets that can be set only when the dataset is made; of one that exists
/// already they are left as they are. Source: zfsprops(7).
const ONE_TIME: &[&str] = &[
    "casesensitivity",
    "encryption",
    "keyformat",
    "keylocation",
    "normalization",
    "pbkdf2iters",
    "pbkdf2salt",
    "utf8only",
    "volblocksize",
];

/// Whether a property of a dataset can be set only when the dataset is made.
pub fn is_one_time(property: &str) -> bool {
    ONE_TIME.contains(&property)
}
