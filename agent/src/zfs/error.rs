//! What can go wrong with ZFS.

use std::{io, path::PathBuf};

/// An error of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The running kernel has no ZFS.
    #[error(
        "the ZFS kernel module is missing: {reason}; boot an installer that has it for its \
         kernel (this one is {kernel})"
    )]
    ModuleMissing {
        /// Release of the running kernel.
        kernel: String,
        /// What was tried.
        reason: String,
    },
    /// `/dev/zfs` is there and cannot be opened.
    #[error("open /dev/zfs")]
    Control(#[source] io::Error),
    /// libzfs cannot be initialised (it also needs `/proc/self/mounts`).
    #[error("initialise libzfs")]
    Init(#[source] io::Error),
    /// A pool or dataset is in use.
    #[error("{action}: {reason}")]
    Busy {
        /// What was tried, such as `cannot export 'rpool'`.
        action: String,
        /// In libzfs's words.
        reason: String,
    },
    /// No pool or dataset of that name.
    #[error("no such {what}: {name}")]
    NotFound {
        /// `pool` or `dataset`.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// libzfs or the kernel refused.
    #[error("{action}: {reason}")]
    Refused {
        /// What was tried, such as `cannot create 'rpool'`.
        action: String,
        /// In libzfs's words.
        reason: String,
        /// `EZFS_*` of OpenZFS include/libzfs.h.
        code: i32,
    },
    /// A call of libzfs_core failed.
    #[error("{action}")]
    System {
        /// What was tried.
        action: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another host has the pool, or had it last and did not export it.
    #[error(
        "pool {pool} was last used by {hostname} (host id {hostid:08x}) and not exported there"
    )]
    ForeignHost {
        /// The pool.
        pool: String,
        /// The other host's name.
        hostname: String,
        /// The other host's id.
        hostid: u64,
    },
    /// The key does not open the dataset.
    #[error("the key does not open {dataset}")]
    WrongKey {
        /// The encryption root.
        dataset: String,
    },
    /// It exists, and is not what was asked for.
    #[error("{name} exists already and is different: {difference}")]
    Differs {
        /// Pool or dataset.
        name: String,
        /// In what.
        difference: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A device or file cannot be used.
    #[error("{action} {path}")]
    Device {
        /// `open`, `read`, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A name holds a NUL byte.
    #[error("a name or value contains a NUL byte")]
    Nul(#[from] std::ffi::NulError),
    /// libnvpair refused to build or read a list.
    #[error("handle a name-value list ({key})")]
    Nvlist {
        /// The pair that was handled.
        key: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something did not come within its time.
    #[error("{what} did not appear within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
}

impl Error {
    /// Whether somebody uses the pool or dataset now: trying again may help.
    pub fn is_busy(&self) -> bool {
        match self {
            Error::Busy { .. } => true,
            Error::System { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
            _ => false,
        }
    }
}

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
