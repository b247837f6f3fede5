//! Owners set, with all below.

use super::accounts::{self, AccountError};
use super::path;
use crate::ensure::Ensured;
use crate::store::fs::{FsError, Io, entries, file_type};
use keystone_protocol::options::Chown;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, fchownat};
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An owner was not set.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// A file could not be looked at or given away.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The user or group is unknown.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// There is no such path.
    #[error(
        "there is no {0} in the installed system to give an owner: it has to come with the extra \
         files, or be made by the system's activation"
    )]
    Missing(String),
    /// The path leads out of the system.
    #[error("{0:?} is not a path that can be given an owner: it must name something in the system")]
    BadPath(String),
}

/// Gives a path of the system below `root` its owner, and all below it; links themselves, not what
/// they point to.
///
/// # Errors
/// [`OwnerError`].
pub fn set_owner(root: &Path, chown: &Chown) -> Result<Ensured, OwnerError> {
    let bad = || OwnerError::BadPath(chown.path.clone());
    let wanted = Path::new(&chown.path);
    let names = path::names(wanted).ok_or_else(bad)?;
    let name = names.last().ok_or_else(bad)?;
    let user = chown.user.as_ref().map(|user| accounts::user(root, user)).transpose()?;
    let group = chown.group.as_ref().map(|group| accounts::group(root, group)).transpose()?;
    let missing = |error: FsError| match error.source.raw_os_error() {
        Some(libc::ENOENT) => OwnerError::Missing(chown.path.clone()),
        _ => error.into(),
    };
    let parent = path::parent(root, &names).map_err(missing)?;
    let owner = Owner { user: user.map(Uid::from_raw), group: group.map(Gid::from_raw) };
    let name = std::ffi::CString::new(*name).map_err(|_| bad())?;
    let mut ensured = Ensured::AlreadySo;
    owner.give(&parent.fd, &name, &parent.path, &mut ensured).map_err(missing)?;
    Ok(ensured)
}

struct Owner {
    user: Option<Uid>,
    group: Option<Gid>,
}

impl Owner {
    fn give(
        &self,
        parent: impl AsFd,
        name: &CStr,
        at: &Path,
        ensured: &mut Ensured,
    ) -> Result<(), FsError> {
        let path: PathBuf = at.join(String::from_utf8_lossy(name.to_bytes()).as_ref());
        let stat = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).at("look at", &path)?;
        let differs = self.user.is_some_and(|user| user.as_raw() != stat.st_uid)
            || self.group.is_some_and(|group| group.as_raw() != stat.st_gid);
        if differs {
            fchownat(&parent, name, self.user, self.group, AtFlags::AT_SYMLINK_NOFOLLOW)
                .at("set the owner of", &path)?;
            *ensured = Ensured::Created;
        }
        if file_type(&stat) != SFlag::S_IFDIR {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match openat(&parent, name, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(errno) => return Err(errno).at("open directory", &path),
        };
        for entry in entries(&dir).at("read directory", &path)? {
            self.give(&dir, &entry, &path, ensured)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystone_protocol::options::Account;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn owners(path: &Path) -> (u32, u32) {
        let meta = std::fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid())
    }

    fn chown(path: &str) -> Chown {
        Chown { path: path.into(), user: Some(Account::Id(1000)), group: Some(Account::Id(100)) }
    }

    #[test]
    fn long_paths_with_spaces_and_all_below_them() {
        let root = tempfile::tempdir().unwrap();
        let long = "home/averyveryverylonguser/.config/a directory with spaces/and  two";
        std::fs::create_dir_all(root.path().join(long).join("deep")).unwrap();
        std::fs::write(root.path().join(long).join("deep/file"), "").unwrap();
        std::fs::write(root.path().join("outside"), "").unwrap();
        symlink("/outside", root.path().join(long).join("link")).unwrap();
        let wanted = chown(&format!("/{long}"));
        assert_eq!(set_owner(root.path(), &wanted).unwrap(), Ensured::Created);
        assert_eq!(set_owner(root.path(), &wanted).unwrap(), Ensured::AlreadySo);
        for name in ["", "deep", "deep/file", "link"] {
            assert_eq!(owners(&root.path().join(long).join(name)), (1000, 100), "{name}");
        }
        let above = root.path().join("home/averyveryverylonguser/.config");
        assert_eq!(owners(&above), (0, 0));
        assert_eq!(owners(&root.path().join("outside")), (0, 0));
    }

    #[test]
    fn what_is_not_there_or_leads_out_is_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc", root.path().join("link")).unwrap();
        let said = |path: &str| set_owner(root.path(), &chown(path)).unwrap_err().to_string();
        assert!(said("/nowhere/at all").contains("no /nowhere/at all in the installed system"));
        assert!(said("/../etc").contains("not a path"));
        assert!(said("/").contains("not a path"));
        assert!(said("/link/passwd").contains("could not open directory"));
        let user = Chown { group: None, ..chown("/link") };
        assert_eq!(set_owner(root.path(), &user).unwrap(), Ensured::Created);
        assert_eq!(owners(&root.path().join("link")), (1000, 0));
    }
}
