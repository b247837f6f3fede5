//! btrfs subvolumes and swap files, by the kernel's own calls.
//!
//! Sources: Linux `include/uapi/linux/btrfs.h` (`BTRFS_IOC_SUBVOL_CREATE`, `struct
//! btrfs_ioctl_vol_args`), `include/uapi/linux/btrfs_tree.h` (`BTRFS_FIRST_FREE_OBJECTID`: the
//! inode number of every subvolume's root), btrfs(5), "SWAPFILE SUPPORT". The file system itself
//! is made by `mkfs.btrfs`.

use crate::block::Roots;
use crate::ensure::Ensured;
use crate::filesystem::{FilesystemError, swap};
use crate::mount::{MountError, TempMount};
use crate::tool::{self, Run, Say, ToolError};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::ffi::{c_char, c_long};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use thiserror::Error;

/// Inode number of a subvolume's root.
const SUBVOLUME_ROOT: u64 = 256;

/// `BTRFS_PATH_NAME_MAX` + 1.
const NAME: usize = 4088;

/// `FS_NOCOW_FL` of `include/uapi/linux/fs.h`.
const NOCOW: c_long = 0x0080_0000;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [c_char; NAME],
}

mod raw {
    use super::{VolumeArgs, c_long};

    nix::ioctl_write_ptr!(subvol_create, 0x94, 14, VolumeArgs);
    nix::ioctl_read!(get_flags, b'f', 1, c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, c_long);
}

/// A subvolume or swap file can't be made.
#[derive(Debug, Error)]
pub enum BtrfsError {
    /// The file system.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Not a path within the file system.
    #[error("{0:?} is no path of a subvolume")]
    Path(String),
    /// Something else has the name.
    #[error("{path} is there but is {found}")]
    Other {
        /// Its path in the file system.
        path: String,
        /// What it is.
        found: String,
    },
    /// It can't be made.
    #[error("making {path} in the btrfs file system on {}", device.display())]
    Make {
        /// Its path in the file system.
        path: String,
        /// The file system.
        device: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The swap header.
    #[error(transparent)]
    Header(#[from] Box<FilesystemError>),
    /// `btrfs`, which is run for a layout that gives it arguments.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Makes a subvolume at `path` in the file system on `device`, unless there is one. What is
/// missing above it is made as directories.
///
/// # Errors
/// [`BtrfsError::Other`] if something else has the name.
pub fn ensure_subvolume(roots: &Roots, device: &Path, path: &str) -> Result<Ensured, BtrfsError> {
    subvolume(roots, device, path, |at| create(at))
}

/// As [`ensure_subvolume`], by `btrfs subvolume create` with these further arguments.
///
/// # Errors
/// As that, and the program's.
pub fn ensure_subvolume_with(
    roots: &Roots,
    device: &Path,
    path: &str,
    extra_args: &[String],
    say: Say<'_>,
) -> Result<Ensured, BtrfsError> {
    let program = tool::need("btrfs")?;
    let mut failed = None;
    let made = subvolume(roots, device, path, |at| {
        let run =
            Run::new(&program).args(["subvolume", "create"]).args(extra_args).arg(at).run(say);
        run.map(drop).map_err(|error| {
            failed = Some(error);
            io::Error::other("btrfs failed")
        })
    });
    match failed {
        Some(error) => Err(error.into()),
        None => made,
    }
}

fn subvolume(
    roots: &Roots,
    device: &Path,
    path: &str,
    create: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Ensured, BtrfsError> {
    let inside = inside(path)?;
    let fail =
        |source| BtrfsError::Make { path: path.to_owned(), device: device.to_owned(), source };
    in_top(roots, device, |top| {
        let at = top.join(&inside);
        if let Ok(found) = fs::symlink_metadata(&at) {
            return if found.is_dir() && found.ino() == SUBVOLUME_ROOT {
                Ok(Ensured::AlreadySo)
            } else {
                let found = if found.is_dir() { "a directory" } else { "no subvolume" };
                Err(BtrfsError::Other { path: path.to_owned(), found: found.to_owned() })
            };
        }
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent).map_err(fail)?;
        }
        create(&at).map_err(fail)?;
        Ok(Ensured::Created)
    })
}

fn create(at: &Path) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(invalid()) };
    let bytes = name.as_encoded_bytes();
    let mut args = VolumeArgs { fd: 0, name: [0; NAME] };
    if bytes.len() >= NAME {
        return Err(invalid());
    }
    for (to, from) in args.name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let parent = File::open(parent)?;
    // SAFETY: the descriptor is open; the arguments have the kernel's layout, the name ends in
    // them.
    unsafe { raw::subvol_create(parent.as_raw_fd(), &args) }?;
    parent.sync_all()
}

/// Makes a swap file of `size` bytes at `path` from the top of the file system on `device`,
/// unless there is one: without copy-on-write, without holes, with a swap header, mode 0600.
///
/// # Errors
/// [`BtrfsError::Other`] if a file of that name is no such swap file.
pub fn ensure_swap_file(
    roots: &Roots,
    device: &Path,
    path: &str,
    size: u64,
) -> Result<Ensured, BtrfsError> {
    let inside = inside(path)?;
    let fail =
        |source| BtrfsError::Make { path: path.to_owned(), device: device.to_owned(), source };
    let header = swap::header(size, None, None).map_err(Box::new)?;
    in_top(roots, device, |top| {
        let at = top.join(&inside);
        if let Ok(found) = fs::symlink_metadata(&at) {
            return match not_swap(&at, &found, size).map_err(fail)? {
                None => Ok(Ensured::AlreadySo),
                Some(found) => Err(BtrfsError::Other { path: path.to_owned(), found }),
            };
        }
        let made = fill(&at, &header, size);
        if made.is_err() {
            let _ = fs::remove_file(&at);
        }
        made.map_err(fail)?;
        Ok(Ensured::Created)
    })
}

/// What is wrong with a file as a swap file of that size.
fn not_swap(at: &Path, found: &fs::Metadata, size: u64) -> io::Result<Option<String>> {
    if !found.is_file() {
        return Ok(Some("no file".to_owned()));
    }
    if found.len() != size {
        return Ok(Some(format!("a file of {} bytes", found.len())));
    }
    let file = File::open(at)?;
    let mut magic = [0; 10];
    file.read_exact_at(&mut magic, swap::page_size() - 10)?;
    if &magic != b"SWAPSPACE2" {
        return Ok(Some("a file without a swap header".to_owned()));
    }
    if flags(&file)? & NOCOW == 0 {
        return Ok(Some("a file with copy-on-write".to_owned()));
    }
    Ok(None)
}

fn fill(at: &Path, header: &[u8], size: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(at)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    // Only an empty file can be made so.
    let nocow = flags(&file)? | NOCOW;
    // SAFETY: the descriptor is open and the kernel reads one long.
    unsafe { raw::set_flags(file.as_raw_fd(), &nocow) }?;
    let length = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    fallocate(&file, FallocateFlags::empty(), 0, length)?;
    file.write_all_at(header, 0)?;
    file.sync_all()
}

fn flags(file: &File) -> io::Result<c_long> {
    let mut flags: c_long = 0;
    // SAFETY: the descriptor is open and the kernel writes at most one long.
    unsafe { raw::get_flags(file.as_raw_fd(), &mut flags) }?;
    Ok(flags)
}

/// Does something in the file system's top, subvolume 5.
fn in_top<T>(
    roots: &Roots,
    device: &Path,
    work: impl FnOnce(&Path) -> Result<T, BtrfsError>,
) -> Result<T, BtrfsError> {
    let mount = TempMount::with_options(roots, device, "btrfs", false, &["subvolid=5"])?;
    let done = work(mount.path());
    mount.unmount()?;
    done
}

/// A path of the layout as one below the mounted top.
fn inside(path: &str) -> Result<PathBuf, BtrfsError> {
    let relative = Path::new(path.trim_matches('/'));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !plain {
        return Err(BtrfsError::Path(path.to_owned()));
    }
    Ok(relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Loop, run};

    fn made() -> (Loop, tempfile::TempDir, Roots) {
        let disk = Loop::new(200 << 20, 512);
        run("btrfs-progs", "mkfs.btrfs", &["-q", disk.node()]);
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
        (disk, dir, roots)
    }

    #[test]
    fn subvolumes_are_made_once_and_listed_by_the_tool() {
        let (disk, dir, roots) = made();
        let device = Path::new(disk.node());
        for path in ["/root", "deep/er/home"] {
            assert_eq!(ensure_subvolume(&roots, device, path).unwrap(), Ensured::Created);
            assert_eq!(ensure_subvolume(&roots, device, path).unwrap(), Ensured::AlreadySo);
        }
        let by_tool = || ensure_subvolume_with(&roots, device, "tool", &[], &mut |_| {}).unwrap();
        assert_eq!(by_tool(), Ensured::Created);
        assert_eq!(by_tool(), Ensured::AlreadySo);
        let other = ensure_subvolume(&roots, device, "deep").unwrap_err().to_string();
        assert_eq!(other, "deep is there but is a directory");
        for wrong in ["", "/", "../x", "a/../b"] {
            let refused = ensure_subvolume(&roots, device, wrong).unwrap_err();
            assert!(matches!(refused, BtrfsError::Path(_)), "{wrong}: {refused}");
        }
        let top = TempMount::new(&roots, device, "btrfs", true).unwrap();
        let listed =
            run("btrfs-progs", "btrfs", &["subvolume", "list", top.path().to_str().unwrap()]);
        let mut names: Vec<&str> =
            listed.lines().filter_map(|line| line.split_once(" path ")).map(|(_, n)| n).collect();
        names.sort_unstable();
        assert_eq!(names, ["deep/er/home", "root", "tool"]);
        top.unmount().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("keystone")).unwrap().count(), 0);
    }

    #[test]
    fn a_swap_file_is_made_once_and_can_be_swapped_to() {
        let (disk, _dir, roots) = made();
        let device = Path::new(disk.node());
        let _ = ensure_subvolume(&roots, device, "swap").unwrap();
        let ensure = |size| ensure_swap_file(&roots, device, "/swap/swapfile", size);
        assert_eq!(ensure(20 << 20).unwrap(), Ensured::Created);
        assert_eq!(ensure(20 << 20).unwrap(), Ensured::AlreadySo);
        let other = ensure(21 << 20).unwrap_err().to_string();
        assert_eq!(other, "/swap/swapfile is there but is a file of 20971520 bytes");
        let top = TempMount::new(&roots, device, "btrfs", false).unwrap();
        let file = top.path().join("swap/swapfile");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let options = crate::mount::SwapOptions::default();
        assert_eq!(crate::mount::swapon(&roots, &file, options).unwrap(), Ensured::Created);
        let off = crate::mount::swap::swapoff_below(&roots, top.path()).unwrap();
        assert_eq!(off, Ensured::Created);
        top.unmount().unwrap();
    }
}
