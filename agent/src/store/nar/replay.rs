//! An archive of which an earlier run wrote the first part: read back from disk, and gone on with.
//!
//! What was written is turned into the archive's bytes again, up to a given offset; their hash
//! says whether it is what came then; and the parser that saw them goes on with what follows.

use super::dump::dump_unfinished;
use super::parse::{FeedError, Parser};
use super::unpack::{Unfinished, Unpacker};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How much is collected before it is hashed and parsed, in bytes.
const CHUNK: usize = 64 << 10;

/// How far an archive came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its bytes up to here were written, or belong to names and lengths.
    pub offset: u64,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
    /// The file in the middle of which that is.
    pub unfinished: Option<Unfinished>,
}

/// An archive that goes on. It stays as it is when this is dropped; see [`Unpacker::take_over`].
pub struct Resumed<'a> {
    /// What takes the bytes that follow.
    pub parser: Parser<Unpacker<'a>>,
    /// Has seen the bytes before.
    pub sha256: Sha256,
}

/// Goes on with the archive of `size` bytes that is half written as `root` in `parent`, if what
/// is there is what `reached` says.
///
/// # Errors
/// What is there is something else or can't be read; it stays as it is.
pub fn replay<'a>(
    parent: BorrowedFd<'a>,
    root: &str,
    size: u64,
    reached: &Reached,
) -> io::Result<Resumed<'a>> {
    let parser = Parser::new(Unpacker::over(parent, root.to_owned()), size);
    let tee = Tee { parser, sha256: Sha256::new(), left: reached.offset };
    let unfinished = reached.unfinished.as_ref().map(|unfinished| {
        let mut path = PathBuf::from(root);
        path.extend(unfinished.names.iter().map(|name| OsStr::from_bytes(name)));
        (path, unfinished.size)
    });
    let open = unfinished.as_ref().map(|(path, size)| (path.as_path(), *size));
    let mut out = BufWriter::with_capacity(CHUNK, tee);
    let dumped = dump_unfinished(parent, root, open, &mut out);
    // An error of the last flush is the one that says that there was enough.
    let _ = out.flush();
    let (tee, _) = out.into_parts();
    if tee.left > 0 {
        return Err(match dumped {
            Err(error) => io::Error::other(error),
            Ok(_) => io::ErrorKind::UnexpectedEof.into(),
        });
    }
    let Tee { mut parser, sha256, .. } = tee;
    if <[u8; 32]>::from(sha256.clone().finalize()) != reached.sha256 {
        return Err(io::Error::other("it is not what was written"));
    }
    parser.sink_mut().go_on().map_err(io::Error::other)?;
    // Who is stopped before the next byte comes has lost nothing.
    parser.sink_mut().leave();
    Ok(Resumed { parser, sha256 })
}

/// Writes a copy of the tree `name` in `from` as `root` in `to`; returns SHA-256 of its NAR, which
/// has to be `size` bytes long.
///
/// # Errors
/// It can't be read or written, or is longer or shorter.
pub(crate) fn duplicate<'a>(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'a>,
    root: &str,
    size: u64,
) -> io::Result<(Unpacker<'a>, [u8; 32])> {
    let parser = Parser::new(Unpacker::new(to, root.to_owned()), size);
    let tee = Tee { parser, sha256: Sha256::new(), left: size };
    let mut out = BufWriter::with_capacity(CHUNK, tee);
    dump_unfinished(from, name, None, &mut out).map_err(io::Error::other)?;
    let Tee { parser, sha256, .. } = out.into_inner().map_err(io::Error::from)?;
    Ok((parser.finish().map_err(io::Error::other)?, sha256.finalize().into()))
}

struct Tee<'a> {
    parser: Parser<Unpacker<'a>>,
    sha256: Sha256,
    left: u64,
}

impl Write for Tee<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("enough"));
        }
        let taken = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.sha256.update(&data[..taken]);
        self.parser.feed(&data[..taken]).map_err(|error| match error {
            FeedError::Format(error) => io::Error::other(error),
            FeedError::Sink(error) => io::Error::other(error),
        })?;
        self.left -= taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
