//! A directory that is mounted read-only, writable for one thread alone.
//!
//! NixOS mounts `/nix/store` over itself read-only, against accidents; Nix writes to it in a
//! mount namespace of its own (`LocalStore::makeStoreWritable`), and so do we.

use super::MountError;
use crate::ensure::Ensured;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::path::Path;

/// Makes `dir` writable for the calling thread and those that it starts from now on, if it is a
/// mount point that is read-only. Nothing changes for others. What was opened before stays as it
/// was.
///
/// # Errors
/// The thread can't have mounts of its own.
pub fn writable_here(dir: &Path) -> Result<Ensured, MountError> {
    let failed = |source| MountError::Writable { target: dir.to_owned(), source };
    let flags = match statvfs(dir) {
        Ok(found) => found.flags(),
        // Who makes it will say what is wrong.
        Err(_) => return Ok(Ensured::AlreadySo),
    };
    if !flags.contains(FsFlags::ST_RDONLY) {
        return Ok(Ensured::AlreadySo);
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed)?;
    // The mount's other flags stay.
    let mut how = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    for (found, kept) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        how.set(kept, flags.contains(found));
    }
    mount(none, dir, none, how, none).map_err(failed)?;
    Ok(Ensured::Created)
}
