//! The mounts that the system's programs find, and the way in.
//!
//! All of it happens in a private mount namespace and goes away with it.

use crate::store::fs::{FsError, Io, OpenDir};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};
use nix::sys::statvfs::FsFlags;
use std::path::{Path, PathBuf};

const EFIVARS: &str = "sys/firmware/efi/efivars";
/// Source: Linux `include/uapi/linux/magic.h`.
const EFIVARFS_MAGIC: FsType = FsType(0xde5e_81e4);

/// Stops mounts made here from reaching the installer, and the other way round.
pub(super) fn make_private() -> Result<(), FsError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .at("make private", "/")
}

/// Mounts what the programs need below `root`. Returns a warning if EFI variables are out of
/// reach although the machine has UEFI.
pub(super) fn mounts(root: &Path) -> Result<Option<String>, FsError> {
    let dir = OpenDir::open(root)?;
    for name in ["dev", "sys", "proc", "run", "etc"] {
        // Not through a link: a directory of the target, and no other, is covered.
        let _ = dir.ensure(name, 0o755)?;
    }
    for name in ["dev", "sys"] {
        let source = Path::new("/").join(name);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&source), &root.join(name), None::<&str>, flags, None::<&str>)
            .at("bind", root.join(name))?;
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    fresh(root, "proc", "proc", safe | MsFlags::MS_NOEXEC, None)?;
    fresh(root, "run", "tmpfs", safe, Some("mode=0755"))?;
    let _ = dir.enter("etc")?.ensure_symlink("mtab", "/proc/mounts")?;
    Ok(efivars(root)
        .err()
        .map(|error| format!("EFI variables can't be written: {error}: {}", error.source)))
}

fn fresh(
    root: &Path,
    name: &str,
    fstype: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), FsError> {
    let target = root.join(name);
    mount(Some(fstype), &target, Some(fstype), flags, data).at("mount", target)
}

/// Makes EFI variables writable, if the machine has UEFI.
fn efivars(root: &Path) -> Result<(), FsError> {
    let target = root.join(EFIVARS);
    if !target.exists() {
        return Ok(());
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let there = statfs(&target).at("look at", &target)?;
    if there.filesystem_type() != EFIVARFS_MAGIC {
        mount(Some("efivarfs"), &target, Some("efivarfs"), safe, None::<&str>)
            .at("mount", &target)?;
    } else if there.flags().contains(FsFlags::ST_RDONLY) {
        mount(None::<&str>, &target, None::<&str>, safe | MsFlags::MS_REMOUNT, None::<&str>)
            .at("make writable", &target)?;
    }
    Ok(())
}

/// Makes `root` the root of this process.
pub(super) fn enter(root: &Path) -> Result<(), FsError> {
    nix::unistd::chroot(root).at("change root to", root)?;
    nix::unistd::chdir("/").at("change to", "/")
}

/// `/` bound at the path it has outside, so that paths that begin with it are valid inside too
/// (`/mnt/…` in a secrets hook, say). Undone when dropped.
#[derive(Debug)]
pub(super) struct Alias {
    target: PathBuf,
    made: Vec<PathBuf>,
}

impl Alias {
    /// Binds it.
    pub(super) fn make(target: &Path) -> Result<Alias, FsError> {
        let mut alias = Alias { target: PathBuf::new(), made: Vec::new() };
        let mut path = PathBuf::from("/");
        for part in target.components().skip(1) {
            path.push(part);
            match std::fs::create_dir(&path) {
                Ok(()) => alias.made.push(path.clone()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("make directory", path),
            }
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/"), &path, None::<&str>, flags, None::<&str>).at("bind / at", &path)?;
        alias.target = path;
        Ok(alias)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        // It goes with the namespace anyway; the directories would stay.
        if !self.target.as_os_str().is_empty() {
            let _ = umount2(&self.target, MntFlags::MNT_DETACH);
        }
        for dir in self.made.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}
