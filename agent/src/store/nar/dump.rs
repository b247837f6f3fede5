//! The NAR of what is on disk, and whether its metadata is what the store's has to be.

use super::{MAGIC, MAX_DEPTH, padding};
use crate::store::fs::{FsError, Io, entries, file_type};
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::read;
use sha2::{Digest, Sha256};
use std::ffi::{CString, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 256 << 10;

/// What a tree on disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// SHA-256 of its NAR.
    pub sha256: [u8; 32],
    /// Length of its NAR, in bytes.
    pub size: u64,
    /// The first object whose metadata is not canonical, and what is wrong with it.
    pub deviation: Option<String>,
}

/// Hashes the tree `name` in `parent`.
pub fn measure(parent: BorrowedFd<'_>, name: &str) -> Result<Measured, FsError> {
    let mut hasher = Hashing { sha256: Sha256::new(), size: 0 };
    let deviation = dump(parent, name, &mut hasher)?;
    Ok(Measured { sha256: hasher.sha256.finalize().into(), size: hasher.size, deviation })
}

/// Writes the NAR of the tree `name` in `parent`. Returns what [`Measured::deviation`] has.
pub fn dump(
    parent: BorrowedFd<'_>,
    name: &str,
    out: &mut impl Write,
) -> Result<Option<String>, FsError> {
    dump_unfinished(parent, name, None, out)
}

/// The same of a tree in which one file, at a path that begins with `name`, is to have a length
/// that it does not have yet.
pub(crate) fn dump_unfinished(
    parent: BorrowedFd<'_>,
    name: &str,
    unfinished: Option<(&Path, u64)>,
    out: &mut impl Write,
) -> Result<Option<String>, FsError> {
    dump_tree(parent, name, unfinished, &mut Unmarked(out))
}

/// Takes an archive, and is told where files' contents are in it.
pub(crate) trait Contents: Write {
    /// The next `size` bytes are the contents of this file, whose path begins with the tree's name.
    fn contents(&mut self, path: &Path, size: u64);
}

/// Writes the NAR of the tree `name` in `parent`, and says where files' contents are.
pub(crate) fn dump_contents(
    parent: BorrowedFd<'_>,
    name: &str,
    out: &mut impl Contents,
) -> Result<(), FsError> {
    dump_tree(parent, name, None, out).map(drop)
}

/// For who does not want to know.
struct Unmarked<'a, W>(&'a mut W);

impl<W: Write> Write for Unmarked<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Contents for Unmarked<'_, W> {
    fn contents(&mut self, _path: &Path, _size: u64) {}
}

fn dump_tree(
    parent: BorrowedFd<'_>,
    name: &str,
    unfinished: Option<(&Path, u64)>,
    out: &mut impl Contents,
) -> Result<Option<String>, FsError> {
    let mut dumper = Dumper { out, deviation: None, buffer: vec![0; CHUNK], unfinished };
    let path = PathBuf::from(name);
    dumper.string(MAGIC).at("write the NAR of", &path)?;
    dumper.node(parent, name.as_bytes(), &path, 0)?;
    Ok(dumper.deviation)
}

struct Hashing {
    sha256: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sha256.update(data);
        self.size += data.len() as u64;
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Dumper<'a, W> {
    out: &'a mut W,
    deviation: Option<String>,
    buffer: Vec<u8>,
    unfinished: Option<(&'a Path, u64)>,
}

impl<W: Contents> Dumper<'_, W> {
    fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 8][..padding(bytes.len() as u64)])
    }

    fn strings(&mut self, strings: &[&[u8]]) -> io::Result<()> {
        strings.iter().try_for_each(|string| self.string(string))
    }

    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &Path,
        depth: usize,
    ) -> Result<(), FsError> {
        const WRITE: &str = "write the NAR of";
        let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).at("look at", path)?;
        if self.deviation.is_none() {
            self.deviation = deviation(&stat).map(|what| format!("{}: {what}", path.display()));
        }
        self.strings(&[b"(", b"type"]).at(WRITE, path)?;
        match file_type(&stat) {
            SFlag::S_IFREG => self.file(parent, name, path, &stat)?,
            SFlag::S_IFLNK => {
                let target = readlinkat(parent, name).at("read link", path)?;
                self.strings(&[b"symlink", b"target", target.as_bytes()]).at(WRITE, path)?;
            }
            SFlag::S_IFDIR if depth < MAX_DEPTH => {
                self.string(b"directory").at(WRITE, path)?;
                let flags =
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let dir = openat(parent, name, flags, Mode::empty()).at("open directory", path)?;
                let mut names: Vec<CString> = entries(&dir).at("read directory", path)?;
                names.sort();
                for entry in names {
                    let entry = entry.to_bytes();
                    self.strings(&[b"entry", b"(", b"name", entry, b"node"]).at(WRITE, path)?;
                    let below = path.join(OsStr::from_bytes(entry));
                    self.node(dir.as_fd(), entry, &below, depth + 1)?;
                    self.string(b")").at(WRITE, path)?;
                }
            }
            SFlag::S_IFDIR => {
                return Err(io::Error::other(format!("nested deeper than {MAX_DEPTH}")))
                    .at(WRITE, path);
            }
            _ => {
                return Err(io::Error::other("neither file, directory nor symlink"))
                    .at(WRITE, path);
            }
        }
        self.string(b")").at(WRITE, path)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &Path,
        seen: &FileStat,
    ) -> Result<(), FsError> {
        const READ: &str = "read";
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let fd = openat(parent, name, flags, Mode::empty()).at("open", path)?;
        let stat = fstat(&fd).at("look at", path)?;
        if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(io::Error::other("it changes while it is read")).at(READ, path);
        }
        self.string(b"regular").at(READ, path)?;
        if stat.st_mode & 0o100 != 0 {
            self.strings(&[b"executable", b""]).at(READ, path)?;
        }
        let size = match self.unfinished {
            Some((unfinished, size)) if unfinished == path => size,
            _ => stat.st_size as u64,
        };
        self.string(b"contents").at(READ, path)?;
        self.out.write_all(&size.to_le_bytes()).at(READ, path)?;
        self.out.contents(path, size);
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = read(&fd, &mut self.buffer[..want]).at(READ, path)?;
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at(READ, path);
            }
            self.out.write_all(&self.buffer[..got]).at(READ, path)?;
            left -= got as u64;
        }
        self.out.write_all(&[0; 8][..padding(size)]).at(READ, path)
    }
}

/// What is wrong with an object's metadata, if something is.
fn deviation(stat: &FileStat) -> Option<String> {
    let mode = stat.st_mode & 0o7777;
    let allowed: &[u32] = match file_type(stat) {
        SFlag::S_IFREG => &[0o444, 0o555],
        SFlag::S_IFDIR => &[0o555],
        _ => &[],
    };
    if !allowed.is_empty() && !allowed.contains(&mode) {
        return Some(format!("mode {mode:04o}"));
    }
    if (stat.st_mtime, stat.st_mtime_nsec) != (1, 0) {
        return Some(format!("modified at {}.{:09}", stat.st_mtime, stat.st_mtime_nsec));
    }
    let us = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    if (stat.st_uid, stat.st_gid) != us {
        return Some(format!("owned by {}:{}", stat.st_uid, stat.st_gid));
    }
    None
}
