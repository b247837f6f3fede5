//! Blocks' data, decompressed.

use super::buffer::{Buffer, Pool};
use super::receive::{Block, ReceiveError};
use keystone_protocol::frame::{BlockHeader, Encoding};
use std::collections::VecDeque;
use std::io;
use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer};

/// The largest window of a zstd frame, as a power of two: 128 MiB, with 2 GiB of memory.
const LARGE_WINDOW: u32 = 27;
/// The same with less memory.
const SMALL_WINDOW: u32 = 23;
const ENOUGH_MEMORY: u64 = 2 << 30;

/// The largest window that this machine has the memory for, as a power of two.
pub fn window_log() -> u32 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    if kib.unwrap_or(0) << 10 >= ENOUGH_MEMORY { LARGE_WINDOW } else { SMALL_WINDOW }
}

/// A piece of a NAR on its way to the worker that unpacks it.
#[derive(Debug)]
pub(super) struct Piece {
    data: Buffer,
    /// Length once decompressed; `None` if it is so already.
    packed: Option<usize>,
}

impl Piece {
    /// Bytes of memory that it takes, or will.
    pub(super) fn cost(&self) -> usize {
        self.data.len().max(self.packed.unwrap_or(0))
    }

    /// Decompresses it, if it is not.
    pub(super) fn unpack(self, zstd: &mut Inflater) -> io::Result<Buffer> {
        match self.packed {
            None => Ok(self.data),
            Some(length) => zstd.inflate(&self.data, length),
        }
    }
}

/// Decompresses frames.
pub(super) struct Inflater {
    context: DCtx<'static>,
    pool: Pool,
}

impl Inflater {
    pub(super) fn new(pool: Pool) -> Inflater {
        Inflater { context: DCtx::create(), pool }
    }

    /// What comes of a frame, which has to be `length` bytes.
    pub(super) fn inflate(&mut self, data: &[u8], length: usize) -> io::Result<Buffer> {
        let mut out = self.pool.take(length);
        match self.context.decompress(&mut out[..], data) {
            Ok(found) if found == length => Ok(out),
            Ok(_) => Err(io::Error::other("fewer bytes came out than were announced")),
            Err(code) => Err(zstd_error(code)),
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

/// A frame that goes on over blocks.
struct Stream {
    context: DCtx<'static>,
    /// Blocks whose bytes did not come out yet, and what has of the first.
    announced: VecDeque<(BlockHeader, Buffer, usize)>,
}

/// From blocks to pieces, in order.
pub(super) struct Decoder {
    pool: Pool,
    stream: Option<Stream>,
    ready: VecDeque<(BlockHeader, Piece)>,
}

impl Decoder {
    pub(super) fn new(pool: Pool) -> Decoder {
        Decoder { pool, stream: None, ready: VecDeque::new() }
    }

    /// The next piece that is ready.
    pub(super) fn next(&mut self) -> Option<(BlockHeader, Piece)> {
        self.ready.pop_front()
    }

    /// Whether a frame that goes on over blocks has not ended yet.
    pub(super) fn in_frame(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes the next block.
    pub(super) fn take(&mut self, header: BlockHeader, data: Buffer) -> Result<(), ReceiveError> {
        let raw_len = header.raw_len as usize;
        let Encoding::Stream { end } = header.encoding else {
            // What had been chunks may come amid a frame, where nothing is to come out before it.
            let raw = header.encoding == Encoding::Raw;
            let due = |stream: &Stream| !raw || !stream.announced.is_empty();
            if self.stream.as_ref().is_some_and(due) {
                return Err(ReceiveError::Block("a frame does not go on".to_owned()));
            }
            if header.encoding == Encoding::Chunks {
                return Err(ReceiveError::Block("chunks that nobody has offered".to_owned()));
            }
            let packed = (header.encoding == Encoding::Zstd).then_some(raw_len);
            if packed.is_none() && data.len() != raw_len {
                let what = format!("{} bytes where {raw_len} were announced", data.len());
                return Err(ReceiveError::Block(what));
            }
            self.ready.push_back((header, Piece { data, packed }));
            return Ok(());
        };
        let stream = self.stream.get_or_insert_with(|| {
            let mut context = DCtx::create();
            let window = zstd_safe::DParameter::WindowLogMax(LARGE_WINDOW);
            // Within what zstd takes, so that this can't fail.
            let _ = context.set_parameter(window);
            Stream { context, announced: VecDeque::new() }
        });
        if raw_len > 0 {
            // Memory is taken when bytes come out, not when they are announced.
            stream.announced.push_back((header, Buffer::default(), 0));
        }
        let ended = stream.run(&data, &self.pool, &mut self.ready);
        if ended.map_err(|e| ReceiveError::decompress("the stream", e))? != end
            || (end && !stream.announced.is_empty())
        {
            return Err(ReceiveError::Block("a frame ends where it was not to".to_owned()));
        }
        if end {
            self.stream = None;
        }
        Ok(())
    }
}

/// Blocks in, their bytes out, in order, for who needs no threads for it.
pub struct Unpacked {
    decoder: Decoder,
    inflater: Inflater,
}

impl Default for Unpacked {
    fn default() -> Self {
        let pool = Pool::default();
        Unpacked { decoder: Decoder::new(pool.clone()), inflater: Inflater::new(pool) }
    }
}

impl Unpacked {
    /// Takes the next block.
    ///
    /// # Errors
    /// It does not go on with what came before, or can't be decompressed.
    pub fn take(&mut self, block: Block) -> Result<(), ReceiveError> {
        self.decoder.take(block.header, block.data)
    }

    /// The next bytes that are ready, and where they belong.
    ///
    /// # Errors
    /// They can't be decompressed, or are not as many as were announced.
    pub fn next(&mut self) -> io::Result<Option<(BlockHeader, Buffer)>> {
        let Some((header, piece)) = self.decoder.next() else { return Ok(None) };
        Ok(Some((header, piece.unpack(&mut self.inflater)?)))
    }

    /// Whether more blocks have to come to end what has begun.
    pub fn in_frame(&self) -> bool {
        self.decoder.in_frame()
    }
}

impl Stream {
    /// Decompresses what came; says whether the frame has ended.
    fn run(
        &mut self,
        data: &[u8],
        pool: &Pool,
        ready: &mut VecDeque<(BlockHeader, Piece)>,
    ) -> io::Result<bool> {
        // All that could come out has, each time; and zstd takes many calls for nothing in a row
        // (16, `ZSTD_NO_FORWARD_PROGRESS_MAX`) for a mistake. A sender with many threads announces
        // much before its first bytes are ready.
        if data.is_empty() {
            return Ok(false);
        }
        let mut input = InBuffer::around(data);
        let mut nothing = [0u8; 1];
        loop {
            let spare = self.announced.is_empty();
            let (room, filled) = match self.announced.front_mut() {
                None => (&mut nothing[..], 0),
                Some((header, out, filled)) => {
                    if out.is_empty() {
                        *out = pool.take(header.raw_len as usize);
                    }
                    (&mut out[*filled..], *filled)
                }
            };
            let room_len = room.len();
            let mut output = OutBuffer::around(room);
            let hint = self.context.decompress_stream(&mut output, &mut input);
            let produced = output.pos();
            let hint = hint.map_err(zstd_error)?;
            if spare && produced > 0 {
                return Err(io::Error::other("more bytes came out than were announced"));
            }
            if let Some(front) = self.announced.front_mut() {
                front.2 = filled + produced;
            }
            if !spare
                && produced == room_len
                && let Some((header, data, _)) = self.announced.pop_front()
            {
                ready.push_back((header, Piece { data, packed: None }));
            }
            if hint == 0 {
                return match input.pos == data.len() {
                    true => Ok(true),
                    false => Err(io::Error::other("data after the end of the frame")),
                };
            }
            let flushed = produced < room_len || spare;
            if input.pos == data.len() && flushed {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(raw_len: usize, encoding: Encoding) -> BlockHeader {
        BlockHeader { path: 0, offset: 0, raw_len: raw_len as u32, encoding, last: false }
    }

    /// A sender announces many blocks before the first byte of its frame is ready.
    #[test]
    fn a_frame_may_begin_with_many_blocks_without_data() {
        let raw: Vec<u8> = (0..250_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&raw, 1).unwrap();
        let mut decoder = Decoder::new(Pool::default());
        let blocks: Vec<&[u8]> = raw.chunks(raw.len() / 100).collect();
        for (i, block) in blocks.iter().enumerate() {
            let end = i + 1 == blocks.len();
            let data = if end { packed.clone() } else { Vec::new() };
            decoder.take(header(block.len(), Encoding::Stream { end }), data.into()).unwrap();
        }
        let mut out = Vec::new();
        while let Some((_, piece)) = decoder.next() {
            out.extend_from_slice(&piece.data);
        }
        assert!(out == raw);
    }

    /// However a frame is cut over blocks, the blocks' bytes come out in order.
    #[test]
    fn a_frame_goes_on_over_blocks() {
        let raw: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&raw, 1).unwrap();
        for cuts in [1, 2, 7, 40] {
            let mut decoder = Decoder::new(Pool::default());
            let mut inflater = Inflater::new(Pool::default());
            let mut out = Vec::new();
            let per = packed.len().div_ceil(cuts);
            let announce = raw.len().div_ceil(cuts);
            let pieces: Vec<&[u8]> = packed.chunks(per).collect();
            for (i, piece) in pieces.iter().enumerate() {
                let end = i + 1 == pieces.len();
                let begin = (announce * i).min(raw.len());
                // The last announces what is left; none is announced too late.
                let length = if end { raw.len() - begin } else { announce.min(raw.len() - begin) };
                let header = header(length, Encoding::Stream { end });
                let taken = decoder.take(header, piece.to_vec().into());
                if taken.is_err() && cuts > 1 {
                    // More came out than was announced so far: announced first, it is taken.
                    out.clear();
                    break;
                }
                taken.unwrap();
                while let Some((_, piece)) = decoder.next() {
                    out.extend_from_slice(&piece.unpack(&mut inflater).unwrap());
                }
            }
            if cuts == 1 {
                assert!(out == raw);
            }
            // All announced before, as a sender does whose compressor is behind.
            let mut decoder = Decoder::new(Pool::default());
            let mut out = Vec::new();
            for piece in raw.chunks(announce) {
                let header = header(piece.len(), Encoding::Stream { end: false });
                decoder.take(header, Buffer::default()).unwrap();
            }
            for (i, piece) in pieces.iter().enumerate() {
                let end = i + 1 == pieces.len();
                let header = header(0, Encoding::Stream { end });
                decoder.take(header, piece.to_vec().into()).unwrap();
                while let Some((_, piece)) = decoder.next() {
                    out.extend_from_slice(&piece.unpack(&mut inflater).unwrap());
                }
            }
            assert!(out == raw, "{cuts}");
        }
    }

    #[test]
    fn what_is_not_announced_is_refused() {
        let packed = zstd::bulk::compress(&[1; 1000], 1).unwrap();
        for announced in [0, 999, 1001] {
            let mut decoder = Decoder::new(Pool::default());
            let header = header(announced, Encoding::Stream { end: true });
            assert!(decoder.take(header, packed.clone().into()).is_err(), "{announced}");
        }
    }
}
