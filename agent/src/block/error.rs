//! What can go wrong with a block device.

use super::wait::Timeout;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Something about a block device failed.
#[derive(Debug, Error)]
pub enum BlockError {
    /// A system call failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, a gerund.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Someone uses it.
    #[error("{device} is in use{}", by(holders))]
    Busy {
        /// Its kernel name.
        device: String,
        /// Who uses it, a phrase each; empty if nobody could be found.
        holders: Vec<String>,
    },
    /// It is not there.
    #[error("there is no block device {0}: was it unplugged?")]
    Missing(String),
    /// The kernel can't have partitions on it.
    #[error("the kernel takes no partitions on {0} (EINVAL): it has to be a whole disk")]
    NotPartitionable(String),
    /// The kernel knows other partitions than were written.
    #[error("the kernel's partitions on {disk} are not those of its new table: {difference}")]
    OtherPartitions {
        /// The disk's kernel name.
        disk: String,
        /// How they differ.
        difference: String,
    },
    /// A sector size nobody has.
    #[error("{device} has sectors of {bytes} bytes; 512 and 4096 are supported")]
    SectorSize {
        /// Its kernel name.
        device: String,
        /// Its logical sector size.
        bytes: u32,
    },
    /// What was wiped reads back as something else.
    #[error(
        "{device} was wiped and did not keep it: byte {at} does not read back as zero. The device \
         is broken or drops what is written to it: replace it"
    )]
    NotWiped {
        /// Its kernel name.
        device: String,
        /// Where, in bytes from its start.
        at: u64,
    },
    /// A wait reached its bound.
    #[error(transparent)]
    Timeout(#[from] Timeout),
}

fn by(holders: &[String]) -> String {
    if holders.is_empty() {
        ", and who uses it could not be found out".to_owned()
    } else {
        format!(" by {}", holders.join(", "))
    }
}

impl BlockError {
    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| BlockError::Io { action, path, source }
    }
}
