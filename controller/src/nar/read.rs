//! Reads several paths at once and hands out their NARs' pieces in order.

use super::blocks::{BLOCK, BlockError, Item};
use super::dump::DumpError;
use crate::closure::{ClosureError, ClosureSource};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Paths that are read at the same time.
const READERS: usize = 2;
/// Pieces of a path that are read ahead.
const AHEAD: usize = 3;
/// Bytes of paths behind the one that is handed out which are read ahead, in all.
const BUDGET: usize = 24 << 20;

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

/// How often a source gave something.
pub(super) type Given = Arc<AtomicU64>;

type Pieces = Receiver<Result<Piece, ClosureError>>;
type Waiting = Mutex<VecDeque<(usize, Item, SyncSender<Result<Piece, ClosureError>>)>>;

/// The pieces of a list of paths, in order.
pub(super) struct Reader {
    paths: VecDeque<Pieces>,
    ahead: Arc<Ahead>,
}

/// Bounds what is read ahead of paths that are small: many of them have few pieces each.
#[derive(Debug, Default)]
struct Ahead {
    state: Mutex<Window>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Window {
    /// Bytes that were read and not handed out.
    bytes: usize,
    /// The number of the path that is handed out. Its reader never waits here: others would wait
    /// for it.
    front: usize,
    ended: bool,
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` of the path `number` may be read ahead.
    fn take(&self, number: usize, bytes: usize) {
        let mut window = self.lock();
        while window.bytes >= BUDGET && window.front != number && !window.ended {
            window = self.changed.wait(window).unwrap_or_else(PoisonError::into_inner);
        }
        window.bytes += bytes;
    }

    fn change(&self, change: impl FnOnce(&mut Window)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ahead.change(|window| window.ended = true);
    }
}

impl Reader {
    /// Starts reading.
    pub(super) fn start(
        source: Arc<dyn ClosureSource>,
        items: Vec<Item>,
        given: &Given,
    ) -> Result<Self, BlockError> {
        let mut paths = VecDeque::new();
        let mut waiting = VecDeque::new();
        for (number, item) in items.into_iter().enumerate() {
            let (sender, pieces) = sync_channel(AHEAD);
            paths.push_back(pieces);
            waiting.push_back((number, item, sender));
        }
        let (waiting, ahead) = (Arc::new(Mutex::new(waiting)), Arc::new(Ahead::default()));
        for _ in 0..READERS.min(paths.len()) {
            let (source, waiting) = (Arc::clone(&source), Arc::clone(&waiting));
            let (ahead, given) = (Arc::clone(&ahead), Arc::clone(given));
            thread::Builder::new()
                .name("nar-read".to_owned())
                .spawn(move || read(source.as_ref(), &waiting, &ahead, &given))
                .map_err(|e| BlockError::Thread(e.to_string()))?;
        }
        Ok(Reader { paths, ahead })
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Option<Result<Piece, ClosureError>> {
        while let Some(pieces) = self.paths.front() {
            if let Ok(piece) = pieces.recv() {
                let bytes = piece.as_ref().map_or(0, |piece| piece.raw.len());
                self.ahead.change(|window| window.bytes -= bytes);
                return Some(piece);
            }
            self.paths.pop_front();
            self.ahead.change(|window| window.front += 1);
        }
        None
    }
}

/// A reader's life.
fn read(source: &dyn ClosureSource, waiting: &Waiting, ahead: &Ahead, given: &AtomicU64) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((number, item, sender)) = next else { return };
        let Item { index, info, from } = &item;
        let mut cutter = Cutter {
            index: *index,
            size: info.nar_size,
            offset: *from,
            raw: Vec::new(),
            sender: &sender,
            number,
            ahead,
            given,
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
    number: usize,
    ahead: &'a Ahead,
    given: &'a AtomicU64,
}

impl Write for Cutter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Nothing is written while bytes are left out, so that it is known that the source gets on.
        self.given.fetch_add(1, Ordering::Relaxed);
        if data.is_empty() {
            return Ok(0);
        }
        let left = self.size - self.offset - self.raw.len() as u64;
        if left == 0 {
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
            self.ahead.take(self.number, length as usize);
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
