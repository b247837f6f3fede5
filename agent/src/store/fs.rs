//! Files below open directories, never through a symbolic link.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Access and modification time of everything in the store: the first untouched, the second 1 s.
pub(crate) const CANONICAL_TIME: (TimeSpec, TimeSpec) = (TimeSpec::UTIME_OMIT, TimeSpec::new(1, 0));

/// A system call on a file failed.
#[derive(Debug, Error)]
#[error("could not {action} {}", path.display())]
pub struct FsError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Says of which file an error speaks.
pub(crate) trait Io<T> {
    /// Names action and file.
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, FsError>;
    /// The same, with a path made only when there is an error.
    fn at_with(self, action: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T, FsError>;
}

impl<T, E: Into<io::Error>> Io<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, FsError> {
        self.at_with(action, || path.into())
    }
    fn at_with(self, action: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T, FsError> {
        self.map_err(|error| FsError { action, path: path(), source: error.into() })
    }
}

/// An open directory and where it is, for messages and for SQLite, which takes no descriptors.
#[derive(Debug)]
pub(crate) struct OpenDir {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

const OPEN_DIR: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl OpenDir {
    /// Opens a directory by its path, of which the last component may not be a link.
    pub(crate) fn open(path: &Path) -> Result<OpenDir, FsError> {
        let fd = nix::fcntl::open(path, OPEN_DIR, Mode::empty()).at("open directory", path)?;
        Ok(OpenDir { fd, path: path.to_path_buf() })
    }

    /// A directory in this one.
    pub(crate) fn enter(&self, name: &str) -> Result<OpenDir, FsError> {
        let path = self.path.join(name);
        let fd = openat(&self.fd, name, OPEN_DIR, Mode::empty()).at("open directory", &path)?;
        Ok(OpenDir { fd, path })
    }

    /// A directory in this one, made unless it exists; says whether it was made. The mode of one
    /// that exists stays.
    pub(crate) fn ensure(&self, name: &str, mode: u32) -> Result<(OpenDir, bool), FsError> {
        let path = self.path.join(name);
        let mode = Mode::from_bits_truncate(mode);
        let made = match mkdirat(&self.fd, name, mode) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(errno).at("make directory", path),
        };
        let dir = self.enter(name)?;
        if made {
            fchmod(&dir.fd, mode).at("set the mode of", path)?;
        }
        Ok((dir, made))
    }

    /// What is known of an entry, links not followed; `None` if there is none.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<FileStat>, FsError> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).at("look at", self.path.join(name)),
        }
    }

    /// The names of all entries, unordered.
    pub(crate) fn names(&self) -> Result<Vec<CString>, FsError> {
        entries(&self.fd).at("read directory", &self.path)
    }

    /// A symlink's target; `None` if there is no symlink of that name.
    pub(crate) fn read_symlink(&self, name: &str) -> Result<Option<String>, FsError> {
        match readlinkat(&self.fd, name) {
            Ok(target) => Ok(target.into_string().ok()),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(errno).at("read link", self.path.join(name)),
        }
    }

    /// Makes `name` a symlink to `target`, replacing what is there in one step; says whether
    /// something changed.
    pub(crate) fn ensure_symlink(&self, name: &str, target: &str) -> Result<bool, FsError> {
        if self.read_symlink(name)?.as_deref() == Some(target) {
            return Ok(false);
        }
        let temporary = format!(".{name}.keystone-{}", std::process::id());
        let path = self.path.join(name);
        symlinkat(target, &self.fd, temporary.as_str()).at("make symlink", &path)?;
        let named = renameat(&self.fd, temporary.as_str(), &self.fd, name);
        if named.is_err() {
            // The error that counts is the rename's.
            let _ = unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        named.at("make symlink", path)?;
        Ok(true)
    }

    /// Writes a file under a temporary name, syncs it and names it, links not followed.
    pub(crate) fn write_file(&self, name: &str, mode: u32, contents: &[u8]) -> Result<(), FsError> {
        let temporary = format!(".{name}.keystone");
        let path = self.path.join(name);
        let mode = Mode::from_bits_truncate(mode);
        // A leftover of a run that was killed.
        let _ = unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))
            .at("make file", &path)?;
        fchmod(&fd, mode).at("set the mode of", &path)?;
        let mut file = File::from(fd);
        file.write_all(contents).at("write", &path)?;
        file.sync_all().at("sync", &path)?;
        renameat(&self.fd, temporary.as_str(), &self.fd, name).at("name", &path)
    }

    /// Makes an empty file unless there is a file; says whether it was made.
    pub(crate) fn ensure_empty_file(&self, name: &str, mode: u32) -> Result<bool, FsError> {
        let mode = Mode::from_bits_truncate(mode);
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, mode) {
            Ok(fd) => {
                fchmod(&fd, mode).at("set the mode of", self.path.join(name))?;
                Ok(true)
            }
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno).at("make file", self.path.join(name)),
        }
    }

    /// A whole file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, FsError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = self.path.join(name);
        let fd = openat(&self.fd, name, flags, Mode::empty()).at("open", &path)?;
        let mut contents = Vec::new();
        File::from(fd).read_to_end(&mut contents).at("read", path)?;
        Ok(contents)
    }

    /// Syncs the directory itself.
    pub(crate) fn sync(&self) -> Result<(), FsError> {
        nix::unistd::fsync(&self.fd).at("sync", &self.path)
    }
}

/// The type bits of a mode.
pub(crate) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Names in a directory but `.` and `..`.
pub(crate) fn entries(dir: impl AsFd) -> nix::Result<Vec<CString>> {
    let mut dir = Dir::openat(dir, ".", OPEN_DIR, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes an entry with all below it. That there is none is fine.
pub(crate) fn remove_tree(parent: impl AsFd, name: &[u8]) -> nix::Result<()> {
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM | Errno::EACCES) => {}
        Err(errno) => return Err(errno),
    }
    let dir = openat(&parent, name, OPEN_DIR, Mode::empty())?;
    // Store paths are 0555, which stops everyone but root.
    fchmod(&dir, Mode::from_bits_truncate(0o700))?;
    for entry in entries(&dir)? {
        remove_tree(&dir, entry.to_bytes())?;
    }
    drop(dir);
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir)
}
