//! Cuts NARs into blocks, compresses those where it helps, and hands them out in order.
//!
//! One thread reads and packs, some compress, and whoever sends takes finished blocks in the
//! order in which they were cut. Every queue is bounded: at most [`AHEAD`] blocks are in memory.

use super::dump::DumpError;
use crate::closure::{ClosureError, ClosureSource};
use bytes::Bytes;
use keystone_protocol::frame::{self, BlockHeader, Encoding, FrameError};
use keystone_protocol::manifest::PathInfo;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc as sync};
use std::thread;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a NAR in one block, before compression.
pub const BLOCK: usize = 1 << 20;
/// Blocks in memory.
pub const AHEAD: usize = 12;
/// zstd's fastest level, at which a core keeps up with a gigabit.
const LEVEL: i32 = 1;
/// Bytes that are tried first: what does not shrink there is sent as it is.
const SAMPLE: usize = 64 << 10;

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
#[derive(Debug)]
pub struct Block {
    /// What goes before the data.
    pub header: [u8; frame::HEADER + frame::BLOCK_HEADER],
    /// The data, encoded.
    pub data: Bytes,
    /// Length of the data once decoded, in bytes.
    pub raw_len: u32,
}

type Finished = oneshot::Receiver<Result<Block, BlockError>>;

/// The blocks of a list of paths, in order.
#[derive(Debug)]
pub struct Blocks {
    queue: mpsc::Receiver<Finished>,
}

impl Blocks {
    /// Starts packing `wanted`: paths with their indices in the manifest.
    pub fn start(
        source: Arc<dyn ClosureSource>,
        wanted: Vec<(u32, PathInfo)>,
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
        let compressors = thread::available_parallelism().map_or(2, |n| n.get()).clamp(1, 4);
        for _ in 0..compressors {
            let jobs = Arc::clone(&jobs);
            spawn("nar-compress", Box::new(move || compress(&jobs)))?;
        }
        spawn("nar-read", Box::new(move || read(source.as_ref(), wanted, &queue_in, &jobs_in)))?;
        Ok(Blocks { queue })
    }

    /// The next block; `None` after the last. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Block, BlockError>> {
        let finished = self.queue.recv().await?;
        let died = |_| Err(BlockError::Thread("it ended early".into()));
        let block = finished.await.unwrap_or_else(died);
        if block.is_err() {
            self.queue.close();
        }
        Some(block)
    }
}

/// Raw data to be made a block.
struct Job {
    path: u32,
    offset: u64,
    last: bool,
    raw: Vec<u8>,
    done: oneshot::Sender<Result<Block, BlockError>>,
}

fn read(
    source: &dyn ClosureSource,
    wanted: Vec<(u32, PathInfo)>,
    queue: &mpsc::Sender<Finished>,
    jobs: &sync::Sender<Job>,
) {
    for (index, info) in wanted {
        let mut cutter = Cutter { index, info: &info, offset: 0, raw: Vec::new(), queue, jobs };
        let error = match source.dump(&info, &mut cutter) {
            Ok(()) if cutter.offset == info.nar_size => continue,
            Ok(()) => ClosureError::SizeDiffers {
                path: info.path.clone(),
                expected: info.nar_size,
                found: cutter.offset + cutter.raw.len() as u64,
            },
            // More than announced: the path has grown.
            Err(DumpError::Sink(_)) if cutter.offset == info.nar_size => {
                ClosureError::SizeDiffers {
                    path: info.path.clone(),
                    expected: info.nar_size,
                    found: info.nar_size + 1,
                }
            }
            // Nobody takes the blocks any more.
            Err(DumpError::Sink(_)) => return,
            Err(DumpError::Source(error)) => error,
        };
        let (done, finished) = oneshot::channel();
        let _ = done.send(Err(error.into()));
        let _ = queue.blocking_send(finished);
        return;
    }
}

/// Takes a NAR's bytes and makes jobs of them.
struct Cutter<'a> {
    index: u32,
    info: &'a PathInfo,
    /// Position of `raw` in the NAR.
    offset: u64,
    raw: Vec<u8>,
    queue: &'a mpsc::Sender<Finished>,
    jobs: &'a sync::Sender<Job>,
}

impl Write for Cutter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = self.info.nar_size - self.offset - self.raw.len() as u64;
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
            let gone = || io::Error::other("nobody takes the blocks");
            let (done, finished) = oneshot::channel();
            let job = Job { path: self.index, offset: self.offset, last, raw, done };
            self.queue.blocking_send(finished).map_err(|_| gone())?;
            self.jobs.send(job).map_err(|_| gone())?;
            self.offset += length;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress(jobs: &Mutex<sync::Receiver<Job>>) {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { path, offset, last, raw, done }) = job else { return };
        let raw_len = raw.len() as u32;
        let encoded = match &mut compressor {
            Ok(compressor) => encode(compressor, raw).map_err(BlockError::Compress),
            Err(e) => Err(BlockError::Compress(io::Error::other(e.to_string()))),
        };
        let block = encoded.and_then(|(encoding, data)| {
            let header = BlockHeader { path, offset, raw_len, encoding, last };
            let header = frame::encode_block_header(&header, data.len())?;
            Ok(Block { header, data: data.into(), raw_len })
        });
        let _ = done.send(block);
    }
}

/// Compressed if that saves at least one part in 32, else as it is.
fn encode(
    compressor: &mut zstd::bulk::Compressor<'_>,
    raw: Vec<u8>,
) -> io::Result<(Encoding, Vec<u8>)> {
    let worth = |compressed: usize, of: usize| compressed <= of - of / 32;
    if raw.len() > 2 * SAMPLE {
        let middle = raw.len() / 2;
        let sample = compressor.compress(&raw[middle..middle + SAMPLE])?;
        if !worth(sample.len(), SAMPLE) {
            return Ok((Encoding::Raw, raw));
        }
    }
    let compressed = compressor.compress(&raw)?;
    Ok(match worth(compressed.len(), raw.len()) {
        true => (Encoding::Zstd, compressed),
        false => (Encoding::Raw, raw),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystone_protocol::frame::Frame;
    use proptest::prelude::*;

    /// Bytes that are their own NAR.
    struct Given(Vec<Vec<u8>>);

    impl ClosureSource for Given {
        fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
            let index: usize = path.path.parse().unwrap();
            out.write_all(&self.0[index]).map_err(DumpError::Sink)
        }
    }

    fn wanted(paths: &[Vec<u8>], announce: impl Fn(u64) -> u64) -> Vec<(u32, PathInfo)> {
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
            (i as u32, info)
        };
        paths.iter().enumerate().map(info).collect()
    }

    fn receive(
        paths: Vec<Vec<u8>>,
        announce: impl Fn(u64) -> u64,
    ) -> Result<Vec<Vec<u8>>, BlockError> {
        let count = paths.len();
        let list = wanted(&paths, announce);
        let mut blocks = Blocks::start(Arc::new(Given(paths)), list).unwrap();
        let mut out = vec![Vec::new(); count];
        let mut last: Option<u32> = None;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        while let Some(block) = runtime.block_on(blocks.next()) {
            let block = block?;
            let (kind, length) =
                frame::parse_header(block.header[..frame::HEADER].try_into().unwrap()).unwrap();
            let mut payload = block.header[frame::HEADER..].to_vec();
            payload.extend_from_slice(&block.data);
            assert_eq!(payload.len(), length);
            let Frame::Block(header, data) = frame::parse_payload(kind, payload).unwrap() else {
                panic!("not a block")
            };
            let data = match header.encoding {
                Encoding::Raw => data,
                Encoding::Zstd => zstd::decode_all(&data[..]).unwrap(),
            };
            assert_eq!(data.len(), header.raw_len as usize);
            let into = &mut out[header.path as usize];
            assert_eq!(into.len() as u64, header.offset);
            into.extend_from_slice(&data);
            // Paths come one after the other.
            assert!(last.is_none_or(|l| header.path == l + 1) || header.offset > 0);
            if header.last {
                last = Some(header.path);
            }
        }
        assert_eq!(last, count.checked_sub(1).map(|n| n as u32));
        Ok(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn what_goes_in_comes_out_in_order(
            lengths in proptest::collection::vec(prop_oneof![1usize..3000, (BLOCK - 3)..(BLOCK + 3), (2 * BLOCK)..(3 * BLOCK)], 0..6),
            random: bool,
        ) {
            let paths: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, &n)| {
                let mut state = i as u32 + 1;
                (0..n).map(|j| {
                    state ^= state << 13; state ^= state >> 17; state ^= state << 5;
                    if random { state as u8 } else { (j / 100) as u8 }
                }).collect()
            }).collect();
            prop_assert_eq!(receive(paths.clone(), |n| n).unwrap(), paths);
        }
    }

    #[test]
    fn another_size_than_announced_is_an_error() {
        let paths = vec![vec![1; 100], vec![2; 3000]];
        let grown = receive(paths.clone(), |n| if n == 3000 { 2000 } else { n }).unwrap_err();
        assert!(grown.to_string().contains("2000"), "{grown}");
        let shrunk = receive(paths, |n| if n == 3000 { 4000 } else { n }).unwrap_err();
        assert!(shrunk.to_string().contains("4000"), "{shrunk}");
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).unwrap();
        let text = b"a line that is repeated\n".repeat(40_000);
        assert_eq!(encode(&mut compressor, text).unwrap().0, Encoding::Zstd);
        let mut state = 1u64;
        let noise: Vec<u8> = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            })
            .collect();
        assert_eq!(encode(&mut compressor, noise).unwrap().0, Encoding::Raw);
    }
}
