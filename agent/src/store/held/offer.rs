//! Cuts what is held into chunks beside the transfer, and gives their bytes back.
//!
//! Bounded in everything: what is read of a path, the time, the chunks, the memory. Where a bound is
//! reached, fewer chunks are offered.

use super::archive::{Archive, Files, Place, Recorder};
use super::{Alike, Held};
use crate::store::buffer::{Buffer, Pool};
use crate::store::decode::Inflater;
use crate::store::nar::dump::dump_contents;
use keystone_protocol::chunks::{ChunkHash, MAX_OFFERED, Part, hash, read_parts, to_text};
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long chunks are cut.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of memory for where they are.
const MEMORY: usize = 16 << 20;
/// What is read of a path that is like a wanted one is this much and twice as long as that one is.
const SPARE: u64 = 8 << 20;

/// What is said of chunks that were cut: for which wanted path, the first one's number, and their
/// hashes as text. `false` if nobody hears it.
pub type Tell = Box<dyn FnMut(u32, u32, String) -> bool + Send>;

/// Why a block's chunks are not given back.
#[derive(Debug)]
pub enum RestoreError {
    /// They were never offered, or are not as long together as the block.
    Wrong(&'static str),
    /// They are not there any more.
    Gone(io::Error),
}

/// Chunks that were cut.
#[derive(Debug, Default)]
struct Table {
    archives: Vec<Archive>,
    /// In which of them, and where.
    chunks: Vec<(u32, Place)>,
}

impl Table {
    fn cost(&self) -> usize {
        let archives: usize = self.archives.iter().map(Archive::cost).sum();
        archives + self.chunks.len() * size_of::<(u32, Place)>()
    }
}

/// Chunks that are offered; nothing is open any more when it is dropped.
pub struct Offer {
    held: Arc<Held>,
    table: Arc<Mutex<Table>>,
    files: Files,
    inflater: Inflater,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Offer {
    /// Starts to cut what is like these wanted paths, in this order.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(held: Arc<Held>, paths: Vec<u32>, tell: Tell) -> io::Result<Offer> {
        let (table, stop) = (Arc::<Mutex<Table>>::default(), Arc::<AtomicBool>::default());
        let cutting = Cutting {
            held: Arc::clone(&held),
            table: Arc::clone(&table),
            stop: Arc::clone(&stop),
            seen: HashSet::new(),
            looked_at: HashSet::new(),
            began: Instant::now(),
            tell,
        };
        let thread =
            thread::Builder::new().name("chunks".to_owned()).spawn(move || cutting.run(&paths))?;
        let inflater = Inflater::new(Pool::default());
        let (files, thread) = (Files::default(), Some(thread));
        Ok(Offer { held, table, files, inflater, stop, thread })
    }

    /// The bytes of a block of `length` bytes that is put together from chunks; `data` are the
    /// block's.
    ///
    /// # Errors
    /// They are not as long together, were never offered, or are not there any more.
    pub fn restore(
        &mut self,
        data: &[u8],
        length: u32,
        pool: &Pool,
    ) -> Result<Buffer, RestoreError> {
        let wrong = |_| RestoreError::Wrong("bytes between chunks that can't be decompressed");
        let (parts, bytes, plain) = read_parts(data, length)
            .ok_or(RestoreError::Wrong("parts that can't be a block's bytes"))?;
        let table = lock(&self.table);
        // Before memory is taken for it.
        let lengths = parts.clone().map(|part| match part {
            Part::Bytes(length) => Some(u64::from(length)),
            Part::Chunk(number) => Some(table.chunks.get(number as usize)?.1.length.into()),
        });
        match lengths.sum::<Option<u64>>() {
            None => return Err(RestoreError::Wrong("a chunk that was not offered")),
            Some(sum) if sum != u64::from(length) => {
                return Err(RestoreError::Wrong("chunks of another length than announced"));
            }
            Some(_) => {}
        }
        let inflated = match bytes.len() == plain {
            true => None,
            false => Some(self.inflater.inflate(bytes, plain).map_err(wrong)?),
        };
        let mut bytes = inflated.as_deref().unwrap_or(bytes);
        let mut out = pool.take(length as usize);
        let mut left = &mut out[..];
        for part in parts {
            let length = match part {
                Part::Bytes(length) => length,
                Part::Chunk(number) => table.chunks[number as usize].1.length,
            };
            // As long as they were found to be above.
            let (now, rest) = left.split_at_mut(length as usize);
            match part {
                Part::Bytes(_) => {
                    let (these, others) = bytes.split_at(now.len());
                    now.copy_from_slice(these);
                    bytes = others;
                }
                Part::Chunk(number) => {
                    let (archive, place) = &table.chunks[number as usize];
                    let archive = *archive as usize;
                    let of = (archive, &table.archives[archive]);
                    let read = self.files.read(&self.held, of, place.at, now);
                    read.map_err(RestoreError::Gone)?;
                    if hash(now) != place.hash {
                        return Err(RestoreError::Gone(io::Error::other("it has changed")));
                    }
                }
            }
            left = rest;
        }
        Ok(out)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that cuts chunks died; this is a fault of the program");
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that cuts.
struct Cutting {
    held: Arc<Held>,
    table: Arc<Mutex<Table>>,
    stop: Arc<AtomicBool>,
    seen: HashSet<ChunkHash>,
    looked_at: HashSet<(usize, String)>,
    began: Instant,
    tell: Tell,
}

impl Cutting {
    fn run(mut self, paths: &[u32]) {
        let held = Arc::clone(&self.held);
        for &path in paths {
            let first = lock(&self.table).chunks.len() as u32;
            let hashes = held.alike.get(&path).map_or_else(Vec::new, |alike| self.cut(alike));
            // Also that there are none: who asked waits for it.
            if self.stop.load(Ordering::Relaxed) || !(self.tell)(path, first, to_text(&hashes)) {
                return;
            }
        }
        let table = lock(&self.table);
        let cost = table.cost() >> 10;
        tracing::info!("{} chunks of paths here are offered, {cost} KiB", table.chunks.len());
    }

    /// Cuts what is like a path; returns the hashes of the chunks that are new.
    fn cut(&mut self, alike: &Alike) -> Vec<ChunkHash> {
        let mut hashes = Vec::new();
        for (store, name) in &alike.candidates {
            if !self.looked_at.insert((*store, name.clone())) {
                continue;
            }
            let (before, count) = {
                let table = lock(&self.table);
                (table.cost(), table.chunks.len())
            };
            let limit = 2 * alike.size + SPARE;
            let go_on = |offset: u64, cost: usize| {
                offset < limit
                    && before + cost < MEMORY
                    && self.began.elapsed() < TIME
                    && !self.stop.load(Ordering::Relaxed)
            };
            if count >= MAX_OFFERED || !go_on(0, 0) {
                break;
            }
            let mut recorder = Recorder::new(*store, &go_on);
            let dumped = dump_contents(self.held.stores[*store].fd.as_fd(), name, &mut recorder);
            if let Err(error) = dumped {
                // What was read of it until then counts.
                tracing::debug!("{name} is offered in part: {error}");
            }
            let (archive, mut places) = recorder.end();
            places.retain(|place| self.seen.insert(place.hash));
            places.truncate(MAX_OFFERED - count);
            let mut table = lock(&self.table);
            let number = table.archives.len() as u32;
            table.archives.push(archive);
            hashes.extend(places.iter().map(|place| place.hash));
            table.chunks.extend(places.into_iter().map(|place| (number, place)));
        }
        hashes
    }
}
