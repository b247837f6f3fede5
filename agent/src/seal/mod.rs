//! Everything closed, and proven closed.
//!
//! A pool that was not exported carries the installer's host id, and the installed system, which
//! has another, refuses to import it at its first boot. So the last steps of a plan close what it
//! opened, and the very last asks the kernel and the labels on the disks whether that is so.

mod opened;

pub use opened::{Opened, Use};

use crate::block::find;
use crate::block::{Poll, Roots, Timeout, wait};
use crate::ensure::Ensured;
use crate::zfs::{self, LabelState, Zfs};
use crate::{luks, lvm, md, mount};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Something is still open, or could not be asked.
#[derive(Debug, Error)]
pub enum SealError {
    /// Something is mounted at or below the target's root.
    #[error("still mounted: {}", .0.join(", "))]
    Mounted(Vec<String>),
    /// It is swapped to something of the target.
    #[error("still swapped to: {}", .0.join(", "))]
    Swapping(Vec<String>),
    /// A RAID runs.
    #[error("the RAID {name} is still running, as {device}")]
    ArrayRunning {
        /// Its name.
        name: String,
        /// Its kernel name.
        device: String,
    },
    /// Logical volumes are active.
    #[error("volumes of the group {group} are still active: {}", volumes.join(", "))]
    GroupActive {
        /// The group.
        group: String,
        /// Their device-mapper names.
        volumes: Vec<String>,
    },
    /// What is swapped to can't be read.
    #[error(transparent)]
    Swaps(#[from] mount::MountError),
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
    let swapping = swapping(roots, target, opened)?;
    if !swapping.is_empty() {
        return Err(SealError::Swapping(swapping));
    }
    for used in opened.uses() {
        if let Use::Pool { name, guid, devices } = used {
            prove_exported(name, *guid, devices)?;
        } else {
            prove_closed(roots, used)?;
        }
    }
    Ok(())
}

/// What is swapped to, of what was opened and of what lies below the target.
fn swapping(roots: &Roots, target: &Path, opened: &Opened) -> Result<Vec<String>, SealError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for used in opened.uses() {
        if let Use::Swap { path } = used {
            found.extend(mount::swap::active(roots, path)?);
        }
    }
    found.extend(mount::swap::all(roots)?.into_iter().filter(|path| path.starts_with(target)));
    Ok(found.into_iter().map(|path| path.display().to_string()).collect())
}

fn prove_closed(roots: &Roots, used: &Use) -> Result<(), SealError> {
    match used {
        Use::Mapper { name } => match find::mapper_now(roots, |found, _| found == name) {
            Some(_) => Err(SealError::MapperOpen(name.clone())),
            None => Ok(()),
        },
        Use::Array { name, members } => match find::array_of_any(roots, members) {
            Some(device) => Err(SealError::ArrayRunning { name: name.clone(), device }),
            None => Ok(()),
        },
        Use::Group(group) => match lvm::active(roots, &group.name) {
            volumes if volumes.is_empty() => Ok(()),
            volumes => Err(SealError::GroupActive { group: group.name.clone(), volumes }),
        },
        // Asked before, all at once, and pools by their labels.
        Use::Swap { .. } | Use::Pool { .. } => Ok(()),
    }
}

fn prove_exported(name: &str, guid: u64, devices: &[PathBuf]) -> Result<(), SealError> {
    if Zfs::open()?.imported_pools()?.iter().any(|other| other.guid == guid) {
        return Err(SealError::PoolImported(name.to_owned()));
    }
    for device in devices {
        // The pool was on a container or a volume, which is closed by now. It could not have been
        // if the pool had not been exported before.
        if is_mapped(device) && !device.exists() {
            continue;
        }
        let no_label = || SealError::NoLabel { pool: name.to_owned(), device: device.clone() };
        let label = zfs::read_label(device)?.ok_or_else(no_label)?;
        if label.pool_guid != Some(guid) {
            return Err(no_label());
        }
        if label.state != LabelState::Exported {
            return Err(SealError::NotExported {
                pool: name.to_owned(),
                device: device.clone(),
                state: label.state,
            });
        }
    }
    Ok(())
}

fn is_mapped(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("dm-") || name.starts_with("md")
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

/// Closes what was opened as far as it goes, the last opened first, and says what could not be
/// closed.
pub fn close_best_effort(roots: &Roots, target: &Path, opened: &Opened) -> Vec<String> {
    let mut left = Vec::new();
    if let Err(error) = mount::swap::swapoff_below(roots, target) {
        left.push(format!("it is still swapped to a file in {}: {error}", target.display()));
    }
    if let Err(error) = mount::unmount_all_below(roots, target) {
        left.push(format!("{} is still mounted: {error}", target.display()));
    }
    // Whatever was opened later may be on what was opened earlier, and never the other way round.
    for used in opened.uses().iter().rev() {
        left.extend(close_one(roots, used));
    }
    left
}

/// Closes one thing; what is to be said of it.
fn close_one(roots: &Roots, used: &Use) -> Option<String> {
    match used {
        Use::Mapper { name } => luks::close(name)
            .err()
            .map(|error| format!("the LUKS container {name} is still open: {error}")),
        Use::Swap { path } => mount::swap::swapoff_path(roots, path)
            .err()
            .map(|error| format!("it is still swapped to {}: {error}", path.display())),
        Use::Array { name, members } => {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let running = find::array_now(roots, &members)?;
            md::stop(roots, name, &running)
                .err()
                .map(|error| format!("the RAID {name} is still running: {error}"))
        }
        Use::Group(group) => group
            .deactivate(roots, &mut |_| {})
            .err()
            .map(|error| format!("the volume group {} is still active: {error}", group.name)),
        Use::Pool { name, .. } => {
            let exported = Zfs::open().map_err(SealError::from).and_then(|zfs| export(&zfs, name));
            Some(match exported {
                Ok(_) => format!("pool {name} is exported, incomplete"),
                Err(error) => format!("pool {name} is still imported: {error}"),
            })
        }
    }
}

#[cfg(test)]
mod tests;
