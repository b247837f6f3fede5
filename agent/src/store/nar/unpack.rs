//! A NAR written to disk, with the metadata that every store path has.
//!
//! Everything happens relative to open directories and without following links: a name in an
//! archive is at most one entry of the directory it was made in. Files are 0444 or 0555 and
//! directories 0555, owned by who runs this (root), and everything, links included, has a
//! modification time of 1 s (source: Nix, `src/libstore/posix-fs-canonicalise.cc`).
//!
//! The calling thread's umask has to be 0: see [`own_umask`].

use super::parse::Sink;
use super::{MAGIC, padding};
use crate::store::fs::{CANONICAL_TIME, FsError, Io, entries, file_type, remove_tree};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, umask, utimensat,
};
use nix::unistd::{Whence, ftruncate, lseek, symlinkat, write};
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
    file: Option<OpenFile>,
    /// Names on the way to the innermost object.
    trail: Vec<Vec<u8>>,
    /// For each open directory the name of its latest entry.
    latest: Vec<Vec<u8>>,
    begun: bool,
    /// How many of the archive's bytes what was made stands for: see [`Unpacker::settled`].
    stands_for: u64,
    /// Whether the objects are on disk already: see [`Unpacker::over`].
    retracing: bool,
    keep: bool,
}

/// The file that is being written.
#[derive(Debug)]
struct OpenFile {
    /// None while retracing.
    fd: Option<OwnedFd>,
    size: u64,
    written: u64,
}

/// A file that is not whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Names of the directories that lead to it, and its own; none if the archive is one file.
    pub names: Vec<Vec<u8>>,
    /// Its length in the archive, in bytes.
    pub size: u64,
}

impl<'a> Unpacker<'a> {
    /// Will write the archive's root as `root` in `parent`, where it must not exist.
    pub fn new(parent: BorrowedFd<'a>, root: String) -> Self {
        Unpacker {
            parent,
            root,
            open: Vec::new(),
            file: None,
            trail: Vec::new(),
            latest: Vec::new(),
            begun: false,
            stands_for: 0,
            retracing: false,
            keep: false,
        }
    }

    /// Follows what an earlier run wrote as `root`, until [`Unpacker::go_on`]. It is not looked
    /// into, but its kind has to be right. Keeps it when dropped.
    pub fn over(parent: BorrowedFd<'a>, root: String) -> Self {
        let mut unpacker = Unpacker::new(parent, root);
        (unpacker.retracing, unpacker.keep) = (true, true);
        unpacker
    }

    /// Ends following: what the earlier run wrote after this point is removed, and from here on
    /// objects are written.
    pub fn go_on(&mut self) -> Result<(), FsError> {
        self.retracing = false;
        self.keep = false;
        if !self.begun {
            return remove_tree(self.parent, self.root.as_bytes())
                .at_with("remove", || self.path(b""));
        }
        for (dir, latest) in self.open.iter().zip(&self.latest) {
            for name in entries(dir).at_with("read directory", || self.path(b""))? {
                let name = name.to_bytes();
                if name > latest.as_slice() {
                    remove_tree(dir, name).at_with("remove", || self.path(name))?;
                }
            }
        }
        if let Some(OpenFile { size, written, .. }) = self.file {
            let name = self.trail.last().cloned().unwrap_or_default();
            let dir = self.directory_fd();
            let at = if self.trail.len() == 1 { self.root.as_bytes() } else { &name };
            let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let path = || self.path(b"");
            let fd = openat(dir, at, flags, Mode::empty()).at_with("open", path)?;
            ftruncate(&fd, written as i64).at_with("cut", path)?;
            lseek(&fd, written as i64, Whence::SeekSet).at_with("seek in", path)?;
            self.file = Some(OpenFile { fd: Some(fd), size, written });
        }
        Ok(())
    }

    /// The file that is being written, if there is one.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let file = self.file.as_ref()?;
        // The root has no name in the archive.
        let names = self.trail.get(1..).unwrap_or_default().to_vec();
        Some(Unfinished { names, size: file.size })
    }

    /// Of the archive's first `offset` bytes, which it was given, how many can be read back from
    /// what is on disk. The others are names and lengths of an object that is not there yet.
    pub fn settled(&self, offset: u64) -> u64 {
        offset.min(self.stands_for)
    }

    /// Bytes of the archive with which an object begins whose kind and what follows it are `strings`.
    fn opening(&self, name: &[u8], strings: &[&[u8]]) -> u64 {
        let before: &[&[u8]] = match self.trail.is_empty() {
            true => &[MAGIC, b"(", b"type"],
            false => &[b"entry", b"(", b"name", name, b"node", b"(", b"type"],
        };
        before.iter().chain(strings).map(|string| string_length(string)).sum()
    }

    /// Bytes with which one ends that is the root or an entry of a directory.
    fn closing(&self) -> u64 {
        let brackets = if self.trail.is_empty() { 1 } else { 2 };
        brackets * string_length(b")")
    }

    /// Gives up what was written, but leaves it where it is.
    pub fn leave(&mut self) {
        self.keep = true;
    }

    /// Takes over what was left: dropped without [`Unpacker::keep`], it is removed.
    pub fn take_over(&mut self) {
        self.keep = false;
    }

    /// Checks an object of an earlier run and gives it its metadata once more, which may not
    /// have reached the disk.
    fn retrace(&self, name: &[u8], kind: SFlag, mode: Option<u32>) -> Result<(), FsError> {
        let at = self.on_disk(name);
        let dir = self.directory_fd();
        let stat: FileStat = fstatat(dir, at, AtFlags::AT_SYMLINK_NOFOLLOW)
            .at_with("look at", || self.path(name))?;
        let right = file_type(&stat) == kind && mode.is_none_or(|m| stat.st_mode & 0o7777 == m);
        if !right {
            let changed = std::io::Error::other("it is not what an earlier run made");
            return Err(changed).at_with("go on with", || self.path(name));
        }
        let (atime, mtime) = &CANONICAL_TIME;
        utimensat(dir, at, atime, mtime, UtimensatFlags::NoFollowSymlink)
            .at_with("set the time of", || self.path(name))
    }

    /// Takes note of an object that begins.
    fn begin(&mut self, name: &[u8]) {
        self.begun = true;
        if let Some(latest) = self.latest.last_mut() {
            latest.clear();
            latest.extend_from_slice(name);
        }
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
        if !self.retracing {
            mkdirat(self.directory_fd(), at, Mode::from_bits_truncate(0o755))
                .at_with("make directory", || self.path(name))?;
        }
        let fd = openat(self.directory_fd(), at, flags, Mode::empty())
            .at_with("open directory", || self.path(name))?;
        self.stands_for += self.opening(name, &[b"directory"]);
        self.begin(name);
        self.open.push(fd);
        self.latest.push(Vec::new());
        self.trail.push(name.to_vec());
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), FsError> {
        // The parser calls this once for each directory.
        if let Some(fd) = self.open.pop() {
            self.latest.pop();
            let name = self.trail.pop().unwrap_or_default();
            self.stands_for += self.closing();
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
        let bits = if executable { 0o555 } else { 0o444 };
        let kind: &[&[u8]] = match executable {
            true => &[b"regular", b"executable", b"", b"contents"],
            false => &[b"regular", b"contents"],
        };
        let stands_for = self.stands_for + self.opening(name, kind) + size_of::<u64>() as u64;
        if self.retracing {
            self.retrace(name, SFlag::S_IFREG, Some(bits))?;
            self.stands_for = stands_for;
            self.begin(name);
            self.file = Some(OpenFile { fd: None, size, written: 0 });
            self.trail.push(name.to_vec());
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(bits);
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
        self.stands_for = stands_for;
        self.begin(name);
        self.file = Some(OpenFile { fd: Some(fd), size, written: 0 });
        self.trail.push(name.to_vec());
        Ok(())
    }

    fn contents(&mut self, mut data: &[u8]) -> Result<(), FsError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.written += data.len() as u64;
        self.stands_for += data.len() as u64;
        let Some(OpenFile { fd: Some(fd), .. }) = &self.file else { return Ok(()) };
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
        if let Some(file) = self.file.take() {
            let name = self.trail.pop().unwrap_or_default();
            self.stands_for += padding(file.size) as u64 + self.closing();
            let Some(fd) = file.fd else { return Ok(()) };
            futimens(&fd, &CANONICAL_TIME.0, &CANONICAL_TIME.1)
                .at_with("set the time of", || self.path(&name))?;
        }
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), FsError> {
        let at = self.on_disk(name);
        let dir = self.directory_fd();
        let kind: &[&[u8]] = &[b"symlink", b"target", target];
        let stands_for = self.stands_for + self.opening(name, kind) + self.closing();
        if self.retracing {
            self.retrace(name, SFlag::S_IFLNK, None)?;
            self.stands_for = stands_for;
            self.begin(name);
            return Ok(());
        }
        symlinkat(target, dir, at).at_with("make symlink", || self.path(name))?;
        let (atime, mtime) = &CANONICAL_TIME;
        utimensat(dir, at, atime, mtime, UtimensatFlags::NoFollowSymlink)
            .at_with("set the time of", || self.path(name))?;
        self.stands_for = stands_for;
        self.begin(name);
        Ok(())
    }
}

/// Bytes that a string takes in an archive.
fn string_length(string: &[u8]) -> u64 {
    let length = string.len() as u64;
    size_of::<u64>() as u64 + length + padding(length) as u64
}
