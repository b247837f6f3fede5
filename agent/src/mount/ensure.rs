//! A file system at a place.

use super::options::Options;
use super::table::{self, MountPoint};
use super::{BUSY_BOUND, MountError};
use crate::block::{DevNo, Poll, Roots, holders, wait};
use crate::ensure::Ensured;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What to mount where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// A device node, a dataset, or the type's own word for nothing.
    pub source: String,
    /// Where; it is made if it is missing.
    pub target: PathBuf,
    /// Type.
    pub fstype: String,
    /// Options as in a layout or fstab.
    pub options: Vec<String>,
}

/// Mounts, unless the same is mounted there. Missing directories are made, mode 0755.
pub fn ensure(roots: &Roots, request: &MountRequest) -> Result<Ensured, MountError> {
    let mounts = table::read(roots).map_err(MountError::Table)?;
    if let Some(there) = at(&mounts, &request.target) {
        return if is_same(there, request) {
            Ok(Ensured::AlreadySo)
        } else {
            let there = format!("{} ({})", there.source, there.fstype);
            Err(MountError::Taken { target: request.target.clone(), there })
        };
    }
    let options = Options::parse(request.options.iter().map(String::as_str));
    if options.is_bind() {
        return bind(request, &options);
    }
    make_directories(&request.target)?;
    mount_now(roots, &request.source, &request.target, &request.fstype, options)?;
    Ok(Ensured::Created)
}

/// Mounts a directory or file a second time. The kernel heeds no other flags while it binds
/// (mount(2)), so those are set afterwards.
fn bind(request: &MountRequest, options: &Options) -> Result<Ensured, MountError> {
    let source = Path::new(&request.source);
    let fail = |errno| MountError::Mount {
        what: request.source.clone(),
        fstype: "bind".to_owned(),
        target: request.target.clone(),
        source: errno,
    };
    match fs::metadata(source) {
        Err(_) => return Err(MountError::NothingToBind(source.to_owned())),
        Ok(found) if found.is_dir() => make_directories(&request.target)?,
        Ok(_) => make_file(&request.target)?,
    }
    let how = options.flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
    mount(Some(source), &request.target, None::<&str>, how, None::<&str>).map_err(fail)?;
    let others = options.flags - how;
    if !others.is_empty() {
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | others;
        let changed = mount(None::<&str>, &request.target, None::<&str>, again, None::<&str>);
        if let Err(errno) = changed {
            let _ = nix::mount::umount2(&request.target, nix::mount::MntFlags::MNT_DETACH);
            return Err(fail(errno));
        }
    }
    Ok(Ensured::Created)
}

/// Mounts efivarfs where the running system should have it, if it was booted by UEFI.
pub fn ensure_efivarfs(roots: &Roots) -> Result<Ensured, MountError> {
    let target = roots.sys.join("firmware/efi/efivars");
    if !target.exists() {
        return Ok(Ensured::AlreadySo);
    }
    ensure(
        roots,
        &MountRequest {
            source: "efivarfs".to_owned(),
            target,
            fstype: "efivarfs".to_owned(),
            options: vec!["nosuid,nodev,noexec".to_owned()],
        },
    )
}

/// The topmost mount at exactly `target`: the last in the table.
pub fn at<'a>(mounts: &'a [MountPoint], target: &Path) -> Option<&'a MountPoint> {
    mounts.iter().rev().find(|mount| Path::new(&mount.target) == target)
}

pub(super) fn mount_now(
    roots: &Roots,
    source: &str,
    target: &Path,
    fstype: &str,
    options: Options,
) -> Result<(), MountError> {
    let Options { flags, mut data } = options;
    if fstype == "zfs" {
        // What `mount.zfs` appends (OpenZFS 2.3 `lib/libzfs/os/linux/libzfs_mount_os.c`,
        // `zfs_adjust_mount_options`): the module needs the place to mount snapshots below it.
        data.push(format!("mntpoint={}", target.display()));
    }
    let data = data.join(",");
    let data = (!data.is_empty()).then_some(data.as_str());
    let mounted = wait(&format!("{source} to be free"), BUSY_BOUND, || {
        match mount(Some(source), target, Some(fstype), flags | MsFlags::MS_SILENT, data) {
            Ok(()) => Ok(Poll::Ready(())),
            // Whoever looks at a device exclusively keeps it for a moment: mount(2) does not wait.
            Err(Errno::EBUSY) => Ok(Poll::Pending("it is busy".to_owned())),
            Err(errno) => Err(MountError::Mount {
                what: source.to_owned(),
                fstype: fstype.to_owned(),
                target: target.to_owned(),
                source: errno,
            }),
        }
    });
    match mounted {
        Err(MountError::Timeout(_)) => {
            let node = fs::canonicalize(source).unwrap_or_default();
            let name = node.file_name().unwrap_or_default().to_string_lossy();
            let holders = holders::phrases(roots, &name);
            Err(MountError::Busy { target: source.into(), holders })
        }
        other => other,
    }
}

/// Whether what is there is what is wanted: the type, the device or word, and the directory in
/// the file system.
fn is_same(there: &MountPoint, wanted: &MountRequest) -> bool {
    let options = Options::parse(wanted.options.iter().map(String::as_str));
    if options.is_bind() {
        return is_bound(there, &wanted.source);
    }
    let devno = DevNo::of_node(Path::new(&wanted.source));
    // btrfs and others have anonymous numbers, but name the device.
    let by_name = |there: &str| devno.is_some() && DevNo::of_node(Path::new(there)) == devno;
    let same_source = there.source == wanted.source
        || devno == Some(there.devno)
        || (there.devno.major == 0 && by_name(&there.source));
    let root = match options.data.iter().rev().find_map(|word| word.strip_prefix("subvol=")) {
        Some(subvolume) => format!("/{}", subvolume.trim_matches('/')),
        None => "/".to_owned(),
    };
    // A file system may be read-only for itself, whatever the mount is.
    let read_only = there.options.iter().any(|word| word == "ro");
    let same_way = read_only == options.flags.contains(MsFlags::MS_RDONLY);
    there.fstype == wanted.fstype && there.root == root && same_source && same_way
}

/// Whether the directory or file that is mounted is the one at `source`.
fn is_bound(there: &MountPoint, source: &str) -> bool {
    let identity = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    matches!((identity(&there.target), identity(source)), (Ok(a), Ok(b)) if a == b)
}

/// Makes an empty file to bind another to, and the directories above it.
fn make_file(path: &Path) -> Result<(), MountError> {
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    let made = fs::File::options().create(true).append(true).mode(0o644).open(path);
    made.map(drop).map_err(|source| MountError::Directory { path: path.to_owned(), source })
}

/// Makes a directory and what is missing above it with mode 0755, whatever the umask.
fn make_directories(path: &Path) -> Result<(), MountError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        let made = fs::DirBuilder::new()
            .mode(0o755)
            .create(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o755)));
        made.map_err(|source| MountError::Directory { path: dir.to_owned(), source })?;
    }
    Ok(())
}
