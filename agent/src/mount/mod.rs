//! Mounting and unmounting, by `mount(2)` and `umount2(2)`.
//!
//! The kernel loads the file system's module itself. No mount helper runs: what `mount.zfs` adds
//! is added here.
//!
//! | module | job |
//! |---|---|
//! | [`table`] | the mount table |
//! | [`options`] | from words in a layout to flags and data |
//! | [`ensure`](mod@ensure) | a file system at a place |
//! | [`unmount`] | nothing at or below a place, or who hinders it |
//! | [`swap`] | swapping begun and ended |
//! | [`temporary`] | a file system where only root looks, for a moment |
//! | [`writable`] | a read-only mount, writable for one thread |

pub mod ensure;
pub mod options;
pub mod swap;
pub mod table;
pub mod temporary;
pub mod unmount;
pub mod writable;

pub use ensure::{MountRequest, ensure, ensure_efivarfs};
pub use swap::{SwapOptions, swapoff, swapon};
pub use table::MountPoint;
pub use temporary::TempMount;
pub use unmount::{unmount, unmount_all_below};
pub use writable::writable_here;

use crate::block::Timeout;
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// How long a device or a mount may stay busy before its users are named.
const BUSY_BOUND: Duration = Duration::from_secs(30);

/// Something could not be mounted or unmounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount table can't be read.
    #[error("reading the mount table")]
    Table(#[source] std::io::Error),
    /// The place to mount at can't be made.
    #[error("making the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// `mount(2)` refused.
    #[error("mounting {what} ({fstype}) at {}{}", target.display(), hint(*source, fstype))]
    Mount {
        /// The source.
        what: String,
        /// The type.
        fstype: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// A read-only mount can't be made writable.
    #[error("making {} writable for this program alone", target.display())]
    Writable {
        /// Which.
        target: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// What is to be bound there is not there.
    #[error("{} can't be bound: there is no such file or directory", .0.display())]
    NothingToBind(PathBuf),
    /// Something else is there.
    #[error("{} is taken: {there} is mounted there", target.display())]
    Taken {
        /// Where.
        target: PathBuf,
        /// What is there.
        there: String,
    },
    /// `umount2(2)` refused.
    #[error("unmounting {}", target.display())]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// `swapon(2)` refused.
    #[error("beginning to swap to {}", to.display())]
    Swapon {
        /// To what.
        to: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// `swapoff(2)` refused.
    #[error("ending swapping to {}", device.display())]
    Swapoff {
        /// To what.
        device: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// It stayed busy.
    #[error("{} stays in use by {}", target.display(), holders.join(", "))]
    Busy {
        /// Where.
        target: PathBuf,
        /// Who uses it, a phrase each.
        holders: Vec<String>,
    },
    /// A wait reached its bound.
    #[error(transparent)]
    Timeout(#[from] Timeout),
}

/// Whether the running kernel can mount file systems of this type, which lie on a block device: its
/// module is loaded for it, if there is one. Nothing is mounted: `/dev/null` is no block device, and
/// is looked at only after the type was found (`do_new_mount` in Linux's `fs/namespace.c`).
pub fn is_known(fstype: &str) -> bool {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_RDONLY;
    nix::mount::mount(Some("/dev/null"), "/", Some(fstype), flags, none) != Err(Errno::ENODEV)
}

/// What an error of `mount(2)` means beyond its words.
fn hint(errno: Errno, fstype: &str) -> String {
    match errno {
        Errno::ENODEV => format!(": the running kernel has no file system {fstype}"),
        Errno::ENOKEY | Errno::EACCES if fstype == "zfs" => ": its key is not loaded".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
