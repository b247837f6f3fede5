//! Cuts NARs into blocks, compresses those where it helps, and hands them out in order.
//!
//! ```text
//! readers ─ pieces ─▶ order: how is each to be encoded? ─┬─▶ compressors, or
//!                                                        ├─▶ one stream's compressor, or
//!                                                        └─▶ blocks that name what is there
//! whoever sends takes finished blocks in the order in which they were cut
//! ```
//!
//! Every queue is bounded: beside what the readers have, at most [`AHEAD`] bytes of blocks are in memory,
//! and a stream's compressor has its window and what its threads work on, which `means` bounds.

use super::delta::{Known, Splitter};
use super::means::cores;
use super::order::{Job, Order, compress};
use super::pace::Pace;
use super::read::{Given, Reader};
use super::room::{Place, Room};
use crate::closure::{ClosureError, ClosureSource};
use bytes::Bytes;
use keystone_protocol::frame::{self, BlockHeader, EncodedBlockHeader, Encoding, FrameError};
use keystone_protocol::manifest::PathInfo;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc as sync};
use std::thread;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a NAR in one block, before compression.
pub const BLOCK: usize = 1 << 20;
/// Bytes of blocks in memory: of those that are compressed alone, before that.
pub const AHEAD: usize = 16 << 20;
/// Blocks in memory, however small.
const BLOCKS_AHEAD: usize = 256;

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
    /// What that says of the data.
    pub what: BlockHeader,
    /// What is sent instead if it is asked for again, where the data name chunks.
    pub(super) plain: Option<(BlockHeader, Bytes)>,
}

impl Block {
    /// How much of the other end's credit it takes, in bytes.
    pub fn cost(&self) -> u64 {
        self.plain.as_ref().map_or(self.data.len(), |(_, raw)| raw.len()) as u64
    }

    /// Whether its data name chunks that the other end holds.
    pub fn names_chunks(&self) -> bool {
        self.plain.is_some()
    }

    /// A block that brings nothing, and is what anybody hears who waits for others: between two of a frame that
    /// goes on over blocks (`amid_frame`) one that announces nothing, else such a frame of no bytes. `at` is the
    /// path and the position in its NAR that it is said to have.
    ///
    /// # Errors
    /// It can't be made.
    pub fn nothing(at: (u32, u64), amid_frame: bool) -> Result<Block, BlockError> {
        let data = match amid_frame {
            true => Vec::new(),
            false => zstd::bulk::compress(&[], 1).map_err(BlockError::Compress)?,
        };
        let encoding = Encoding::Stream { end: !amid_frame };
        let header = BlockHeader { path: at.0, offset: at.1, raw_len: 0, encoding, last: false };
        Ok(encoded(header, data.into())?)
    }

    /// Gives it its place among the blocks.
    pub fn number(&mut self, number: u64) {
        frame::set_number(&mut self.header, number);
    }

    /// The block with its bytes, as it is sent when it was asked for again by its number.
    ///
    /// # Errors
    /// It does not fit the protocol.
    pub fn again(&self, number: u64) -> Result<Block, FrameError> {
        let mut block = match &self.plain {
            Some((header, raw)) => encoded(*header, raw.clone())?,
            None => self.clone(),
        };
        block.number(number);
        Ok(block)
    }
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

pub(super) type Done = Result<Vec<Block>, BlockError>;
/// The same and the room it takes until it is sent.
pub(super) type Finished = (Done, Option<Place>);

/// The blocks of a list of paths, in order.
#[derive(Debug)]
pub struct Blocks {
    queue: mpsc::Receiver<oneshot::Receiver<Finished>>,
    /// The one that is waited for.
    next: Option<oneshot::Receiver<Finished>>,
    /// What came of it, last first.
    finished: Vec<Block>,
    room: Arc<Room>,
    given: Given,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl Blocks {
    /// Starts packing. `pace` decides how blocks are encoded. `known` is what the other end holds.
    pub fn start(
        source: Arc<dyn ClosureSource>,
        items: Vec<Item>,
        pace: Arc<Pace>,
        known: Arc<Known>,
    ) -> Result<Self, BlockError> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map(drop)
                .map_err(|e| BlockError::Thread(e.to_string()))
        };
        let (queue_in, queue) = mpsc::channel(BLOCKS_AHEAD);
        let (jobs_in, jobs) = sync::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let room = Room::new(AHEAD);
        for _ in 0..cores() {
            let jobs = Arc::clone(&jobs);
            spawn("nar-compress", Box::new(move || compress(&jobs)))?;
        }
        let left = items.iter().map(|item| item.info.nar_size - item.from).sum();
        let paths = items.iter().map(|item| item.index).collect();
        let given = Given::default();
        let reader = Reader::start(source, items, &given)?;
        let order = Order {
            queue: queue_in,
            jobs: jobs_in,
            pace,
            left,
            room: Arc::clone(&room),
            known,
            paths,
            splitter: Splitter::default(),
            stream: None,
            at: (0, 0),
        };
        spawn("nar-order", Box::new(move || order.run(reader)))?;
        Ok(Blocks { queue, next: None, finished: Vec::new(), room, given })
    }

    /// A number that becomes larger whenever the source gives something, even if that is not to be sent.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
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
            let early = |_| (Err(BlockError::Thread("it ended early".into())), None);
            match waited.unwrap_or_else(early).0 {
                Ok(mut blocks) => {
                    blocks.reverse();
                    self.finished = blocks;
                }
                Err(error) => {
                    self.queue.close();
                    self.room.close();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A block with its header.
pub(super) fn encoded(header: BlockHeader, data: Bytes) -> Result<Block, FrameError> {
    let encoded = frame::encode_block_header(&header, &data)?;
    Ok(Block { header: encoded, data, what: header, plain: None })
}

#[cfg(test)]
mod tests {
    use super::super::pace::{Method, Seen, Sent};
    use super::*;
    use crate::nar::DumpError;
    use crate::nar::delta::Delta;
    use keystone_protocol::chunks::{ChunkHash, Cutter, Part, hash, read_parts};
    use keystone_protocol::frame::Frame;
    use proptest::prelude::*;
    use std::io::Write;
    use std::sync::Weak;
    use std::time::{Duration, Instant};

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
            pace.note(Sent { bytes: 1 << 20, took, ..Sent::default() }, now, |_| Seen::idle(0.5));
        }
        assert!(pace.rate().is_some());
        Arc::new(pace)
    }

    fn receive(
        paths: Vec<Vec<u8>>,
        announce: impl Fn(u64) -> u64,
        pace: Arc<Pace>,
    ) -> Result<(Vec<Vec<u8>>, Vec<Encoding>), BlockError> {
        receive_with(paths, announce, pace, Arc::new(Known::nothing()), &[])
    }

    /// The same of an end that holds `chunks`, as `known` knows.
    fn receive_with(
        paths: Vec<Vec<u8>>,
        announce: impl Fn(u64) -> u64,
        pace: Arc<Pace>,
        known: Arc<Known>,
        chunks: &[Vec<u8>],
    ) -> Result<(Vec<Vec<u8>>, Vec<Encoding>), BlockError> {
        let count = paths.len();
        let list = wanted(&paths, announce);
        let mut blocks = Blocks::start(Arc::new(Given(paths)), list, pace, known).unwrap();
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
                Encoding::Chunks => {
                    // What was announced before has come out.
                    let came = zstd_so_far(&stream.0);
                    let announced: usize = stream.1.iter().map(|(_, _, length)| length).sum();
                    assert_eq!(came, announced);
                    let before = into.len();
                    let (parts, bytes, length) = read_parts(&data, header.raw_len).unwrap();
                    let bytes = match bytes.len() == length {
                        true => bytes.to_vec(),
                        false => zstd::bulk::decompress(bytes, length).unwrap(),
                    };
                    let mut bytes = &bytes[..];
                    for part in parts {
                        match part {
                            Part::Chunk(number) => {
                                into.extend_from_slice(&chunks[number as usize]);
                            }
                            Part::Bytes(length) => {
                                let (these, others) = bytes.split_at(length as usize);
                                into.extend_from_slice(these);
                                bytes = others;
                            }
                        }
                    }
                    assert_eq!((into.len() - before, bytes.len()), (raw_len, 0));
                    let plain = block.again(7).unwrap();
                    assert!(plain.data[..] == into[before..]);
                    assert_eq!(block.cost(), raw_len as u64);
                }
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

    /// How many bytes come out of the beginning of a frame.
    fn zstd_so_far(packed: &[u8]) -> usize {
        let mut out = Vec::new();
        if !packed.is_empty() {
            let mut decoder = zstd::Decoder::new(packed).unwrap();
            decoder.window_log_max(27).unwrap();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = std::io::Read::read(&mut decoder, &mut buffer) {
                out.extend_from_slice(&buffer[..length]);
            }
        }
        out.len()
    }

    /// Words in a row: what compresses, and is nowhere the same.
    fn words(seed: u32, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            format!("word {} ", state % 5000).into_bytes()
        })
        .flatten()
        .take(length)
        .collect()
    }

    fn cut(data: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut cutter = Cutter::default();
        let mut each = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<(), std::convert::Infallible>(())
        };
        let (Ok(()), Ok(())) = (cutter.push(data, &mut each), cutter.end(&mut each));
        chunks
    }

    /// What the other end holds: `held`, which is like the paths `alike`.
    fn offer(delta: Delta, alike: &[u32], chunks: &[Vec<u8>]) -> Arc<Known> {
        let hashes: Vec<ChunkHash> = chunks.iter().map(|chunk| hash(chunk)).collect();
        Arc::new_cyclic(|known: &Weak<Known>| {
            let known = known.clone();
            let ask = move |paths: &[u32]| {
                let (known, hashes, paths) = (known.clone(), hashes.clone(), paths.to_vec());
                // The answer takes its time.
                thread::spawn(move || {
                    let mut first = 0;
                    for (i, path) in paths.iter().enumerate() {
                        thread::sleep(Duration::from_millis(5));
                        let Some(known) = known.upgrade() else { return };
                        let some = &hashes[first..hashes.len() * (i + 1) / paths.len()];
                        known.add(*path, first as u32, some).unwrap();
                        first += some.len();
                    }
                });
                true
            };
            Known::new(delta, alike, Box::new(ask))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Whatever of it the other end holds, what goes in comes out.
        #[test]
        fn what_is_held_comes_out_in_order(
            seed: u32,
            lengths in proptest::collection::vec(prop_oneof![1usize..3000, 100_000usize..3_000_000], 1..5),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..400usize), 0..40),
            rate in prop_oneof![Just(1e9), Just(118e6), Just(30e6)],
            alike in proptest::collection::vec(any::<bool>(), 5),
        ) {
            let held: Vec<Vec<u8>> = lengths.iter().enumerate()
                .map(|(i, &length)| words(seed ^ (i as u32) << 9, length)).collect();
            let mut paths = held.clone();
            for (at, length) in changes {
                let path = at.index(paths.len());
                let at = at.index(paths[path].len());
                let end = (at + length / 2).min(paths[path].len());
                paths[path].splice(at..end, words(seed ^ 77, length + 1));
            }
            let chunks: Vec<Vec<u8>> = held.iter().flat_map(|held| cut(held)).collect();
            let alike: Vec<u32> =
                (0..paths.len()).filter(|i| alike[*i]).map(|i| i as u32).collect();
            let known = offer(Delta::Always, &alike, &chunks);
            let (out, _) = receive_with(paths.clone(), |n| n, line(rate), known, &chunks).unwrap();
            prop_assert!(out == paths);
        }
    }

    #[test]
    fn what_is_held_is_not_sent_on_a_slow_line() {
        let held = words(3, 6_000_000);
        let mut path = held.clone();
        path.splice(2_000_000..2_000_000, *b"inserted");
        let chunks = cut(&held);
        let numbers = |delta, alike: &[u32], rate| {
            let known = offer(delta, alike, &chunks);
            let paths = vec![words(5, 10_000), path.clone()];
            let (out, how) =
                receive_with(paths.clone(), |n| n, line(rate), known, &chunks).unwrap();
            assert!(out == paths);
            how.iter().filter(|how| **how == Encoding::Chunks).count()
        };
        assert_eq!(numbers(Delta::Auto, &[1], 5e6), 6);
        assert_eq!(numbers(Delta::Never, &[1], 5e6), 0);
        assert_eq!(numbers(Delta::Always, &[], 5e6), 0);
        assert_eq!(numbers(Delta::Auto, &[1], 12.5e6), 0);
        assert_eq!(numbers(Delta::Always, &[1], 1e9), 6);
    }

    /// Once something that was held is not there any more, nothing is built on it.
    #[test]
    fn what_is_given_up_is_sent() {
        let held = words(3, 6_000_000);
        let chunks = cut(&held);
        let known = offer(Delta::Always, &[0], &chunks);
        known.give_up();
        let (out, how) =
            receive_with(vec![held.clone()], |n| n, line(1e7), known, &chunks).unwrap();
        assert!(out == [held] && !how.contains(&Encoding::Chunks));
    }

    #[test]
    fn only_what_was_asked_for_is_an_answer() {
        let known = Known::new(Delta::Always, &[3], Box::new(|_| true));
        assert!(known.add(3, 0, &[]).is_err());
        assert!(known.is_used(3, &[3, 4], &Pace::default()));
        assert!(!known.is_used(4, &[3, 4], &Pace::default()));
        assert!(known.add(4, 0, &[]).is_err());
        assert!(known.add(3, u32::MAX, &[[0; 16]]).is_err());
        assert!(known.add(3, 0, &[[0; 16]]).is_err(), "answered already");
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
        // Between the two it depends on what waits for the line, not on how fast this test runs.
        let between = line(118e6);
        assert_eq!(between.method(1 << 30, 0.0), Method::Raw);
        assert!(matches!(between.method(1 << 30, 1.0), Method::Alone(_)));
        let slow = how(5e6);
        assert!(slow.iter().all(|e| matches!(e, Encoding::Stream { .. })), "{slow:?}");
    }
}
