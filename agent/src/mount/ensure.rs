//! A file system at a place.

use super::MountError;
use super::options::Options;
use super::table::{self, MountPoint};
use crate::block::Roots;
use crate::ensure::Ensured;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
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
    make_directories(&request.target)?;
    let options = Options::parse(request.options.iter().map(String::as_str));
    mount_now(&request.source, &request.target, &request.fstype, options)?;
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
    mount(Some(source), target, Some(fstype), flags | MsFlags::MS_SILENT, data).map_err(|errno| {
        MountError::Mount {
            what: source.to_owned(),
            fstype: fstype.to_owned(),
            target: target.to_owned(),
            source: errno,
        }
    })
}

fn is_same(there: &MountPoint, wanted: &MountRequest) -> bool {
    let same_source = there.source == wanted.source
        || crate::block::DevNo::of_node(Path::new(&wanted.source)) == Some(there.devno);
    there.fstype == wanted.fstype && there.root == "/" && same_source
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
