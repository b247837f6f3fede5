//! Where in which file a part of a path's archive is.

use super::Held;
use crate::store::fs::OpenDir;
use crate::store::nar::dump::Contents;
use keystone_protocol::chunks::{ChunkHash, Cutter, hash};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::uio::pread;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// The archive of a path, of which only what is not in files is kept.
#[derive(Debug)]
pub(super) struct Archive {
    /// Which of the stores the path is in, and its name there.
    store: usize,
    segments: Vec<Segment>,
    /// Bytes of the archive between files, and files' paths.
    text: Vec<u8>,
}

/// A part of the archive, up to where the next one begins.
#[derive(Debug, Clone, Copy)]
struct Segment {
    at: u64,
    /// Where it, or the file's path below the store, is in `text`.
    begin: u32,
    /// The path's length, if it is a file's contents.
    path: Option<u32>,
}

impl Archive {
    fn new(store: usize) -> Archive {
        Archive { store, segments: Vec::new(), text: Vec::new() }
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn cost(&self) -> usize {
        self.text.len() + self.segments.len() * size_of::<Segment>()
    }
}

/// A chunk, and where in the archive it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) hash: ChunkHash,
    pub(super) length: u32,
    pub(super) at: u64,
}

/// Takes an archive as it is dumped, and remembers where everything is.
pub(super) struct Recorder<'a> {
    pub(super) archive: Archive,
    pub(super) places: Vec<Place>,
    cutter: Cutter,
    offset: u64,
    /// Bytes of the current file to come.
    left: u64,
    /// Where the chunk that comes next begins.
    begin: u64,
    /// Whether to go on with an archive that came so far, at that cost.
    go_on: &'a dyn Fn(u64, usize) -> bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(store: usize, go_on: &'a dyn Fn(u64, usize) -> bool) -> Self {
        let (archive, cutter) = (Archive::new(store), Cutter::default());
        Recorder { archive, places: Vec::new(), cutter, offset: 0, left: 0, begin: 0, go_on }
    }

    /// The archive has ended.
    pub(super) fn end(mut self) -> (Archive, Vec<Place>) {
        self.cut(|cutter, each| cutter.end(each));
        (self.archive, self.places)
    }

    fn cut(
        &mut self,
        cut: impl FnOnce(&mut Cutter, &mut dyn FnMut(&[u8]) -> Result<(), ()>) -> Result<(), ()>,
    ) {
        let (places, begin) = (&mut self.places, &mut self.begin);
        // No chunk is refused.
        let _ = cut(&mut self.cutter, &mut |chunk| {
            places.push(Place { hash: hash(chunk), length: chunk.len() as u32, at: *begin });
            *begin += chunk.len() as u64;
            Ok(())
        });
    }

    /// A segment that begins here and in `text`, unless one of text goes on.
    fn segment(&mut self, path: Option<u32>) {
        let goes_on = self.archive.segments.last().is_some_and(|last| last.path.is_none());
        if path.is_some() || !goes_on {
            let begin = self.archive.text.len() as u32;
            self.archive.segments.push(Segment { at: self.offset, begin, path });
        }
    }
}

impl Write for Recorder<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let cost = self.archive.cost() + self.places.len() * size_of::<Place>();
        if !(self.go_on)(self.offset, cost) {
            return Err(io::Error::other("enough"));
        }
        let taken = match self.left {
            0 => {
                self.segment(None);
                self.archive.text.extend_from_slice(data);
                data.len()
            }
            left => data.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
        };
        if self.left > 0 {
            self.left -= taken as u64;
        }
        self.cut(|cutter, each| cutter.push(&data[..taken], each));
        self.offset += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Contents for Recorder<'_> {
    fn contents(&mut self, path: &Path, size: u64) {
        if size > 0 {
            let path = path.as_os_str().as_bytes();
            self.segment(Some(path.len() as u32));
            self.archive.text.extend_from_slice(path);
            self.left = size;
        }
    }
}

/// Reads parts of archives; the file that was read last stays open.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: Option<(usize, u64, OwnedFd)>,
}

impl Files {
    /// Fills `out` with what the archive `number` has from byte `at` on.
    ///
    /// # Errors
    /// It is not there any more.
    pub(super) fn read(
        &mut self,
        held: &Held,
        (number, archive): (usize, &Archive),
        mut at: u64,
        mut out: &mut [u8],
    ) -> io::Result<()> {
        let store = held.stores.get(archive.store).ok_or(io::ErrorKind::NotFound)?;
        let mut index = archive.segments.partition_point(|segment| segment.at <= at);
        while !out.is_empty() {
            let segment = index.checked_sub(1).and_then(|i| archive.segments.get(i));
            let segment = segment.ok_or(io::ErrorKind::UnexpectedEof)?;
            let into = at - segment.at;
            // The last one goes on to the end.
            let next = archive.segments.get(index).map_or(u64::MAX, |next| next.at);
            let length = out.len().min(usize::try_from(next - at).unwrap_or(usize::MAX));
            let (now, rest) = out.split_at_mut(length);
            let begin = segment.begin as usize;
            match segment.path {
                None => {
                    let from = begin + into as usize;
                    let text = archive.text.get(from..from + length);
                    now.copy_from_slice(text.ok_or(io::ErrorKind::UnexpectedEof)?);
                }
                Some(path) => {
                    let path = &archive.text[begin..begin + path as usize];
                    let file = self.file(store, (number, segment.at), path)?;
                    read_at(file, now, into)?;
                }
            }
            out = rest;
            at += length as u64;
            index += 1;
        }
        Ok(())
    }

    fn file(&mut self, store: &OpenDir, which: (usize, u64), path: &[u8]) -> io::Result<&OwnedFd> {
        let is_open = self.open.as_ref().is_some_and(|(n, at, _)| (*n, *at) == which);
        if !is_open {
            self.open = None;
        }
        match &mut self.open {
            Some((_, _, file)) => Ok(file),
            none => {
                let file = open_below(store, Path::new(std::ffi::OsStr::from_bytes(path)))?;
                Ok(&none.insert((which.0, which.1, file)).2)
            }
        }
    }
}

/// Opens a regular file below a store, through directories only.
fn open_below(store: &OpenDir, path: &Path) -> io::Result<OwnedFd> {
    let through = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let read = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC
        | OFlag::O_NOCTTY
        | OFlag::O_NONBLOCK;
    let mut directory: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let last = components.peek().is_none();
        let flags = if last { read } else { through };
        let opened = match &directory {
            None => openat(&store.fd, name, flags, Mode::empty())?,
            Some(directory) => openat(directory, name, flags, Mode::empty())?,
        };
        directory = Some(opened);
    }
    let file = directory.ok_or(io::ErrorKind::InvalidInput)?;
    let kind = crate::store::fs::file_type(&fstat(&file)?);
    if kind == SFlag::S_IFREG { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn read_at(file: &OwnedFd, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
    while !out.is_empty() {
        match pread(file, out, at as i64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => {
                out = &mut out[got..];
                at += got as u64;
            }
        }
    }
    Ok(())
}
