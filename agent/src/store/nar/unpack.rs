//! A NAR written to disk, with the metadata that every store path has.
//!
//! Everything happens relative to open directories and without following links: a name in an
//! archive is at most one entry of the directory it was made in. Files are 0444 or 0555 and
//! directories 0555, owned by who runs this (root), and everything, links included, has a
//! modification time of 1 s (source: Nix, `src/libstore/posix-fs-canonicalise.cc`).
//!
//! The calling thread's umask has to be 0: see [`own_umask`].

use super::parse::Sink;
use crate::store::fs::{CANONICAL_TIME, FsError, Io, remove_tree};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, umask, utimensat};
use nix::unistd::{symlinkat, write};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Files from this size on get their blocks reserved before the first write, in bytes.
const RESERVE_FROM: u64 = 1 << 20;

/// Gives the calling thread a umask of its own, and makes it 0.
///
/// The umask belongs to what `CLONE_FS` shares; other threads keep theirs.
pub fn own_umask() -> Result<(), FsError> {
    unshare(CloneFlags::CLONE_FS).at("give a thread its own umask", "/proc/thread-self")?;
    umask(Mode::empty());
    Ok(())
}

/// Writes one archive below a directory.
///
/// Dropped without [`Unpacker::keep`], it removes what it wrote.
#[derive(Debug)]
pub struct Unpacker<'a> {
    parent: BorrowedFd<'a>,
    root: String,
    open: Vec<OwnedFd>,
    file: Option<OwnedFd>,
    /// Names on the way to the innermost object, for messages.
    trail: Vec<Vec<u8>>,
    keep: bool,
}

impl<'a> Unpacker<'a> {
    /// Will write the archive's root as `root` in `parent`, where it must not exist.
    pub fn new(parent: BorrowedFd<'a>, root: String) -> Self {
        Unpacker { parent, root, open: Vec::new(), file: None, trail: Vec::new(), keep: false }
    }

    /// The root's name on disk.
    pub fn name(&self) -> &str {
        &self.root
    }

    /// Gives up the ownership of what was written.
    pub fn keep(mut self) {
        self.keep = true;
    }

    fn directory_fd(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.parent, AsFd::as_fd)
    }

    fn on_disk<'n>(&'n self, name: &'n [u8]) -> &'n [u8] {
        if self.trail.is_empty() { self.root.as_bytes() } else { name }
    }

    /// Where an object of the innermost directory is. The root's name is empty.
    fn path(&self, name: &[u8]) -> PathBuf {
        let names = self.trail.iter().map(Vec::as_slice).chain([name]);
        let mut path = PathBuf::from(&self.root);
        path.extend(names.filter(|name| !name.is_empty()).map(OsStr::from_bytes));
        path
    }
}

impl Drop for Unpacker<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.file = None;
        self.open.clear();
        if let Err(errno) = remove_tree(self.parent, self.root.as_bytes()) {
            tracing::warn!("could not remove {} from the store: {errno}", self.root);
        }
    }
}

impl Sink for Unpacker<'_> {
    type Error = FsError;

    fn directory(&mut self, name: &[u8]) -> Result<(), FsError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let at = self.on_disk(name);
        mkdirat(self.directory_fd(), at, Mode::from_bits_truncate(0o755))
            .at_with("make directory", || self.path(name))?;
        let fd = openat(self.directory_fd(), at, flags, Mode::empty())
            .at_with("open directory", || self.path(name))?;
        self.open.push(fd);
        self.trail.push(name.to_vec());
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), FsError> {
        // The parser calls this once for each directory.
        if let Some(fd) = self.open.pop() {
            let name = self.trail.pop().unwrap_or_default();
            fchmod(&fd, Mode::from_bits_truncate(0o555))
                .at_with("set the mode of", || self.path(&name))?;
            futimens(&fd, &CANONICAL_TIME.0, &CANONICAL_TIME.1)
                .at_with("set the time of", || self.path(&name))?;
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), FsError> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(if executable { 0o555 } else { 0o444 });
        let fd = openat(self.directory_fd(), self.on_disk(name), flags, mode)
            .at_with("make file", || self.path(name))?;
        if size >= RESERVE_FROM {
            // The system call, not `posix_fallocate`: glibc replaces the call by a write to each
            // block on file systems that can't do it.
            match fallocate(&fd, FallocateFlags::empty(), 0, size as i64) {
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
                Err(errno) => return Err(errno).at_with("reserve room for", || self.path(name)),
            }
        }
        self.file = Some(fd);
        self.trail.push(name.to_vec());
        Ok(())
    }

    fn contents(&mut self, mut data: &[u8]) -> Result<(), FsError> {
        let Some(fd) = &self.file else { return Ok(()) };
        while !data.is_empty() {
            match write(fd, data) {
                Ok(written) => data = &data[written..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).at_with("write", || self.path(b"")),
            }
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), FsError> {
        if let Some(fd) = self.file.take() {
            let name = self.trail.pop().unwrap_or_default();
            futimens(&fd, &CANONICAL_TIME.0, &CANONICAL_TIME.1)
                .at_with("set the time of", || self.path(&name))?;
        }
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), FsError> {
        let at = self.on_disk(name);
        let dir = self.directory_fd();
        symlinkat(target, dir, at).at_with("make symlink", || self.path(name))?;
        let (atime, mtime) = &CANONICAL_TIME;
        utimensat(dir, at, atime, mtime, UtimensatFlags::NoFollowSymlink)
            .at_with("set the time of", || self.path(name))
    }
}
