//! Nothing at or below a place.

use super::table;
use super::{BUSY_BOUND, MountError};
use crate::block::{Poll, Roots, holders, wait};
use crate::ensure::Ensured;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};

/// Unmounts what is mounted at exactly `target`, all layers of it. Nothing is unmounted lazily:
/// when this returns well, the file system is no longer there.
pub fn unmount(roots: &Roots, target: &Path) -> Result<Ensured, MountError> {
    unmount_where(roots, |mounted| mounted == target)
}

/// Unmounts everything at or below `dir`, the last mounted first.
pub fn unmount_all_below(roots: &Roots, dir: &Path) -> Result<Ensured, MountError> {
    unmount_where(roots, |mounted| mounted.starts_with(dir))
}

fn unmount_where(roots: &Roots, chosen: impl Fn(&Path) -> bool) -> Result<Ensured, MountError> {
    let mut ensured = Ensured::AlreadySo;
    while let Some(target) = last(roots, &chosen)? {
        unmount_one(roots, &target)?;
        ensured = Ensured::Created;
    }
    Ok(ensured)
}

/// Children come after their parents in the table, and upper layers after lower ones.
fn last(roots: &Roots, chosen: &impl Fn(&Path) -> bool) -> Result<Option<PathBuf>, MountError> {
    let mounts = table::read(roots).map_err(MountError::Table)?;
    let chosen = mounts.iter().map(|mount| Path::new(&mount.target)).filter(|path| chosen(path));
    // Not simply the last line: a mount that was moved keeps its place in the table.
    let chosen: Vec<&Path> = chosen.collect();
    let deepest = chosen.iter().map(|path| path.components().count()).max();
    Ok(chosen
        .into_iter()
        .rev()
        .find(|path| Some(path.components().count()) == deepest)
        .map(Path::to_owned))
}

fn unmount_one(roots: &Roots, target: &Path) -> Result<(), MountError> {
    let what = format!("{} to be free", target.display());
    let done = wait(&what, BUSY_BOUND, || match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Poll::Ready(())),
        // Somebody else unmounted it.
        Err(Errno::EINVAL) if !is_mounted(roots, target) => Ok(Poll::Ready(())),
        Err(Errno::EBUSY) => Ok(Poll::Pending("it is busy".to_owned())),
        Err(source) => Err(MountError::Unmount { target: target.to_owned(), source }),
    });
    match done {
        Err(MountError::Timeout(_)) => {
            Err(MountError::Busy { target: target.to_owned(), holders: users(roots, target) })
        }
        other => other,
    }
}

fn is_mounted(roots: &Roots, target: &Path) -> bool {
    table::read(roots)
        .is_ok_and(|mounts| mounts.iter().any(|mount| Path::new(&mount.target) == target))
}

/// Who keeps a mount busy: processes with files in it, swap files, loop devices.
fn users(roots: &Roots, target: &Path) -> Vec<String> {
    let mut users: Vec<String> =
        holders::processes_below(roots, target).iter().map(ToString::to_string).collect();
    let swap_files =
        holders::swaps(roots).into_iter().filter(|path| Path::new(path).starts_with(target));
    users.extend(swap_files.map(|path| format!("swapping to {path}")));
    for name in crate::block::sysfs::whole_devices(roots) {
        let file = crate::block::sysfs::loop_file(roots, &name);
        users.extend(
            file.filter(|f| f.starts_with(target)).map(|_| format!("the loop device {name}")),
        );
    }
    if users.is_empty() {
        users
            .push("something that no process shows: another mount namespace, or the kernel".into());
    }
    users
}
