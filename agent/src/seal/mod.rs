//! Everything closed, and proven closed.
//!
//! A pool that was not exported carries the installer's host id, and the installed system, which
//! has another, refuses to import it at its first boot. So the last steps of a plan close what it
//! opened, and the very last asks the kernel and the labels on the disks whether that is so.

use crate::block::{Roots, find};
use crate::zfs::{self, PoolState};
use crate::{luks, mount};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
        state: PoolState,
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
    Zfs(#[from] zfs::ZfsError),
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
    let imported = zfs::Zfs::open()?.imported_pools()?;
    for (name, pool) in &opened.pools {
        if imported.iter().any(|other| other.guid == pool.guid) {
            return Err(SealError::PoolImported(name.clone()));
        }
        for device in &pool.devices {
            let no_label = || SealError::NoLabel { pool: name.clone(), device: device.clone() };
            let label = zfs::read_label(device)?.ok_or_else(no_label)?;
            if label.pool_guid != pool.guid {
                return Err(no_label());
            }
            if label.state != PoolState::Exported {
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
        let exported = zfs::Zfs::open().and_then(|mut zfs| zfs.export_pool(name));
        match exported {
            Ok(_) => left.push(format!("pool {name} is exported, incomplete")),
            Err(error) => left.push(format!("pool {name} is still imported: {error}")),
        }
    }
    left
}
