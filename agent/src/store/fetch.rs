//! Paths that the machine fetches itself: several at once, each by a worker of its own that
//! downloads, decompresses, hashes and writes it.
//!
//! What came counts by the same rules as sent blocks: checkpoints, a name for what is whole and
//! right, nothing registered before the end. What can't be fetched is left for the controller.
//! Decompressors take at most [`PARALLEL`] × [`MODEST`] and one window as the controller's frames have.

use super::buffer::{Buffer, Pool};
use super::closure::{Closure, Entry};
use super::decode::{SMALL_WINDOW, window_log};
use super::nar::replay::Resumed;
use super::nar::unpack::own_umask;
use super::pipeline::Pipeline;
use super::receive::{Progress, ReceiveError};
use crate::execute::failure::chain;
use crate::fetch::download::Download;
use crate::fetch::{self, download};
use keystone_fetch::{FetchError, Http};
use keystone_protocol::fetch::{Fetch, FetchNar, NotFetched};
use keystone_protocol::message::Wanted;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Paths fetched at once.
const PARALLEL: usize = 8;
/// The same with little memory.
const FEW: usize = 4;
/// Bytes that are hashed and written at once.
const PIECE: u64 = 256 << 10;
/// What each decompressor may take, in bytes: as `xz -6` and zstd up to its level 19 need, whose windows
/// are 8 MiB. One at a time may have more.
const MODEST: u64 = ample(SMALL_WINDOW);

/// That one's: a zstd window as the controller's frames have, and what else it takes to decompress.
const fn ample(window_log: u32) -> u64 {
    (1 << window_log) + (2 << 20)
}

/// A path to fetch.
struct Task<'a> {
    wanted: Wanted,
    nar: FetchNar,
    resumed: Option<Resumed<'a>>,
}

/// What is still wanted.
pub(super) struct Left<'a> {
    /// From the controller, in the closure's order.
    pub(super) wanted: Vec<Wanted>,
    /// Of which the first part is there.
    pub(super) resumed: HashMap<u32, Resumed<'a>>,
    /// Why some of them could not be fetched, the first one first.
    pub(super) failed: Vec<NotFetched>,
    /// Bytes that an earlier run had left and that have to come again.
    pub(super) lost: u64,
}

/// What the workers share.
struct Work<'w, 'a> {
    pipeline: &'w Pipeline<'a>,
    closure: &'a Closure<'a>,
    server: Http,
    memory: Memory,
    pool: Pool,
    cancel: &'w AtomicBool,
    /// Workers that have not ended.
    working: AtomicUsize,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    todo: VecDeque<Task<'a>>,
    left: Left<'a>,
    /// Failures since a path came.
    in_a_row: usize,
    /// Nobody is asked any more.
    given_up: bool,
}

/// Says when it goes that a worker has ended, however it did.
struct Ended<'w, 'p, 'a>(&'w Work<'p, 'a>);

impl Drop for Ended<'_, '_, '_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::SeqCst);
        self.0.pipeline.tell();
    }
}

/// Memory of decompressors.
struct Memory {
    /// No more than [`MODEST`] with little memory: what needs more is sent then.
    ample: u64,
    /// Held by who has that much.
    held: Mutex<()>,
}

/// A path did not come.
enum Failure<'a> {
    /// Before its first byte.
    Untouched(FetchError, Option<Resumed<'a>>),
    /// After so many bytes that count as progress.
    Midway(String, u64),
    /// All has to end.
    Fatal(ReceiveError),
}

impl<'a> Pipeline<'a> {
    /// Fetches what of `wanted` the web server has that was told of; says what is left. Bounded in
    /// time by the client's patience with a server, and after that by the line alone.
    pub(super) fn fetch(
        &self,
        closure: &'a Closure<'a>,
        wanted: &[Wanted],
        mut resumed: HashMap<u32, Resumed<'a>>,
        from: &Fetch,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<Left<'a>, ReceiveError> {
        let mut nars: HashMap<u32, &FetchNar> = from.nars.iter().map(|n| (n.path, n)).collect();
        let (mut todo, mut unasked) = (VecDeque::new(), Vec::new());
        for &wanted in wanted {
            match nars.remove(&wanted.path) {
                None => unasked.push(wanted),
                Some(nar) => {
                    let resumed = resumed.remove(&wanted.path);
                    todo.push_back(Task { wanted, nar: nar.clone(), resumed });
                }
            }
        }
        let mut left = Left { wanted: unasked, resumed, failed: Vec::new(), lost: 0 };
        let server = match fetch::server(from) {
            Ok(server) => server,
            Err(error) => {
                todo.into_iter().for_each(|task| left.add(task, chain(&error)));
                return Ok(left.in_order());
            }
        };
        let memory = Memory { ample: ample(window_log()), held: Mutex::new(()) };
        let parallel = todo.len().min(if memory.ample > MODEST { PARALLEL } else { FEW });
        let state = Mutex::new(State { todo, left, in_a_row: 0, given_up: false });
        let pool = self.pool();
        let working = AtomicUsize::new(parallel);
        let work = Work { pipeline: self, closure, server, memory, pool, cancel, working, state };
        let reached = self.beside_checkpoints(closure, || {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..parallel)
                    .map(|_| {
                        scope.spawn(|| {
                            let _ended = Ended(&work);
                            work.paths();
                        })
                    })
                    .collect();
                let over = || work.working.load(Ordering::SeqCst) == 0;
                while !over() {
                    progress(self.wait_a_bit(over));
                }
                match workers.into_iter().filter_map(|worker| worker.join().err()).count() {
                    0 => Ok(()),
                    _ => Err(ReceiveError::Worker),
                }
            })
        })?;
        progress(reached);
        if cancel.load(Ordering::Relaxed) {
            return Err(ReceiveError::Cancelled);
        }
        let state = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(state.left.in_order())
    }
}

impl<'a> Left<'a> {
    /// A path that is as it was before.
    fn add(&mut self, task: Task<'a>, why: String) {
        self.failed.push(NotFetched { path: task.wanted.path, why });
        self.wanted.push(task.wanted);
        self.resumed.extend(task.resumed.map(|resumed| (task.wanted.path, resumed)));
    }

    fn in_order(mut self) -> Self {
        self.wanted.sort_by_key(|wanted| wanted.path);
        self
    }
}

impl<'a> Work<'_, 'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.pipeline.is_stopped()
    }

    /// A worker's life: one path after another.
    fn paths(&self) {
        if let Err(error) = own_umask() {
            return self.pipeline.fail(error.into());
        }
        while !self.stopped()
            && let Some(task) = self.next()
        {
            let Task { wanted, nar, resumed } = task;
            match self.path(wanted, &nar, resumed) {
                Ok(()) => self.lock().in_a_row = 0,
                Err(Failure::Fatal(error)) => return self.pipeline.fail(error),
                // What was done of it is in the last checkpoint.
                Err(_) if self.stopped() => return,
                Err(Failure::Untouched(error, resumed)) => {
                    let hopeless = error.is_of_the_line();
                    self.failed(Task { wanted, nar, resumed }, chain(&error), hopeless);
                }
                Err(Failure::Midway(why, came)) => {
                    let entry = &self.closure.entries[wanted.path as usize];
                    if let Err(error) = self.pipeline.begin_anew(wanted, entry, came) {
                        return self.pipeline.fail(error.into());
                    }
                    self.lock().left.lost += wanted.from;
                    let wanted = Wanted { from: 0, ..wanted };
                    self.failed(Task { wanted, nar, resumed: None }, why, false);
                }
            }
        }
    }

    /// The next path. Nobody is asked any more after [`State::given_up`].
    fn next(&self) -> Option<Task<'a>> {
        let mut state = self.lock();
        if state.given_up {
            for task in std::mem::take(&mut state.todo) {
                state.left.add(task, "the server was given up before".to_owned());
            }
        }
        state.todo.pop_front()
    }

    fn failed(&self, task: Task<'a>, why: String, hopeless: bool) {
        let path = &self.closure.entries[task.wanted.path as usize].info.path;
        tracing::warn!("{path} can't be fetched: {why}");
        let mut state = self.lock();
        state.in_a_row += 1;
        state.given_up |= hopeless || state.in_a_row >= PARALLEL;
        state.left.add(task, why);
    }

    fn path(
        &self,
        wanted: Wanted,
        nar: &FetchNar,
        resumed: Option<Resumed<'a>>,
    ) -> Result<(), Failure<'a>> {
        let entry = &self.closure.entries[wanted.path as usize];
        let stopped = || self.stopped();
        let (first, mut download, _seat) = match self.begin(wanted, nar, entry, &stopped) {
            Ok(begun) => begun,
            Err(error) => return Err(Failure::Untouched(error, resumed)),
        };
        let (came, last) = (Cell::new(0), Cell::new(0));
        let mut first = Some(first);
        let pieces = std::iter::from_fn(|| {
            let piece = match first.take() {
                Some(first) => Ok(first),
                None if download.left() == 0 => return None,
                None => self.piece(&mut download).map_err(ReceiveError::Fetch),
            };
            last.set(piece.as_ref().map_or(0, |piece| piece.len() as u64));
            came.set(came.get() + last.get());
            Some((0, piece))
        });
        match self.pipeline.unpack(entry, wanted.path, resumed, pieces) {
            Ok(()) => Ok(()),
            Err(error @ (ReceiveError::Fetch(_) | ReceiveError::Hash { .. })) => {
                Err(Failure::Midway(chain(&error), came.get()))
            }
            // The last one was not counted.
            Err(error @ ReceiveError::Format { .. }) => {
                Err(Failure::Midway(chain(&error), came.get() - last.get()))
            }
            Err(error) => Err(Failure::Fatal(error)),
        }
    }

    /// Starts a download, and has its first bytes; if a modest decompressor can't, with an ample one.
    fn begin<'s>(
        &'s self,
        wanted: Wanted,
        nar: &FetchNar,
        entry: &Entry<'_>,
        stopped: download::Stopped<'s>,
    ) -> Result<(Buffer, Download<'s>, Option<MutexGuard<'s, ()>>), FetchError> {
        let range = (wanted.from, entry.info.nar_size);
        let start = |memory| {
            let mut download = Download::start(&self.server, nar, range, memory, stopped)?;
            Ok((self.piece(&mut download)?, download))
        };
        match start(MODEST) {
            // It need not be the memory; that shows.
            Err(FetchError::Decompress { .. }) if self.memory.ample > MODEST && !self.stopped() => {
                let seat = self.memory.held.lock().unwrap_or_else(PoisonError::into_inner);
                start(self.memory.ample).map(|(first, download)| (first, download, Some(seat)))
            }
            started => started.map(|(first, download)| (first, download, None)),
        }
    }

    fn piece(&self, download: &mut Download<'_>) -> Result<Buffer, FetchError> {
        let mut piece = self.pool.take(download.left().min(PIECE) as usize);
        download.fill(&mut piece)?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, run};
    use keystone_fetch::Decoder;
    use keystone_protocol::fetch::Compression;
    use std::io::{Read, Write};

    /// Whether a file can be read with so much memory.
    fn is_read(compression: Compression, file: &[u8], memory: u64) -> bool {
        let mut decoder = Decoder::new(compression, file, memory).unwrap();
        decoder.read_to_end(&mut Vec::new()).is_ok()
    }

    #[test]
    fn decompressors_have_what_usual_files_take_and_no_more() {
        let raw = noise(1, 100_000);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &raw).unwrap();
        for (level, memory, expected) in
            [("-6", MODEST, true), ("-9", MODEST, false), ("-9", ample(27), true)]
        {
            run("xz-utils", "xz", &["--keep", "--force", level, path.to_str().unwrap()]);
            let file = std::fs::read(path.with_extension("xz")).unwrap();
            assert_eq!(is_read(Compression::Xz, &file, memory), expected, "{level} {memory}");
        }
        for (window_log, memory, expected) in
            [(23, MODEST, true), (24, MODEST, false), (27, ample(27), true), (28, ample(27), false)]
        {
            let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
            zstd.window_log(window_log).unwrap();
            zstd.include_contentsize(false).unwrap();
            zstd.write_all(&raw).unwrap();
            let file = zstd.finish().unwrap();
            assert_eq!(is_read(Compression::Zstd, &file, memory), expected, "{window_log}");
        }
    }
}
