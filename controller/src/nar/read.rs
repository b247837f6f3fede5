//! Reads several paths at once and hands out their NARs' pieces in order.

use super::blocks::{BLOCK, BlockError, Item};
use super::dump::DumpError;
use crate::closure::{ClosureError, ClosureSource};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Paths that are read at the same time.
const READERS: usize = 2;
/// Pieces of a path that are read ahead.
const AHEAD: usize = 3;

/// A piece of a path's NAR.
#[derive(Debug)]
pub(super) struct Piece {
    /// The path's index in the manifest.
    pub(super) path: u32,
    /// Position in the NAR.
    pub(super) offset: u64,
    /// Whether it is the NAR's last one.
    pub(super) last: bool,
    /// The bytes.
    pub(super) raw: Vec<u8>,
}

type Pieces = Receiver<Result<Piece, ClosureError>>;
type Waiting = Mutex<VecDeque<(Item, SyncSender<Result<Piece, ClosureError>>)>>;

/// The pieces of a list of paths, in order.
pub(super) struct Reader {
    paths: VecDeque<Pieces>,
}

impl Reader {
    /// Starts reading.
    pub(super) fn start(
        source: Arc<dyn ClosureSource>,
        items: Vec<Item>,
    ) -> Result<Self, BlockError> {
        let mut paths = VecDeque::new();
        let mut waiting = VecDeque::new();
        for item in items {
            let (sender, pieces) = sync_channel(AHEAD);
            paths.push_back(pieces);
            waiting.push_back((item, sender));
        }
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..READERS.min(paths.len()) {
            let (source, waiting) = (Arc::clone(&source), Arc::clone(&waiting));
            thread::Builder::new()
                .name("nar-read".to_owned())
                .spawn(move || read(source.as_ref(), &waiting))
                .map_err(|e| BlockError::Thread(e.to_string()))?;
        }
        Ok(Reader { paths })
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Option<Result<Piece, ClosureError>> {
        while let Some(pieces) = self.paths.front() {
            if let Ok(piece) = pieces.recv() {
                return Some(piece);
            }
            self.paths.pop_front();
        }
        None
    }
}

/// A reader's life.
fn read(source: &dyn ClosureSource, waiting: &Waiting) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((item, sender)) = next else { return };
        let Item { index, info, from } = &item;
        let mut cutter = Cutter {
            index: *index,
            size: info.nar_size,
            offset: *from,
            raw: Vec::new(),
            sender: &sender,
        };
        let differs = |found| ClosureError::SizeDiffers {
            path: info.path.clone(),
            expected: info.nar_size,
            found,
        };
        let dumped = source.dump_from(info, *from, &mut cutter);
        let error = match dumped {
            Ok(()) if cutter.offset == info.nar_size => continue,
            Ok(()) => differs(cutter.offset + cutter.raw.len() as u64),
            // More than announced: the path has grown.
            Err(DumpError::Sink(_)) if cutter.offset == info.nar_size => differs(info.nar_size + 1),
            // Nobody takes the pieces any more.
            Err(DumpError::Sink(_)) => return,
            Err(DumpError::Source(error)) => error,
        };
        let _ = sender.send(Err(error));
        return;
    }
}

/// Takes a NAR's bytes and makes pieces of them.
struct Cutter<'a> {
    index: u32,
    size: u64,
    /// Position of `raw` in the NAR.
    offset: u64,
    raw: Vec<u8>,
    sender: &'a SyncSender<Result<Piece, ClosureError>>,
}

impl Write for Cutter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = self.size - self.offset - self.raw.len() as u64;
        if left == 0 && !data.is_empty() {
            return Err(io::Error::other("the NAR is longer than announced"));
        }
        let room = BLOCK - self.raw.len();
        let take = data.len().min(room).min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.raw.capacity() == 0 {
            let rest = usize::try_from(left).unwrap_or(BLOCK);
            self.raw.reserve_exact(rest.min(BLOCK));
        }
        self.raw.extend_from_slice(&data[..take]);
        let last = take as u64 == left;
        if last || self.raw.len() == BLOCK {
            let raw = std::mem::take(&mut self.raw);
            let length = raw.len() as u64;
            let piece = Piece { path: self.index, offset: self.offset, last, raw };
            let gone = |_| io::Error::other("nobody takes the pieces");
            self.sender.send(Ok(piece)).map_err(gone)?;
            self.offset += length;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
