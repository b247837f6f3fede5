//! Device numbers.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::str::FromStr;

/// A block device's number, `major:minor` as sysfs and mountinfo write it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct DevNo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DevNo {
    /// From a `dev_t`.
    pub fn from_raw(raw: u64) -> Self {
        // The libc functions' return types differ between targets; the values fit 32 bits.
        DevNo { major: libc::major(raw) as u32, minor: libc::minor(raw) as u32 }
    }

    /// The number of the block device that the node at `path` stands for.
    pub fn of_node(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        metadata.file_type().is_block_device().then(|| Self::from_raw(metadata.rdev()))
    }
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The text is not `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a device number")]
pub struct NotADevNo;

impl FromStr for DevNo {
    type Err = NotADevNo;

    fn from_str(text: &str) -> Result<Self, NotADevNo> {
        let (major, minor) = text.trim().split_once(':').ok_or(NotADevNo)?;
        Ok(DevNo {
            major: major.parse().map_err(|_| NotADevNo)?,
            minor: minor.parse().map_err(|_| NotADevNo)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let devno: DevNo = "254:17\n".parse().unwrap();
        assert_eq!(devno, DevNo { major: 254, minor: 17 });
        assert_eq!(devno.to_string(), "254:17");
        assert!("254".parse::<DevNo>().is_err());
        assert!(":1".parse::<DevNo>().is_err());
    }
}
