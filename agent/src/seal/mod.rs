//! Everything closed, and proven closed.
//!
//! A pool that was not exported carries the installer's host id, and the installed system, which
//! has another, refuses to import it at its first boot. So the last steps of a plan close what it
//! opened, and the very last asks the kernel and the labels on the disks whether that is so.

use crate::block::{Poll, Roots, Timeout, find, wait};
use crate::zfs::{self, LabelState, Zfs};
use crate::ensure::Ensured;
use crate::{luks, mount};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// What a plan opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Pools by name.
    pub pools: BTreeMap<String, OpenPool>,
    /// Mapper names.
    pub mappers: BTreeSet<String>,
}

/// A pool that a plan made.
#[derive(Debug)]
pub struct OpenPool {
    /// Its GUID.
    pub guid: u64,
    /// Nodes of its members.
    pub devices: Vec<PathBuf>,
}

/// Something is still open, or could not be asked.
#[derive(Debug, Error)]
pub enum SealError {
    /// Something is mounted at or below the target's root.
    #[error("still mounted: {}", .0.join(", "))]
    Mounted(Vec<String>),
    /// A container is open.
    #[error("the LUKS container {0} is still open")]
    MapperOpen(String),
    /// A pool is imported.
    #[error("the pool {0} is still imported")]
    PoolImported(String),
    /// A label says that the pool is in use.
    #[error(
        "the label of pool {pool} on {} says {state:?}: the installed system would refuse to import it",
        device.display()
    )]
    NotExported {
        /// The pool.
        pool: String,
        /// Its member.
        device: PathBuf,
        /// What the label says.
        state: LabelState,
    },
    /// A label is missing or of another pool.
    #[error("{} has no label of pool {pool}", device.display())]
    NoLabel {
        /// The pool.
        pool: String,
        /// Its member.
        device: PathBuf,
    },
    /// The mount table can't be read.
    #[error("reading the mount table")]
    Mounts(#[source] std::io::Error),
    /// ZFS can't be asked.
    #[error(transparent)]
    Zfs(#[from] zfs::Error),
    /// The pool stayed busy.
    #[error(transparent)]
    Busy(#[from] Timeout),
}

/// Asks the kernel and the labels whether everything is closed.
pub fn prove(roots: &Roots, target: &Path, opened: &Opened) -> Result<(), SealError> {
    let mounted = mounts_below(roots, target).map_err(SealError::Mounts)?;
    if !mounted.is_empty() {
        return Err(SealError::Mounted(mounted));
    }
    for name in &opened.mappers {
        if find::mapper_now(roots, |found, _| found == name).is_some() {
            return Err(SealError::MapperOpen(name.clone()));
        }
    }
    let imported = Zfs::open()?.imported_pools()?;
    for (name, pool) in &opened.pools {
        if imported.iter().any(|other| other.guid == pool.guid) {
            return Err(SealError::PoolImported(name.clone()));
        }
        for device in &pool.devices {
            let no_label = || SealError::NoLabel { pool: name.clone(), device: device.clone() };
            let label = zfs::read_label(device)?.ok_or_else(no_label)?;
            if label.pool_guid != Some(pool.guid) {
                return Err(no_label());
            }
            if label.state != LabelState::Exported {
                return Err(SealError::NotExported {
                    pool: name.clone(),
                    device: device.clone(),
                    state: label.state,
                });
            }
        }
    }
    Ok(())
}

/// How long a pool may stay busy: udev's probes of a volume are over in a moment.
const EXPORT_BOUND: Duration = Duration::from_secs(30);

/// Exports a pool, once nothing uses it any more.
pub fn export(zfs: &Zfs, pool: &str) -> Result<Ensured, SealError> {
    wait(&format!("the pool {pool} to be exported"), EXPORT_BOUND, || {
        match zfs.ensure_exported(pool, false) {
            Ok(ensured) => Ok(Poll::Ready(ensured)),
            Err(error) if error.is_busy() => Ok(Poll::Pending(error.to_string())),
            Err(error) => Err(SealError::from(error)),
        }
    })
}

fn mounts_below(roots: &Roots, target: &Path) -> std::io::Result<Vec<String>> {
    let mounts = mount::table::read(roots)?;
    Ok(mounts.into_iter().filter(|m| m.is_below(target)).map(|m| m.target).collect())
}

/// Closes what was opened as far as it goes, and says what could not be closed.
pub fn close_best_effort(roots: &Roots, target: &Path, opened: &Opened) -> Vec<String> {
    let mut left = Vec::new();
    if let Err(error) = mount::unmount_all_below(roots, target) {
        left.push(format!("{} is still mounted: {error}", target.display()));
    }
    for name in &opened.mappers {
        if let Err(error) = luks::close(name) {
            left.push(format!("the LUKS container {name} is still open: {error}"));
        }
    }
    for name in opened.pools.keys() {
        let exported =
            Zfs::open().map_err(SealError::from).and_then(|zfs| export(&zfs, name));
        match exported {
            Ok(_) => left.push(format!("pool {name} is exported, incomplete")),
            Err(error) => left.push(format!("pool {name} is still imported: {error}")),
        }
    }
    left
}
