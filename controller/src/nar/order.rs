//! Decides how pieces are encoded, and has blocks made of them.

use super::blocks::{AHEAD, BLOCK, Block, BlockError, Done, Finished, encoded};
use super::compress::{Alone, Stream};
use super::delta::{Cut, Known, Made, Splitter};
use super::pace::{Method, Pace};
use super::read::{Piece, Reader};
use super::room::{Place, Room};
use bytes::Bytes;
use keystone_protocol::chunks::write_parts;
use keystone_protocol::frame::{BlockHeader, Encoding, FrameError};
use std::sync::{Arc, Mutex, PoisonError, mpsc as sync};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Blocks that may wait while it is not known whether what comes next has to be sent, and how often it
/// is looked whether it is.
const UNDECIDED: usize = 4;
const LOOK: Duration = Duration::from_millis(2);
/// Bytes that may wait while the line's rate is not known.
const UNMEASURED: usize = 4 << 20;
/// The highest level for the bytes between chunks: they are few, and more levels find little more.
const MADE_LEVEL: i32 = 9;

/// A piece to be made a block.
pub(super) struct Job {
    piece: Piece,
    level: Option<i32>,
    made: Option<Made>,
    place: Place,
    done: oneshot::Sender<Finished>,
}

/// The thread that decides how pieces are encoded.
pub(super) struct Order {
    pub(super) queue: mpsc::Sender<oneshot::Receiver<Finished>>,
    pub(super) jobs: sync::Sender<Job>,
    pub(super) pace: Arc<Pace>,
    /// NAR bytes still to come.
    pub(super) left: u64,
    /// What blocks that are not sent take.
    pub(super) room: Arc<Room>,
    pub(super) known: Arc<Known>,
    /// The paths, in order.
    pub(super) paths: Vec<u32>,
    pub(super) splitter: Splitter,
    pub(super) stream: Option<Stream>,
    /// The path and the position in its NAR of the piece that came last.
    pub(super) at: (u32, u64),
}

impl Order {
    /// Its life.
    pub(super) fn run(mut self, mut reader: Reader) {
        while let Some(piece) = reader.next() {
            let goes_on = match piece {
                Ok(piece) => self.piece(piece),
                Err(error) => self.finish(Err(error.into())),
            };
            if !goes_on {
                return;
            }
        }
        self.end_stream();
    }

    /// Takes a piece; `false` if nobody takes what comes of it.
    fn piece(&mut self, piece: Piece) -> bool {
        let path = piece.path;
        while self.known.is_open(path, &self.pace) && self.waiting() >= UNDECIDED {
            if self.queue.is_closed() {
                return false;
            }
            thread::sleep(LOOK);
        }
        if !self.splitter.is_amid(path) {
            if !self.known.is_used(path, &self.paths, &self.pace) {
                return self.send(piece);
            }
            if !self.known.is_answered(path) {
                // The line has something to do meanwhile.
                if !self.flush() {
                    return false;
                }
                let queue = &self.queue;
                self.known.wait(path, || !queue.is_closed());
            }
        }
        let mut cuts = Vec::new();
        self.splitter.take(&self.known, piece, &mut cuts);
        cuts.into_iter().all(|Cut { piece, made }| match made {
            None => self.send(piece),
            Some(made) => self.send_made(piece, made),
        })
    }

    /// How many blocks nobody has taken yet.
    fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// How the next block is to be encoded.
    fn method(&self) -> Method {
        self.pace.method(self.left, self.room.filled())
    }

    /// Sends a piece's bytes; `false` if nobody takes them.
    fn send(&mut self, piece: Piece) -> bool {
        let method = self.method();
        self.left -= piece.raw.len() as u64;
        self.at = (piece.path, piece.offset);
        let level = match method {
            Method::Raw => None,
            Method::Alone(level) => Some(level),
            Method::Stream(level) => {
                let blocks = self.stream(piece, level);
                return self.finish(blocks);
            }
        };
        self.end_stream() && self.compress(piece, level, None)
    }

    /// Has a block made of its own; `false` if nobody takes it.
    fn compress(&mut self, piece: Piece, level: Option<i32>, made: Option<Made>) -> bool {
        // What is made before anything is known of the line may be made wrong.
        let limit = if self.pace.rate().is_some() { AHEAD } else { UNMEASURED };
        let Some(place) = self.room.take(piece.raw.len(), limit) else { return false };
        let (done, finished) = oneshot::channel();
        // That nobody takes it any more shows at the queue.
        let sent = self.queue.blocking_send(finished).is_ok();
        sent && self.jobs.send(Job { piece, level, made, place, done }).is_ok()
    }

    /// Sends what a piece is put together from instead of it.
    fn send_made(&mut self, piece: Piece, made: Made) -> bool {
        // What is announced in a stream comes out before.
        if !self.flush() {
            return false;
        }
        let level = match self.method() {
            Method::Raw => None,
            Method::Alone(level) => Some(level),
            Method::Stream(level) => Some(level.min(MADE_LEVEL)),
        };
        self.left -= piece.raw.len() as u64;
        self.at = (piece.path, piece.offset);
        self.compress(piece, level, Some(made))
    }

    /// Hands out finished blocks; `false` if nobody takes them.
    fn finish(&self, blocks: Done) -> bool {
        let failed = blocks.is_err();
        let bytes = |blocks: &Vec<Block>| blocks.iter().map(|block| block.data.len()).sum();
        let place = match blocks.as_ref().map_or(0, bytes) {
            0 => None,
            bytes => match self.room.take(bytes, AHEAD) {
                Some(mut place) => {
                    place.finish();
                    Some(place)
                }
                None => return false,
            },
        };
        let (done, finished) = oneshot::channel();
        let _ = done.send((blocks, place));
        self.queue.blocking_send(finished).is_ok() && !failed
    }

    /// Adds a piece to the stream, which ends with the last one.
    fn stream(&mut self, piece: Piece, level: i32) -> Done {
        let mut current = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::new(level, self.pace.means()).map_err(BlockError::Compress)?,
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
        self.stream = Some(current);
        Ok(split(header, data, false)?)
    }

    /// Sends what the stream has not given out yet, if there is one.
    fn flush(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let mut data = Vec::new();
        let flushed = stream.flush(&mut data).map_err(BlockError::Compress);
        if flushed.is_ok() && data.is_empty() {
            return true;
        }
        let header = nothing(self.at);
        self.finish(flushed.and_then(|()| Ok(split(header, data, false)?)))
    }

    /// Ends the stream, if there is one.
    fn end_stream(&mut self) -> bool {
        let Some(stream) = self.stream.take() else { return true };
        self.finish(end(stream, Vec::new(), None, self.at))
    }
}

/// The header of a stream's block that announces nothing.
fn nothing((path, offset): (u32, u64)) -> BlockHeader {
    let encoding = Encoding::Stream { end: false };
    BlockHeader { path, offset, raw_len: 0, encoding, last: false }
}

/// The blocks with a stream's last bytes.
fn end(mut stream: Stream, mut data: Vec<u8>, header: Option<BlockHeader>, at: (u32, u64)) -> Done {
    stream.end(&mut data).map_err(BlockError::Compress)?;
    Ok(split(header.unwrap_or(nothing(at)), data, true)?)
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

/// A compressor's life.
pub(super) fn compress(jobs: &Mutex<sync::Receiver<Job>>) {
    let mut alone = Alone::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { piece, level, made, mut place, done }) = job else { return };
        let block = encode(&mut alone, piece, level, made).map(|block| vec![block]);
        place.finish();
        let _ = done.send((block, Some(place)));
    }
}

fn encode(
    alone: &mut Alone,
    piece: Piece,
    level: Option<i32>,
    made: Option<Made>,
) -> Result<Block, BlockError> {
    let Piece { path, offset, last, raw } = piece;
    let raw_len = raw.len() as u32;
    let to_pack = made.as_ref().map_or(&raw, |made| &made.bytes);
    let packed = match level.filter(|_| !to_pack.is_empty()) {
        None => None,
        Some(level) => alone.compress(to_pack, level).map_err(BlockError::Compress)?,
    };
    if let Some(Made { parts, bytes }) = made {
        let plain = BlockHeader { path, offset, raw_len, encoding: Encoding::Raw, last };
        let header = BlockHeader { encoding: Encoding::Chunks, ..plain };
        let data = write_parts(&parts, &packed.unwrap_or(bytes));
        let block = encoded(header, data.into())?;
        return Ok(Block { plain: Some((plain, raw.into())), ..block });
    }
    let (encoding, data) = match packed {
        Some(packed) => (Encoding::Zstd, packed),
        None => (Encoding::Raw, raw),
    };
    Ok(encoded(BlockHeader { path, offset, raw_len, encoding, last }, data.into())?)
}
