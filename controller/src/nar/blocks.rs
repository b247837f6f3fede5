//! Cuts NARs into blocks, compresses those where it helps, and hands them out in order.
//!
//! ```text
//! readers ─ pieces ─▶ order: how is each to be encoded? ─┬─▶ compressors, or
//!                                                        └─▶ one stream's compressor
//! whoever sends takes finished blocks in the order in which they were cut
//! ```
//!
//! Every queue is bounded: beside what the readers have, at most [`AHEAD`] blocks are in memory,
//! and a stream's compressor has its window and what its threads work on.

use super::compress::{Alone, Stream};
use super::pace::{Method, Pace};
use super::read::{Piece, Reader};
use crate::closure::{ClosureError, ClosureSource};
use bytes::Bytes;
use keystone_protocol::frame::{self, BlockHeader, EncodedBlockHeader, Encoding, FrameError};
use keystone_protocol::manifest::PathInfo;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as sync};
use std::thread;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a NAR in one block, before compression.
pub const BLOCK: usize = 1 << 20;
/// Blocks in memory.
pub const AHEAD: usize = 16;
/// The most threads that compress.
const COMPRESSORS: usize = 16;

/// No more blocks come.
#[derive(Debug, Error)]
pub enum BlockError {
    /// A path can't be read or packed.
    #[error(transparent)]
    Source(#[from] ClosureError),
    /// A block can't be compressed.
    #[error("can't compress")]
    Compress(#[source] io::Error),
    /// A block does not fit the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A thread can't be started, or died.
    #[error("a thread that packs store paths failed: {0}")]
    Thread(String),
}

/// A block as it is sent.
#[derive(Debug, Clone)]
pub struct Block {
    /// What goes before the data.
    pub header: EncodedBlockHeader,
    /// The data, encoded.
    pub data: Bytes,
    /// Length of the data once decoded, in bytes.
    pub raw_len: u32,
}

/// A path to pack.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its index in the manifest.
    pub index: u32,
    /// What the manifest says of it.
    pub info: PathInfo,
    /// The first byte of its NAR that is to be sent.
    pub from: u64,
}

type Done = Result<Vec<Block>, BlockError>;

/// The blocks of a list of paths, in order.
#[derive(Debug)]
pub struct Blocks {
    queue: mpsc::Receiver<oneshot::Receiver<Done>>,
    /// The one that is waited for.
    next: Option<oneshot::Receiver<Done>>,
    /// What came of it, last first.
    finished: Vec<Block>,
    ready: Arc<AtomicUsize>,
}

impl Blocks {
    /// Starts packing. `pace` decides how blocks are encoded; frames that go on over blocks have
    /// a window of 2^`window_log` bytes.
    pub fn start(
        source: Arc<dyn ClosureSource>,
        items: Vec<Item>,
        pace: Arc<Pace>,
        window_log: u32,
    ) -> Result<Self, BlockError> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map(drop)
                .map_err(|e| BlockError::Thread(e.to_string()))
        };
        let (queue_in, queue) = mpsc::channel(AHEAD);
        let (jobs_in, jobs) = sync::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let ready = Arc::new(AtomicUsize::new(0));
        let compressors = thread::available_parallelism().map_or(2, |n| n.get());
        for _ in 0..compressors.clamp(1, COMPRESSORS) {
            let (jobs, ready) = (Arc::clone(&jobs), Arc::clone(&ready));
            let pace = Arc::clone(&pace);
            spawn("nar-compress", Box::new(move || compress(&jobs, &pace, &ready)))?;
        }
        let left = items.iter().map(|item| item.info.nar_size - item.from).sum();
        let reader = Reader::start(source, items)?;
        let counter = Arc::clone(&ready);
        let order =
            Order { queue: queue_in, jobs: jobs_in, pace, window_log, left, ready: counter };
        spawn("nar-order", Box::new(move || order.run(reader)))?;
        Ok(Blocks { queue, next: None, finished: Vec::new(), ready })
    }

    /// The next block; `None` after the last. After an error nothing more comes.
    ///
    /// Cancel safe: nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Block, BlockError>> {
        loop {
            if let Some(block) = self.finished.pop() {
                return Some(Ok(block));
            }
            if self.next.is_none() {
                self.next = Some(self.queue.recv().await?);
            }
            let waited = self.next.as_mut()?.await;
            self.next = None;
            self.ready.fetch_sub(1, Ordering::Relaxed);
            match waited.unwrap_or_else(|_| Err(BlockError::Thread("it ended early".into()))) {
                Ok(mut blocks) => {
                    blocks.reverse();
                    self.finished = blocks;
                }
                Err(error) => {
                    self.queue.close();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A piece to be made a block.
struct Job {
    piece: Piece,
    level: Option<i32>,
    done: oneshot::Sender<Done>,
}

/// The thread that decides how pieces are encoded.
struct Order {
    queue: mpsc::Sender<oneshot::Receiver<Done>>,
    jobs: sync::Sender<Job>,
    pace: Arc<Pace>,
    window_log: u32,
    /// NAR bytes still to come.
    left: u64,
    /// Blocks that are finished and not sent.
    ready: Arc<AtomicUsize>,
}

impl Order {
    fn run(mut self, mut reader: Reader) {
        let mut stream: Option<Stream> = None;
        while let Some(piece) = reader.next() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    let (done, finished) = oneshot::channel();
                    let _ = done.send(Err(error.into()));
                    self.ready.fetch_add(1, Ordering::Relaxed);
                    let _ = self.queue.blocking_send(finished);
                    return;
                }
            };
            let ready = self.ready.load(Ordering::Relaxed) as f64 / AHEAD as f64;
            let method = self.pace.method(self.left, ready);
            self.left -= piece.raw.len() as u64;
            let level = match method {
                Method::Raw => None,
                Method::Alone(level) => Some(level),
                Method::Stream(level) => {
                    let blocks = self.stream(&mut stream, piece, level);
                    if !self.finish(blocks) {
                        return;
                    }
                    continue;
                }
            };
            if let Some(stream) = stream.take() {
                let at = (piece.path, piece.offset);
                if !self.finish(end(stream, Vec::new(), None, at)) {
                    return;
                }
            }
            let (done, finished) = oneshot::channel();
            // That nobody takes it any more shows at the queue.
            let sent = self.queue.blocking_send(finished).is_ok();
            if !sent || self.jobs.send(Job { piece, level, done }).is_err() {
                return;
            }
        }
    }

    /// Hands out finished blocks; `false` if nobody takes them.
    fn finish(&self, blocks: Done) -> bool {
        let failed = blocks.is_err();
        let (done, finished) = oneshot::channel();
        let _ = done.send(blocks);
        self.ready.fetch_add(1, Ordering::Relaxed);
        self.queue.blocking_send(finished).is_ok() && !failed
    }

    /// Adds a piece to the stream, which ends with the last one.
    fn stream(&self, stream: &mut Option<Stream>, piece: Piece, level: i32) -> Done {
        let mut current = match stream.take() {
            Some(stream) => stream,
            None => Stream::new(level, self.window_log).map_err(BlockError::Compress)?,
        };
        let mut data = Vec::new();
        let began = Instant::now();
        current.take(&piece.raw, level, &mut data).map_err(BlockError::Compress)?;
        self.pace.packed(began.elapsed());
        let Piece { path, offset, last, raw } = piece;
        let raw_len = raw.len() as u32;
        let encoding = Encoding::Stream { end: false };
        let header = BlockHeader { path, offset, raw_len, encoding, last };
        if self.left == 0 {
            return end(current, data, Some(header), (path, offset));
        }
        *stream = Some(current);
        Ok(split(header, data, false)?)
    }
}

/// The blocks with a stream's last bytes.
fn end(mut stream: Stream, mut data: Vec<u8>, header: Option<BlockHeader>, at: (u32, u64)) -> Done {
    stream.end(&mut data).map_err(BlockError::Compress)?;
    let (path, offset) = at;
    let encoding = Encoding::Stream { end: false };
    let nothing = BlockHeader { path, offset, raw_len: 0, encoding, last: false };
    Ok(split(header.unwrap_or(nothing), data, true)?)
}

/// One block that announces what `header` does, and others with what of the data did not fit.
fn split(header: BlockHeader, data: Vec<u8>, end: bool) -> Result<Vec<Block>, FrameError> {
    let data = Bytes::from(data);
    let count = data.len().div_ceil(BLOCK).max(1);
    let block = |i: usize| {
        let data = data.slice(i * BLOCK..data.len().min((i + 1) * BLOCK));
        let first = if i == 0 { header } else { BlockHeader { raw_len: 0, last: false, ..header } };
        let encoding = Encoding::Stream { end: end && i + 1 == count };
        encoded(BlockHeader { encoding, ..first }, data)
    };
    (0..count).map(block).collect()
}

fn encoded(header: BlockHeader, data: Bytes) -> Result<Block, FrameError> {
    let raw_len = header.raw_len;
    Ok(Block { header: frame::encode_block_header(&header, &data)?, data, raw_len })
}

/// A compressor's life.
fn compress(jobs: &Mutex<sync::Receiver<Job>>, pace: &Pace, ready: &AtomicUsize) {
    let mut alone = Alone::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { piece, level, done }) = job else { return };
        let (began, length) = (Instant::now(), piece.raw.len());
        let block = encode(&mut alone, piece, level);
        if level.is_some() {
            pace.compressed(length, began.elapsed());
        }
        let _ = done.send(block.map(|block| vec![block]));
        ready.fetch_add(1, Ordering::Relaxed);
    }
}

fn encode(alone: &mut Alone, piece: Piece, level: Option<i32>) -> Result<Block, BlockError> {
    let Piece { path, offset, last, raw } = piece;
    let raw_len = raw.len() as u32;
    let packed = match level {
        None => None,
        Some(level) => alone.compress(&raw, level).map_err(BlockError::Compress)?,
    };
    let (encoding, data) = match packed {
        Some(packed) => (Encoding::Zstd, packed),
        None => (Encoding::Raw, raw),
    };
    Ok(encoded(BlockHeader { path, offset, raw_len, encoding, last }, data.into())?)
}

#[cfg(test)]
mod tests {
    use super::super::pace::Sent;
    use super::*;
    use crate::nar::DumpError;
    use keystone_protocol::frame::Frame;
    use proptest::prelude::*;
    use std::io::Write;
    use std::time::Duration;

    /// Bytes that are their own NAR.
    struct Given(Vec<Vec<u8>>);

    impl ClosureSource for Given {
        fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
            let index: usize = path.path.parse().unwrap();
            out.write_all(&self.0[index]).map_err(DumpError::Sink)
        }
    }

    fn wanted(paths: &[Vec<u8>], announce: impl Fn(u64) -> u64) -> Vec<Item> {
        let info = |(i, data): (usize, &Vec<u8>)| {
            let info = PathInfo {
                path: i.to_string(),
                nar_sha256: String::new(),
                nar_size: announce(data.len() as u64),
                references: vec![],
                deriver: None,
                signatures: vec![],
                ca: None,
            };
            Item { index: i as u32, info, from: 0 }
        };
        paths.iter().enumerate().map(info).collect()
    }

    /// A line of that rate, in bytes per second.
    fn line(rate: f64) -> Arc<Pace> {
        let pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            let took = Duration::from_secs_f64((1 << 20) as f64 / rate);
            now += Duration::from_millis(20);
            // However busy this computer is.
            pace.note(Sent { bytes: 1 << 20, took, ..Sent::default() }, now, |_| Some(0.5));
        }
        assert!(pace.rate().is_some());
        Arc::new(pace)
    }

    fn receive(
        paths: Vec<Vec<u8>>,
        announce: impl Fn(u64) -> u64,
        pace: Arc<Pace>,
    ) -> Result<(Vec<Vec<u8>>, Vec<Encoding>), BlockError> {
        let count = paths.len();
        let list = wanted(&paths, announce);
        let mut blocks = Blocks::start(Arc::new(Given(paths)), list, pace, 27).unwrap();
        let mut out = vec![Vec::new(); count];
        let mut encodings = Vec::new();
        let mut last: Option<u32> = None;
        // Of a stream: its bytes, and which paths get how many of what comes out.
        let mut stream = (Vec::new(), Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        while let Some(block) = runtime.block_on(blocks.next()) {
            let block = block?;
            let header =
                frame::parse_header(block.header[..frame::HEADER].try_into().unwrap()).unwrap();
            let mut payload = block.header[frame::HEADER..].to_vec();
            payload.extend_from_slice(&block.data);
            let Frame::Block(header, data) = frame::parse_payload(&header, payload).unwrap() else {
                panic!("not a block")
            };
            encodings.push(header.encoding);
            let raw_len = header.raw_len as usize;
            let into = &mut out[header.path as usize];
            assert!(raw_len == 0 || into.len() as u64 == header.offset);
            match header.encoding {
                Encoding::Raw => into.extend_from_slice(&data),
                Encoding::Zstd => into.extend(zstd::bulk::decompress(&data, raw_len).unwrap()),
                Encoding::Stream { end } => {
                    stream.0.extend_from_slice(&data);
                    stream.1.push((header.path as usize, into.len(), raw_len));
                    into.resize(into.len() + raw_len, 0);
                    if end {
                        let (packed, parts) = std::mem::take(&mut stream);
                        let mut raw = &zstd::decode_all(&packed[..]).unwrap()[..];
                        for (path, at, length) in parts {
                            out[path][at..at + length].copy_from_slice(&raw[..length]);
                            raw = &raw[length..];
                        }
                        assert!(raw.is_empty());
                    }
                }
            }
            // Paths come one after the other.
            assert!(last.is_none_or(|l| header.path == l + 1) || header.offset > 0 || raw_len == 0);
            if header.last {
                last = Some(header.path);
            }
        }
        assert!(stream.0.is_empty());
        assert_eq!(last, count.checked_sub(1).map(|n| n as u32));
        Ok((out, encodings))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_goes_in_comes_out_in_order(
            lengths in proptest::collection::vec(prop_oneof![1usize..3000, (BLOCK - 3)..(BLOCK + 3), (2 * BLOCK)..(3 * BLOCK)], 0..6),
            random: bool,
            rate in prop_oneof![Just(1e9), Just(118e6), Just(10e6), Just(1e6)],
        ) {
            let paths: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, &n)| {
                let mut state = i as u32 + 1;
                (0..n).map(|j| {
                    state ^= state << 13; state ^= state >> 17; state ^= state << 5;
                    if random { state as u8 } else { (j / 100) as u8 }
                }).collect()
            }).collect();
            let (out, _) = receive(paths.clone(), |n| n, line(rate)).unwrap();
            prop_assert!(out == paths);
        }
    }

    #[test]
    fn another_size_than_announced_is_an_error() {
        let paths = vec![vec![1; 100], vec![2; 3000]];
        let grown =
            receive(paths.clone(), |n| if n == 3000 { 2000 } else { n }, line(1e9)).unwrap_err();
        assert!(grown.to_string().contains("2000"), "{grown}");
        let shrunk = receive(paths, |n| if n == 3000 { 4000 } else { n }, line(1e9)).unwrap_err();
        assert!(shrunk.to_string().contains("4000"), "{shrunk}");
    }

    #[test]
    fn the_line_decides_how() {
        let path: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
        let how = |rate| receive(vec![path.clone()], |n| n, line(rate)).unwrap().1;
        assert!(how(1e9).iter().all(|e| *e == Encoding::Raw));
        // Between the two it depends on how fast this computer compresses, too.
        let between = line(118e6);
        for ready in [0.0, 1.0] {
            assert!(matches!(between.method(1 << 30, ready), Method::Alone(_)));
        }
        let slow = how(5e6);
        assert!(slow.iter().all(|e| matches!(e, Encoding::Stream { .. })), "{slow:?}");
    }
}
