//! Workers that unpack paths, the thread that feeds them, and the one that makes checkpoints.

use super::buffer::{Buffer, Pool};
use super::closure::{Closure, Entry};
use super::decode::{Decoder, Inflater, Piece, window_log};
use super::fs::{Io, OpenDir, remove_tree};
use super::journal::{Journal, Record};
use super::nar::parse::{FeedError, Parser};
use super::nar::replay::{Reached, Resumed};
use super::nar::unpack::{Unfinished, Unpacker, own_umask};
use super::receive::{ClosureSource, Progress, ReceiveError, temporary};
use keystone_protocol::frame::BlockHeader;
use keystone_protocol::message::Wanted;
use nix::fcntl::renameat;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How many bytes may wait for the workers.
const BUDGET: usize = 16 << 20;
/// The most workers. More would not help: the order of blocks is that of the paths, so that
/// what can be done at the same time is what [`BUDGET`] holds.
const MAX_WORKERS: usize = 8;
/// Paths from this size on are decompressed by a thread of their own, in bytes.
const LARGE: u64 = 32 << 20;
/// How often a wait looks at the cancel flag and reports progress.
const TICK: Duration = Duration::from_millis(200);
/// A checkpoint is made after so many bytes, or after so long.
const CHECKPOINT_BYTES: u64 = 128 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);

/// A path on its way to a worker.
struct Job<'a> {
    entry: &'a Entry<'a>,
    index: u32,
    resumed: Option<Resumed<'a>>,
    pieces: mpsc::Receiver<Piece>,
}

/// How far a worker is, as of its last piece.
struct Snapshot {
    offset: u64,
    sha256: Sha256,
    unfinished: Option<Unfinished>,
}

impl Snapshot {
    /// Hashes a piece that the parser has taken. `None` if nothing of it is of use without what
    /// follows, so that what was known before still holds.
    fn take(
        parser: &mut Parser<Unpacker<'_>>,
        sha256: &mut Sha256,
        piece: &[u8],
    ) -> Option<Snapshot> {
        let offset = parser.offset();
        let settled = parser.sink_mut().settled(offset);
        // What is on disk tells nothing of names and lengths whose object is not made yet.
        let pending = usize::try_from(offset - settled).unwrap_or(usize::MAX);
        let (before, after) = piece.split_at(piece.len().saturating_sub(pending));
        sha256.update(before);
        let hashed = sha256.clone();
        sha256.update(after);
        let unfinished = parser.sink_mut().unfinished();
        (!before.is_empty()).then_some(Snapshot { offset: settled, sha256: hashed, unfinished })
    }
}

/// What the threads share.
pub(super) struct Pipeline<'a> {
    store: &'a OpenDir,
    journal: &'a Journal,
    pool: Pool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: usize,
    progress: Progress,
    failure: Option<ReceiveError>,
    stop: bool,
    /// No more pieces come, and all workers have ended.
    over: bool,
    /// Unfinished paths by their index.
    snapshots: BTreeMap<u32, Snapshot>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(store: &'a OpenDir, journal: &'a Journal, progress: Progress) -> Self {
        let state = State {
            waiting: 0,
            progress,
            failure: None,
            stop: false,
            over: false,
            snapshots: BTreeMap::new(),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Pipeline { store, journal, pool: Pool::default(), state, changed }
    }

    /// Receives what is wanted. `resumed` has the paths of which the first part is there.
    pub(super) fn run(
        &self,
        closure: &'a Closure<'a>,
        wanted: &[Wanted],
        resumed: HashMap<u32, Resumed<'a>>,
        source: &mut dyn ClosureSource,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<Progress, ReceiveError> {
        if wanted.is_empty() {
            return Ok(self.lock().progress);
        }
        let (sender, jobs) = mpsc::channel();
        let jobs = Mutex::new(jobs);
        let workers = std::thread::available_parallelism().map_or(2, |n| n.get());
        self.beside_checkpoints(closure, || {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..workers.clamp(2, MAX_WORKERS))
                    .map(|_| scope.spawn(|| self.work(&jobs)))
                    .collect();
                let mut feed = Feed { pipeline: self, closure, source, progress, cancel, resumed };
                // `sender` goes out of use in there, which ends the workers once they are through.
                let fed = feed.paths(wanted, sender).and_then(|()| feed.wait_for_all());
                let died = workers.into_iter().filter_map(|worker| worker.join().err()).count() > 0;
                if died { Err(ReceiveError::Worker) } else { fed }
            })
        })
    }

    /// Makes checkpoints while `work` is done, and one at the end of what is not.
    pub(super) fn beside_checkpoints(
        &self,
        closure: &Closure<'_>,
        work: impl FnOnce() -> Result<(), ReceiveError>,
    ) -> Result<Progress, ReceiveError> {
        self.lock().over = false;
        let done = std::thread::scope(|scope| {
            let checkpoints = scope.spawn(|| self.checkpoints(closure));
            let done = work();
            self.lock().over = true;
            self.changed.notify_all();
            if checkpoints.join().is_err() { Err(ReceiveError::Worker) } else { done }
        });
        let unfinished = !self.lock().snapshots.is_empty();
        let mut state = self.lock();
        // A worker's failure is the cause of what others saw of it.
        let result = match state.failure.take() {
            Some(failure) => Err(failure),
            None => done.map(|()| state.progress),
        };
        drop(state);
        if unfinished && let Err(error) = self.checkpoint(closure) {
            // What is lost by that is time, not truth; the cause of the stop counts more.
            tracing::warn!("no last checkpoint: {error}");
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes checkpoints until all is over.
    fn checkpoints(&self, closure: &Closure<'_>) {
        let (mut bytes, mut at) = (self.lock().progress.bytes, Instant::now());
        loop {
            let state = self.lock();
            if state.over {
                return;
            }
            let done = state.progress.bytes;
            let due = done - bytes >= CHECKPOINT_BYTES
                || (done > bytes && at.elapsed() >= CHECKPOINT_TIME);
            if !due {
                let _ = self.changed.wait_timeout(state, TICK);
                continue;
            }
            drop(state);
            if let Err(error) = self.checkpoint(closure) {
                // The kernel tells once that it could not write something: who passes over it now,
                // hears at the end that all is on the disk.
                let mut state = self.lock();
                state.stop = true;
                state.failure.get_or_insert(ReceiveError::Fs(error));
                drop(state);
                self.changed.notify_all();
                return;
            }
            (bytes, at) = (done, Instant::now());
        }
    }

    /// Syncs the file system, then says in the journal how far it was before.
    fn checkpoint(&self, closure: &Closure<'_>) -> Result<(), super::FsError> {
        let records: Vec<Record> = {
            let state = self.lock();
            let record = |(index, at): (&u32, &Snapshot)| {
                let info = &closure.entries[*index as usize];
                let reached = Reached {
                    offset: at.offset,
                    sha256: at.sha256.clone().finalize().into(),
                    unfinished: at.unfinished.clone(),
                };
                Record::new(info.base, &info.info.nar_sha256, &reached)
            };
            state.snapshots.iter().map(record).collect()
        };
        nix::unistd::syncfs(&self.store.fd).at("sync", &self.store.path)?;
        if records.is_empty() { Ok(()) } else { self.journal.append(&records) }
    }

    /// A worker's life: one path after another, until no more come or something failed.
    fn work(&self, jobs: &Mutex<mpsc::Receiver<Job<'a>>>) {
        let result = own_umask().map_err(ReceiveError::Fs).and_then(|()| {
            let mut inflater = Inflater::new(self.pool.clone());
            loop {
                let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = next else { return Ok(()) };
                self.path(job, &mut inflater)?;
            }
        });
        match result {
            Ok(()) => self.changed.notify_all(),
            Err(error) => self.fail(error),
        }
    }

    /// Ends everything, with the first of such errors.
    pub(super) fn fail(&self, error: ReceiveError) {
        let mut state = self.lock();
        state.stop = true;
        state.failure.get_or_insert(error);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether all has to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Where buffers come from.
    pub(super) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Waits until something changed, if it is not `over`, but not for long.
    pub(super) fn wait_a_bit(&self, over: impl Fn() -> bool) -> Progress {
        let state = self.lock();
        let progress = state.progress;
        if !over() {
            // Poisoned or timed out, the state is looked at again.
            let _ = self.changed.wait_timeout(state, TICK);
        }
        progress
    }

    /// Says that something changed to who waits.
    pub(super) fn tell(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Forgets and removes what was written of a path, of which `came` bytes came, and all of which
    /// has to come again.
    pub(super) fn begin_anew(
        &self,
        wanted: Wanted,
        entry: &Entry<'_>,
        came: u64,
    ) -> Result<(), super::FsError> {
        let mut state = self.lock();
        state.snapshots.remove(&wanted.path);
        state.progress.bytes_total += wanted.from + came;
        drop(state);
        let begun = temporary(entry.base);
        let removed = remove_tree(&self.store.fd, begun.as_bytes());
        removed.at_with("remove", || self.store.path.join(begun))
    }

    /// Unpacks a path; a large one is decompressed beside that.
    fn path(&self, job: Job<'a>, inflater: &mut Inflater) -> Result<(), ReceiveError> {
        let Job { entry, index, resumed, pieces } = job;
        let failed = |source| ReceiveError::decompress(&entry.info.path, source);
        if entry.info.nar_size < LARGE {
            let pieces = pieces
                .into_iter()
                .map(|piece| (piece.cost(), piece.unpack(inflater).map_err(failed)));
            return self.unpack(entry, index, resumed, pieces);
        }
        std::thread::scope(|scope| {
            let (ahead, decoded) = mpsc::sync_channel(2);
            scope.spawn(move || {
                for piece in pieces {
                    let cost = piece.cost();
                    let data = piece.unpack(inflater).map_err(failed);
                    if ahead.send((cost, data)).is_err() {
                        return;
                    }
                }
            });
            let unpacked = self.unpack(entry, index, resumed, decoded.into_iter());
            if unpacked.is_err() {
                // Lets the feeding thread go, which lets the thread above go.
                self.lock().stop = true;
                self.changed.notify_all();
            }
            unpacked
        })
    }

    /// Unpacks a path and gives it its name, or leaves it unfinished if not all of it comes.
    pub(super) fn unpack(
        &self,
        entry: &'a Entry<'a>,
        index: u32,
        resumed: Option<Resumed<'a>>,
        pieces: impl Iterator<Item = (usize, Result<Buffer, ReceiveError>)>,
    ) -> Result<(), ReceiveError> {
        let info = entry.info;
        let format = |source| ReceiveError::Format { path: info.path.clone(), source };
        let Resumed { mut parser, mut sha256 } = resumed.unwrap_or_else(|| {
            let unpacker = Unpacker::new(self.store.fd.as_fd(), temporary(entry.base));
            Resumed { parser: Parser::new(unpacker, info.nar_size), sha256: Sha256::new() }
        });
        parser.sink_mut().take_over();
        for (cost, piece) in pieces {
            // What went wrong with a piece is the piece's fault: what was written before stays.
            let piece = piece.inspect_err(|_| parser.sink_mut().leave())?;
            parser.feed(&piece).map_err(|error| match error {
                FeedError::Format(error) => format(error),
                FeedError::Sink(error) => {
                    parser.sink_mut().leave();
                    ReceiveError::Fs(error)
                }
            })?;
            let length = piece.len();
            let snapshot = Snapshot::take(&mut parser, &mut sha256, &piece);
            drop(piece);
            let mut state = self.lock();
            state.waiting -= cost;
            state.progress.bytes += length as u64;
            if let Some(snapshot) = snapshot {
                state.snapshots.insert(index, snapshot);
            }
            let stop = state.stop;
            drop(state);
            self.changed.notify_all();
            if stop {
                break;
            }
        }
        if parser.offset() < info.nar_size {
            parser.sink_mut().leave();
            return Ok(());
        }
        self.lock().snapshots.remove(&index);
        let unpacker = parser.finish().map_err(format)?;
        let found: [u8; 32] = sha256.finalize().into();
        if found != entry.sha256 {
            return Err(ReceiveError::Hash {
                path: info.path.clone(),
                expected: info.nar_sha256.clone(),
                found: hex::encode(found),
            });
        }
        renameat(&self.store.fd, unpacker.name(), &self.store.fd, entry.base)
            .at_with("name", || self.store.path.join(entry.base))?;
        unpacker.keep();
        self.lock().progress.paths += 1;
        self.changed.notify_all();
        Ok(())
    }
}

/// The caller's side of the pipeline.
struct Feed<'f, 'p> {
    pipeline: &'f Pipeline<'p>,
    closure: &'p Closure<'p>,
    source: &'f mut dyn ClosureSource,
    progress: &'f mut dyn FnMut(Progress),
    cancel: &'f AtomicBool,
    resumed: HashMap<u32, Resumed<'p>>,
}

impl<'p> Feed<'_, 'p> {
    /// Hands all wanted paths to the workers.
    fn paths(
        &mut self,
        wanted: &[Wanted],
        jobs: mpsc::Sender<Job<'p>>,
    ) -> Result<(), ReceiveError> {
        let mut left: HashMap<u32, u64> = wanted.iter().map(|w| (w.path, w.from)).collect();
        let mut decoder = Decoder::new(self.pipeline.pool.clone(), window_log());
        let mut current: Option<(u32, u64, mpsc::Sender<Piece>)> = None;
        while !left.is_empty() || current.is_some() {
            let (header, piece) = self.next(&mut decoder)?;
            let index = header.path;
            let (_, offset, sender) = match &mut current {
                Some(current) => current,
                None => {
                    let Some(from) = left.remove(&index).filter(|from| *from == header.offset)
                    else {
                        return Err(ReceiveError::Block(format!(
                            "path {index} at byte {}, where a path that is still wanted had to begin",
                            header.offset
                        )));
                    };
                    let entry = &self.closure.entries[index as usize];
                    let (sender, pieces) = mpsc::channel();
                    let resumed = self.resumed.remove(&index);
                    // That no worker is left shows at the next look at the state.
                    let _ = jobs.send(Job { entry, index, resumed, pieces });
                    current.insert((index, from, sender))
                }
            };
            let at = (*offset, sender.clone());
            let (path, _, _) = current.as_ref().map_or((index, 0, ()), |c| (c.0, c.1, ()));
            let entry = &self.closure.entries[path as usize];
            let end = check(&header, path, at.0, entry)?;
            self.reserve(piece.cost())?;
            let _ = at.1.send(piece);
            current = match header.last {
                true => None,
                false => Some((path, end, at.1)),
            };
        }
        // The end of a frame may be in a block of its own, which nobody else would take.
        while decoder.in_frame() {
            self.block(&mut decoder)?;
        }
        Ok(())
    }

    /// The next piece, in order.
    fn next(&mut self, decoder: &mut Decoder) -> Result<(BlockHeader, Piece), ReceiveError> {
        loop {
            // A block may become many pieces.
            self.look()?;
            if let Some(next) = decoder.next()? {
                return Ok(next);
            }
            self.block(decoder)?;
        }
    }

    /// Takes the next block.
    fn block(&mut self, decoder: &mut Decoder) -> Result<(), ReceiveError> {
        self.look()?;
        let block = self.source.next_block().map_err(ReceiveError::Source)?;
        self.look()?;
        decoder.take(block.header, block.data)
    }

    /// Reports progress; an error if there is a reason to stop.
    fn look(&mut self) -> Result<(), ReceiveError> {
        let (stop, progress) = {
            let state = self.pipeline.lock();
            (state.stop, state.progress)
        };
        (self.progress)(progress);
        // Of a stop the worker that asked for it knows the reason.
        if stop || self.cancel.load(Ordering::Relaxed) {
            return Err(ReceiveError::Cancelled);
        }
        Ok(())
    }

    /// Waits until `bytes` more may wait.
    fn reserve(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        self.wait_until(|state| state.waiting == 0 || state.waiting + bytes <= BUDGET)?;
        self.pipeline.lock().waiting += bytes;
        Ok(())
    }

    /// Waits until the workers are through. Bounded by the speed of the disk alone.
    fn wait_for_all(&mut self) -> Result<(), ReceiveError> {
        self.wait_until(|state| state.progress.paths == state.progress.paths_total)?;
        self.look()
    }

    fn wait_until(&mut self, ready: impl Fn(&State) -> bool) -> Result<(), ReceiveError> {
        loop {
            {
                let state = self.pipeline.lock();
                if ready(&state) {
                    return Ok(());
                }
                if !state.stop {
                    // Poisoned or timed out, the state is looked at again.
                    let _ = self.pipeline.changed.wait_timeout(state, TICK);
                }
            }
            self.look()?;
        }
    }
}

/// Checks that a block continues a path; returns where the next one has to begin.
fn check(
    header: &BlockHeader,
    index: u32,
    offset: u64,
    entry: &Entry<'_>,
) -> Result<u64, ReceiveError> {
    let wrong = |what: String| Err(ReceiveError::Block(format!("{}: {what}", entry.info.path)));
    if (header.path, header.offset) != (index, offset) {
        return wrong(format!(
            "path {} at byte {}, where path {index} at byte {offset} had to follow",
            header.path, header.offset
        ));
    }
    let end = offset + u64::from(header.raw_len);
    let size = entry.info.nar_size;
    if end > size || header.last != (end == size) {
        return wrong(format!("it ends at byte {end}, and the NAR at {size}"));
    }
    if header.raw_len == 0 {
        return wrong("an empty block".to_owned());
    }
    Ok(end)
}
