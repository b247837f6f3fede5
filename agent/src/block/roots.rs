//! Where the kernel's and udev's file systems are.

use std::path::{Path, PathBuf};

/// The directories everything is read from. [`Roots::default`] is the running system; tests put
/// recorded trees in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// procfs.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// devtmpfs.
    pub dev: PathBuf,
    /// `/run`: udev's database is in `udev/data`.
    pub run: PathBuf,
    /// `/etc`: `hostid`, `os-release`.
    pub etc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Roots {
            proc: "/proc".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            run: "/run".into(),
            etc: "/etc".into(),
        }
    }
}

impl Roots {
    /// All five below one directory.
    pub fn below(root: &Path) -> Self {
        Roots {
            proc: root.join("proc"),
            sys: root.join("sys"),
            dev: root.join("dev"),
            run: root.join("run"),
            etc: root.join("etc"),
        }
    }

    /// The devtmpfs node of a block device. sysfs writes `!` where the node's path has `/`
    /// (`cciss!c0d0`).
    pub fn node(&self, kernel_name: &str) -> PathBuf {
        self.dev.join(kernel_name.replace('!', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_nested_names() {
        let roots = Roots::default();
        assert_eq!(roots.node("vda1"), Path::new("/dev/vda1"));
        assert_eq!(roots.node("cciss!c0d0p1"), Path::new("/dev/cciss/c0d0p1"));
    }
}
