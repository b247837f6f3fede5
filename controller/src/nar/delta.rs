//! What the other end holds already, by the chunks that it offers.
//!
//! ```text
//! pieces ─▶ Splitter: cut as the other end cuts ─┬─ much of it is held ─▶ blocks that name chunks
//!                                                └─ little ─▶ pieces, compressed as others
//! ```
//!
//! Cutting and hashing at both ends takes longer than sending on a fast line, so the other end is
//! asked for chunks only once the line was found to be slow ([`SLOW_BELOW`]), or if it was told to be.

use super::blocks::BLOCK;
use super::pace::Pace;
use super::read::Piece;
use keystone_protocol::chunks::{ChunkHash, Cutter, MAX_OFFERED, Part, hash};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Below this rate of the line chunks are worth their work, in bytes per second.
pub const SLOW_BELOW: f64 = 8e6;
/// Of this part of a block the chunks have to be held, or it is compressed together with others.
const WORTH: usize = 4;
/// How long the chunks of one path are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether anybody still waits for blocks.
const TICK: Duration = Duration::from_millis(100);

/// Whether chunks that the other end holds are not sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Delta {
    /// On a line that carries less than 8 MB/s
    #[default]
    Auto,
    /// On every line
    Always,
    /// On none
    Never,
}

/// Asks the other end for the chunks of these paths; `false` if it can't be asked.
pub type Ask = Box<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// What the other end holds, as far as it is known.
pub struct Known {
    delta: Delta,
    /// Paths that it holds something like.
    alike: HashSet<u32>,
    ask: Ask,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: HashSet<u32>,
    answered: HashSet<u32>,
    /// Numbers of chunks.
    chunks: HashMap<ChunkHash, u32>,
    /// A chunk was not there any more, or no answer came: no more of it.
    over: bool,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("delta", &self.delta).finish_non_exhaustive()
    }
}

impl Known {
    /// Of an end that holds something like the paths `alike`.
    pub fn new(delta: Delta, alike: &[u32], ask: Ask) -> Known {
        let alike = match delta {
            Delta::Never => HashSet::new(),
            Delta::Auto | Delta::Always => alike.iter().copied().collect(),
        };
        Known { delta, alike, ask, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Of an end that holds nothing.
    pub fn nothing() -> Known {
        Known::new(Delta::Never, &[], Box::new(|_| false))
    }

    /// Whether it may have something of this path.
    pub fn is_alike(&self, path: u32) -> bool {
        self.alike.contains(&path)
    }

    /// The chunks of what is like `path`, from number `first` on.
    ///
    /// # Errors
    /// Nobody asked for them, or there are too many.
    pub fn add(&self, path: u32, first: u32, hashes: &[ChunkHash]) -> Result<(), &'static str> {
        let mut state = self.lock();
        if !state.asked.contains(&path) || !state.answered.insert(path) {
            return Err("chunks that nobody asked for");
        }
        let end = first as usize + hashes.len();
        if end > MAX_OFFERED || state.chunks.len() + hashes.len() > MAX_OFFERED {
            return Err("more chunks than one may offer");
        }
        for (number, hash) in (first..).zip(hashes) {
            state.chunks.entry(*hash).or_insert(number);
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// What it holds has changed: nothing of it is made use of any more.
    pub fn give_up(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Whether it is to be waited with a path until more is known of the line.
    pub(super) fn is_open(&self, path: u32, pace: &Pace) -> bool {
        let state = self.lock();
        self.delta == Delta::Auto
            && self.is_alike(path)
            && !state.over
            && state.asked.is_empty()
            && pace.is_below(SLOW_BELOW).is_none()
    }

    /// Whether chunks are made use of for `path`. Asks for them, with those of the paths that follow it
    /// in `order`, where the line makes it worth it.
    pub(super) fn is_used(&self, path: u32, order: &[u32], pace: &Pace) -> bool {
        if !self.is_alike(path) {
            return false;
        }
        let mut state = self.lock();
        if state.over {
            return false;
        }
        if state.asked.contains(&path) {
            return true;
        }
        let slow = pace.is_below(SLOW_BELOW) == Some(true);
        if !state.asked.is_empty() || !(self.delta == Delta::Always || slow) {
            return false;
        }
        let from = order.iter().position(|p| *p == path).unwrap_or(order.len());
        let wanted: Vec<u32> =
            order[from..].iter().copied().filter(|path| self.is_alike(*path)).collect();
        // The answer may be there before this returns.
        state.asked.extend(&wanted);
        drop(state);
        tracing::debug!("asking for the chunks of what is like {} paths", wanted.len());
        (self.ask)(&wanted)
    }

    /// Whether the answer for `path` is there.
    pub(super) fn is_answered(&self, path: u32) -> bool {
        let state = self.lock();
        state.over || state.answered.contains(&path)
    }

    /// Waits for the answer for `path`, as long as `wanted` says that somebody waits for what comes
    /// of it.
    pub(super) fn wait(&self, path: u32, wanted: impl Fn() -> bool) {
        let began = Instant::now();
        let mut state = self.lock();
        while !state.over && !state.answered.contains(&path) && wanted() {
            if began.elapsed() > PATIENCE {
                tracing::warn!("no chunks came for a minute; all is sent");
                state.over = true;
            }
            let waited = self.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn find(&self, chunk: &[u8]) -> Option<u32> {
        let hash = hash(chunk);
        let state = self.lock();
        if state.over { None } else { state.chunks.get(&hash).copied() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a NAR that become one block.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) piece: Piece,
    /// What they are put together from, if much of it is held.
    pub(super) made: Option<Made>,
}

/// What a block is put together from.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) parts: Vec<Part>,
    /// The bytes between chunks.
    pub(super) bytes: Vec<u8>,
}

/// Finds what the other end holds in pieces of a path.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    cutter: Cutter,
    /// The path in the middle of which it is.
    path: Option<u32>,
    /// Where in its NAR what was not handed out yet begins.
    offset: u64,
    raw: Vec<u8>,
    made: Made,
}

impl Splitter {
    /// Whether it is in the middle of a path.
    pub(super) fn is_amid(&self, path: u32) -> bool {
        self.path == Some(path)
    }

    /// Takes the next piece of a path; appends what is complete.
    pub(super) fn take(&mut self, known: &Known, piece: Piece, out: &mut Vec<Cut>) {
        let Piece { path, offset, last, raw } = piece;
        if self.path != Some(path) {
            // Of another path nothing is left: its last piece has handed all out.
            (self.path, self.offset) = (Some(path), offset);
        }
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut each = |chunk: &[u8]| {
            self.chunk(known.find(chunk), chunk, out);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = cutter.push(&raw, &mut each);
        if last {
            let Ok(()) = cutter.end(&mut each);
            self.hand_out(true, out);
            self.path = None;
        }
        self.cutter = cutter;
    }

    fn chunk(&mut self, number: Option<u32>, chunk: &[u8], out: &mut Vec<Cut>) {
        if self.raw.len() + chunk.len() > BLOCK {
            self.hand_out(false, out);
        }
        self.raw.extend_from_slice(chunk);
        let Made { parts, bytes } = &mut self.made;
        match (number, parts.last_mut()) {
            (Some(number), _) => parts.push(Part::Chunk(number)),
            (None, Some(Part::Bytes(length))) => *length += chunk.len() as u32,
            (None, _) => parts.push(Part::Bytes(chunk.len() as u32)),
        }
        if number.is_none() {
            bytes.extend_from_slice(chunk);
        }
    }

    fn hand_out(&mut self, last: bool, out: &mut Vec<Cut>) {
        let (raw, made) = (std::mem::take(&mut self.raw), std::mem::take(&mut self.made));
        let held = raw.len() - made.bytes.len();
        let made = (held * WORTH >= raw.len()).then_some(made);
        let offset = self.offset;
        self.offset += raw.len() as u64;
        let path = self.path.unwrap_or_default();
        out.push(Cut { piece: Piece { path, offset, last, raw }, made });
    }
}
