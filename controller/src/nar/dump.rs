//! Writes the NAR of a file tree.
//!
//! The format is [`keystone_protocol::nar`]'s.

use crate::closure::ClosureError;
use keystone_protocol::nar::{MAGIC, MAX_DEPTH, padding};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use thiserror::Error;

/// Bytes read from a file at once.
const READ: usize = 256 << 10;

/// Packing failed.
#[derive(Debug, Error)]
pub enum DumpError {
    /// At the source.
    #[error(transparent)]
    Source(#[from] ClosureError),
    /// Where it was to be written: the receiver is gone.
    #[error("can't write")]
    Sink(#[source] io::Error),
}

/// Writes the NAR of what lies at `path`, which is not followed if it is a link.
pub fn dump(path: &Path, out: &mut dyn Write) -> Result<(), DumpError> {
    dump_from(path, 0, out)
}

/// The same without the first `from` bytes; files that lie before are not read.
pub fn dump_from(path: &Path, from: u64, out: &mut dyn Write) -> Result<(), DumpError> {
    let mut nar = Nar { out, buffer: Vec::new(), skip: from };
    nar.string(MAGIC)?;
    nar.object(path, 0)
}

/// Counts what is written through it.
pub struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl<'a> Counted<'a> {
    /// In front of `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Counted { out, count: 0 }
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Leaves out the first bytes of what is written through it. Instead of them nothing is written, in as many
/// writes: that tells the receiver that the source gets on.
pub struct Skip<'a> {
    out: &'a mut dyn Write,
    left: u64,
}

impl<'a> Skip<'a> {
    /// In front of `out`, which does not get the first `bytes`.
    pub fn new(out: &'a mut dyn Write, bytes: u64) -> Self {
        Skip { out, left: bytes }
    }
}

impl Write for Skip<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.out.write(data);
        }
        self.out.write(&[])?;
        let skipped = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= skipped as u64;
        Ok(skipped)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Nar<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    /// Bytes that are still to be left out.
    skip: u64,
}

impl Nar<'_> {
    fn object(&mut self, path: &Path, depth: usize) -> Result<(), DumpError> {
        let read = |source| ClosureError::Read { path: path.to_owned(), source };
        let meta = path.symlink_metadata().map_err(read)?;
        self.string(b"(")?;
        self.string(b"type")?;
        if meta.is_file() {
            self.string(b"regular")?;
            if meta.mode() & 0o100 != 0 {
                self.string(b"executable")?;
                self.string(b"")?;
            }
            self.string(b"contents")?;
            self.contents(path, meta.len())?;
        } else if meta.is_symlink() {
            let target = path.read_link().map_err(read)?;
            self.string(b"symlink")?;
            self.string(b"target")?;
            self.string(target.as_os_str().as_bytes())?;
        } else if meta.is_dir() {
            if depth >= MAX_DEPTH {
                let what = "it is nested deeper than 64 directories";
                return Err(ClosureError::NotPackable { path: path.to_owned(), what }.into());
            }
            self.string(b"directory")?;
            let mut names: Vec<Vec<u8>> = Vec::new();
            for entry in std::fs::read_dir(path).map_err(read)? {
                names.push(entry.map_err(read)?.file_name().into_vec());
            }
            names.sort_unstable();
            for name in names {
                self.string(b"entry")?;
                self.string(b"(")?;
                self.string(b"name")?;
                self.string(&name)?;
                self.string(b"node")?;
                self.object(&path.join(OsString::from_vec(name)), depth + 1)?;
                self.string(b")")?;
            }
        } else {
            let what = "it is neither a file nor a directory nor a link";
            return Err(ClosureError::NotPackable { path: path.to_owned(), what }.into());
        }
        self.string(b")")
    }

    /// A file's contents, exactly as many bytes as were announced.
    fn contents(&mut self, path: &Path, length: u64) -> Result<(), DumpError> {
        let read = |source| ClosureError::Read { path: path.to_owned(), source };
        // O_NOFOLLOW: the file was looked at before, it must not have become a link since.
        let mut file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(read)?;
        self.put(&length.to_le_bytes())?;
        let skipped = self.skip.min(length);
        if skipped > 0 {
            file.seek(SeekFrom::Start(skipped)).map_err(read)?;
            self.skip -= skipped;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ, 0);
        let mut left = length - skipped;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = match file.read(&mut buffer[..want]) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read(e).into()),
            };
            if got == 0 {
                let what = "it became shorter while it was read";
                return Err(ClosureError::NotPackable { path: path.to_owned(), what }.into());
            }
            self.put(&buffer[..got])?;
            left -= got as u64;
        }
        self.buffer = buffer;
        self.pad(length)
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.put(&(bytes.len() as u64).to_le_bytes())?;
        self.put(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, length: u64) -> Result<(), DumpError> {
        self.put(&[0; 7][..padding(length)])
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), DumpError> {
        if self.skip > 0 {
            let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
        }
        self.out.write_all(bytes).map_err(DumpError::Sink)
    }
}
