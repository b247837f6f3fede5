//! The closure, from blocks to registered paths.
//!
//! ```text
//! source ─ blocks ─▶ caller's thread: order, decompression
//!                        │ pieces of NARs, at most BUDGET bytes waiting
//!                        ▼
//!                    workers, a path each: parse, hash, write below a temporary name
//!                        │ hash and size right: rename
//!                        ▼
//!                    sync the file system, then one transaction in the database
//! ```
//!
//! A path has its own name only when its NAR was whole and right, and is registered only when it
//! is on the disk. So what an interrupted run leaves can be used: registered paths are not asked
//! for again, and paths that are there without being registered are hashed again.

use super::closure::{Closure, Entry, ManifestError};
use super::db::{self, DbError, Derivation};
use super::fs::{FsError, Io, OpenDir, remove_tree};
use super::nar::dump::measure;
use super::nar::parse::{FeedError, FormatError, Parser};
use super::nar::unpack::{Unpacker, own_umask};
use super::{Store, derivation};
use crate::ensure::Ensured;
use keystone_protocol::frame::{BlockHeader, Encoding};
use keystone_protocol::manifest::Manifest;
use nix::fcntl::renameat;
use sha2::{Digest, Sha256};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// How many bytes may wait for the workers.
const BUDGET: usize = 32 << 20;
/// How many paths are unpacked at once.
const WORKERS: usize = 2;
/// How temporary names in the store begin.
pub(super) const TEMPORARY: &str = ".keystone-";
/// How often a wait looks at the cancel flag and reports progress.
const TICK: Duration = Duration::from_millis(200);

/// Why a source failed.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where the closure comes from.
///
/// After [`ClosureSource::want`] the blocks of exactly the wanted paths come, a path's blocks one
/// after another from its first byte to its last, paths in any order.
pub trait ClosureSource {
    /// Asks for the paths with these indices in the manifest. Called once; no blocks follow an
    /// empty list.
    fn want(&mut self, paths: &[u32]) -> Result<(), SourceError>;
    /// The next block, as it came.
    fn next_block(&mut self) -> Result<(BlockHeader, Vec<u8>), SourceError>;
}

/// How far a closure is received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// NAR bytes unpacked.
    pub bytes: u64,
    /// NAR bytes to unpack in all, without the paths that are there already.
    pub bytes_total: u64,
    /// Paths unpacked and verified.
    pub paths: u64,
    /// Paths to unpack in all.
    pub paths_total: u64,
}

/// What receiving did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Whether something was unpacked or registered.
    pub ensured: Ensured,
    /// How far it got: to the end.
    pub progress: Progress,
    /// Paths of the closure that were there already.
    pub present: u64,
}

/// Why a closure was not received.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The manifest is not a closure.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The source failed.
    #[error("the source of the closure failed")]
    Source(#[source] SourceError),
    /// The source sent a block that has no place.
    #[error("the source sent a wrong block: {0}")]
    Block(String),
    /// A block could not be decompressed.
    #[error("could not decompress a block of {path}")]
    Decompress {
        /// Of which path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What came is no NAR.
    #[error("what came for {path} can't be unpacked")]
    Format {
        /// For which path.
        path: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// What came is another NAR.
    #[error(
        "what came for {path} has SHA-256 {found}, and the source's database says {expected}: \
         the source's store is damaged (`nix-store --verify --check-contents` finds more) or it \
         was changed on the way"
    )]
    Hash {
        /// For which path.
        path: String,
        /// What the manifest says.
        expected: String,
        /// What came.
        found: String,
    },
    /// A derivation whose outputs can't be read.
    #[error("{0} is not a derivation that can be read")]
    Derivation(String),
    /// The store could not be written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The database could not be written.
    #[error(transparent)]
    Db(#[from] DbError),
    /// It was told to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A worker died of a fault of the program.
    #[error("a worker died; this is a fault of the program")]
    Worker,
}

impl Store {
    /// Receives what is missing of a closure, and registers the closure.
    ///
    /// `progress` is called often, from this thread. `cancel` is looked at between blocks. On
    /// error no path has its name that is not whole.
    pub fn receive(
        &self,
        manifest: &Manifest,
        source: &mut dyn ClosureSource,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<Received, ReceiveError> {
        let closure = Closure::check(manifest)?;
        let wanted = self.missing(&closure, cancel)?;
        source.want(&wanted).map_err(ReceiveError::Source)?;
        let entries = || wanted.iter().map(|&i| &closure.entries[i as usize]);
        let total = Progress {
            bytes_total: entries().map(|e| e.info.nar_size).sum(),
            paths_total: wanted.len() as u64,
            ..Progress::default()
        };
        progress(total);
        let reached =
            Pipeline::new(&self.store, total).run(&closure, &wanted, source, progress, cancel)?;
        let derivations = self.derivations(&closure)?;
        nix::unistd::syncfs(&self.store.fd).at("sync", &self.store.path)?;
        nix::unistd::syncfs(&self.db.fd).at("sync", &self.db.path)?;
        // Nix takes 0 for "unknown"; a machine's clock may start there.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs().max(1));
        let added = db::register(&self.db, &closure, &derivations, now as i64)?;
        nix::unistd::syncfs(&self.db.fd).at("sync", &self.db.path)?;
        let changed = added > 0 || !wanted.is_empty();
        Ok(Received {
            ensured: if changed { Ensured::Created } else { Ensured::AlreadySo },
            progress: reached,
            present: (closure.entries.len() - wanted.len()) as u64,
        })
    }

    /// The paths that have to come, by their index. Removes what stands in their place.
    fn missing(&self, closure: &Closure, cancel: &AtomicBool) -> Result<Vec<u32>, ReceiveError> {
        let registered = db::registered(&self.db, closure)?;
        let mut missing = Vec::new();
        for (i, (entry, registered)) in closure.entries.iter().zip(registered).enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(ReceiveError::Cancelled);
            }
            if self.store.stat(entry.base)?.is_some() {
                if registered || self.is_whole(entry) {
                    continue;
                }
                remove_tree(&self.store.fd, entry.base.as_bytes())
                    .at_with("remove", || self.store.path.join(entry.base))?;
            }
            missing.push(i as u32);
        }
        Ok(missing)
    }

    fn is_whole(&self, entry: &Entry) -> bool {
        // What can't be read is not whole.
        measure(self.store.fd.as_fd(), entry.base).is_ok_and(|found| {
            found.sha256 == entry.sha256
                && found.size == entry.info.nar_size
                && found.deviation.is_none()
        })
    }

    fn derivations(&self, closure: &Closure) -> Result<Vec<Derivation>, ReceiveError> {
        let is_derivation = |(_, entry): &(usize, &Entry)| entry.base.ends_with(".drv");
        closure
            .entries
            .iter()
            .enumerate()
            .filter(is_derivation)
            .map(|(i, entry)| {
                let text = self.store.read(entry.base)?;
                let outputs = std::str::from_utf8(&text).ok().and_then(derivation::outputs);
                Ok((i, outputs.ok_or_else(|| ReceiveError::Derivation(entry.info.path.clone()))?))
            })
            .collect()
    }
}

/// A path on its way to a worker.
struct Job<'a> {
    entry: &'a Entry<'a>,
    index: u32,
    pieces: mpsc::Receiver<Vec<u8>>,
}

/// What the threads share.
struct Pipeline<'a> {
    store: &'a OpenDir,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: usize,
    progress: Progress,
    failure: Option<ReceiveError>,
    stop: bool,
}

impl<'a> Pipeline<'a> {
    fn new(store: &'a OpenDir, progress: Progress) -> Self {
        let state = State { waiting: 0, progress, failure: None, stop: false };
        Pipeline { store, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn run(
        &self,
        closure: &Closure,
        wanted: &[u32],
        source: &mut dyn ClosureSource,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<Progress, ReceiveError> {
        if wanted.is_empty() {
            return Ok(self.lock().progress);
        }
        let (sender, jobs) = mpsc::channel();
        let jobs = Mutex::new(jobs);
        let fed = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| self.work(&jobs))).collect();
            let mut feed = Feed { pipeline: self, closure, source, progress, cancel };
            // `sender` goes out of use in there, which ends the workers once they are through.
            let fed = feed.paths(wanted, sender).and_then(|()| feed.wait_for_all());
            self.lock().stop = true;
            let died = workers.into_iter().filter_map(|worker| worker.join().err()).count() > 0;
            if died { Err(ReceiveError::Worker) } else { fed }
        });
        let mut state = self.lock();
        // A worker's failure is the cause of what the feeding thread saw of it.
        match state.failure.take() {
            Some(failure) => Err(failure),
            None => fed.map(|()| state.progress),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A worker's life: one path after another, until no more come or something failed.
    fn work(&self, jobs: &Mutex<mpsc::Receiver<Job<'_>>>) {
        let result = own_umask().map_err(ReceiveError::Fs).and_then(|()| {
            loop {
                let next = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                let Ok(job) = next else { return Ok(()) };
                if !self.unpack(job)? {
                    return Ok(());
                }
            }
        });
        if let Err(error) = result {
            let mut state = self.lock();
            state.stop = true;
            state.failure.get_or_insert(error);
        }
        self.changed.notify_all();
    }

    /// Unpacks a path and gives it its name. `false` if it was told to stop.
    fn unpack(&self, job: Job<'_>) -> Result<bool, ReceiveError> {
        let info = job.entry.info;
        let format = |source| ReceiveError::Format { path: info.path.clone(), source };
        let temporary = format!("{TEMPORARY}{}-{}", std::process::id(), job.index);
        let unpacker = Unpacker::new(self.store.fd.as_fd(), temporary);
        let mut parser = Parser::new(unpacker, info.nar_size);
        let mut sha256 = Sha256::new();
        while parser.offset() < info.nar_size {
            // The sender goes away without the last piece when it stops.
            let Ok(piece) = job.pieces.recv() else { return Ok(false) };
            sha256.update(&piece);
            parser.feed(&piece).map_err(|error| match error {
                FeedError::Format(error) => format(error),
                FeedError::Sink(error) => ReceiveError::Fs(error),
            })?;
            let mut state = self.lock();
            state.waiting -= piece.len();
            state.progress.bytes += piece.len() as u64;
            if state.stop {
                return Ok(false);
            }
            drop(state);
            self.changed.notify_all();
        }
        let unpacker = parser.finish().map_err(format)?;
        let found: [u8; 32] = sha256.finalize().into();
        if found != job.entry.sha256 {
            return Err(ReceiveError::Hash {
                path: info.path.clone(),
                expected: info.nar_sha256.clone(),
                found: hex::encode(found),
            });
        }
        renameat(&self.store.fd, unpacker.name(), &self.store.fd, job.entry.base)
            .at_with("name", || self.store.path.join(job.entry.base))?;
        unpacker.keep();
        self.lock().progress.paths += 1;
        self.changed.notify_all();
        Ok(true)
    }
}

/// The caller's side of the pipeline.
struct Feed<'f, 'p> {
    pipeline: &'f Pipeline<'p>,
    closure: &'f Closure<'f>,
    source: &'f mut dyn ClosureSource,
    progress: &'f mut dyn FnMut(Progress),
    cancel: &'f AtomicBool,
}

impl<'f> Feed<'f, '_> {
    /// Hands all wanted paths to the workers.
    fn paths(&mut self, wanted: &[u32], jobs: mpsc::Sender<Job<'f>>) -> Result<(), ReceiveError> {
        let mut left: std::collections::HashSet<u32> = wanted.iter().copied().collect();
        let mut zstd = zstd::bulk::Decompressor::new().map_err(|source| {
            ReceiveError::Decompress { path: "the first path".to_owned(), source }
        })?;
        while !left.is_empty() {
            let (header, data) = self.next()?;
            let index = header.path;
            if header.offset != 0 || !left.remove(&index) {
                return Err(ReceiveError::Block(format!(
                    "path {index} at byte {}, where a path that is still wanted had to begin",
                    header.offset
                )));
            }
            let entry = &self.closure.entries[index as usize];
            let (sender, pieces) = mpsc::channel();
            // That no worker is left shows at the next look at the state.
            let _ = jobs.send(Job { entry, index, pieces });
            let (mut header, mut data) = (header, data);
            let mut offset = 0;
            loop {
                let piece = decode(&mut zstd, &header, data, entry)?;
                offset = check(&header, index, offset, entry)?;
                self.reserve(piece.len())?;
                let _ = sender.send(piece);
                if header.last {
                    break;
                }
                (header, data) = self.next()?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(BlockHeader, Vec<u8>), ReceiveError> {
        self.look()?;
        let block = self.source.next_block().map_err(ReceiveError::Source)?;
        self.look()?;
        Ok(block)
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

/// A block's data, decompressed.
fn decode(
    zstd: &mut zstd::bulk::Decompressor<'_>,
    header: &BlockHeader,
    data: Vec<u8>,
    entry: &Entry,
) -> Result<Vec<u8>, ReceiveError> {
    let raw_len = header.raw_len as usize;
    let data = match header.encoding {
        Encoding::Raw => data,
        Encoding::Zstd => zstd
            .decompress(&data, raw_len)
            .map_err(|source| ReceiveError::Decompress { path: entry.info.path.clone(), source })?,
    };
    if data.len() != raw_len {
        return Err(ReceiveError::Block(format!(
            "{} bytes for {}, {raw_len} were announced",
            data.len(),
            entry.info.path
        )));
    }
    Ok(data)
}

/// Checks that a block continues a path; returns where the next one has to begin.
fn check(
    header: &BlockHeader,
    index: u32,
    offset: u64,
    entry: &Entry,
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
