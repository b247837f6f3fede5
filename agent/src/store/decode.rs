//! Blocks' data, decompressed.

use super::buffer::{Buffer, Pool};
use super::receive::{Block, ReceiveError};
use keystone_protocol::frame::{BlockHeader, Encoding};
use std::collections::VecDeque;
use std::io;
use std::sync::OnceLock;
use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer};

/// The largest window of a zstd frame, as a power of two: 128 MiB, with 2 GiB of memory.
const LARGE_WINDOW: u32 = 27;
/// The same with less memory.
pub(super) const SMALL_WINDOW: u32 = 23;
const ENOUGH_MEMORY: u64 = 2 << 30;

/// The largest window that this machine has the memory for, as a power of two. Looked at once: what
/// was said to the controller holds for all that comes.
pub fn window_log() -> u32 {
    static FOUND: OnceLock<u32> = OnceLock::new();
    *FOUND.get_or_init(|| {
        window_log_of(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    })
}

/// The same, by what `/proc/meminfo` has.
fn window_log_of(meminfo: &str) -> u32 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
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
    /// Blocks whose bytes did not come out yet.
    announced: VecDeque<BlockHeader>,
    /// What has come out for the first of them, and how much that is.
    out: Buffer,
    filled: usize,
    /// What came last and is not used up: its bytes, how many of them are used, and whether the
    /// frame ends with them.
    input: Option<(Buffer, usize, bool)>,
}

/// From blocks to pieces, in order.
///
/// What a block's data become is decompressed when it is asked for, a piece at a time: some KiB of
/// a frame may become all that was announced.
pub(super) struct Decoder {
    pool: Pool,
    window_log: u32,
    stream: Option<Stream>,
    ready: Option<(BlockHeader, Piece)>,
}

impl Decoder {
    /// Of frames whose windows are 2^`window_log` bytes at most.
    pub(super) fn new(pool: Pool, window_log: u32) -> Decoder {
        Decoder { pool, window_log, stream: None, ready: None }
    }

    /// The next piece; `None` if that takes another block.
    pub(super) fn next(&mut self) -> Result<Option<(BlockHeader, Piece)>, ReceiveError> {
        match self.ready.take() {
            None => self.go_on(),
            ready => Ok(ready),
        }
    }

    /// Whether a frame that goes on over blocks has not ended yet.
    pub(super) fn in_frame(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes the next block, after [`Decoder::next`] had nothing more.
    pub(super) fn take(&mut self, header: BlockHeader, data: Buffer) -> Result<(), ReceiveError> {
        let raw_len = header.raw_len as usize;
        if self.ready.is_some() || self.stream.as_ref().is_some_and(|s| s.input.is_some()) {
            return Err(ReceiveError::Block("it comes after all that was to come".to_owned()));
        }
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
            self.ready = Some((header, Piece { data, packed }));
            return Ok(());
        };
        let stream = self.stream.get_or_insert_with(|| Stream::new(self.window_log));
        if raw_len > 0 {
            stream.announced.push_back(header);
        }
        // A sender with many threads announces much before its first bytes are ready; and zstd takes
        // many calls for nothing in a row (16, `ZSTD_NO_FORWARD_PROGRESS_MAX`) for a mistake.
        if !data.is_empty() || end {
            stream.input = Some((data, 0, end));
        }
        // If nothing is to come out, nobody need ask for it.
        if stream.announced.is_empty() { self.go_on().map(drop) } else { Ok(()) }
    }

    /// Decompresses until a piece is whole, or all is used up that came. A frame that is to end after
    /// the piece has done so then.
    fn go_on(&mut self) -> Result<Option<(BlockHeader, Piece)>, ReceiveError> {
        let mut whole = None;
        while let Some(stream) = &mut self.stream
            && (whole.is_none() || stream.announced.is_empty())
            && let Some((_, _, end)) = stream.input
        {
            let failed = |error| ReceiveError::decompress("the stream", error);
            let (piece, state) = stream.step(&self.pool).map_err(failed)?;
            whole = piece.or(whole);
            let ended = match state {
                State::GoesOn => continue,
                State::UsedUp => false,
                State::Ended => true,
            };
            if ended != end || (end && !stream.announced.is_empty()) {
                return Err(ReceiveError::Block("a frame ends where it was not to".to_owned()));
            }
            stream.input = None;
            if end {
                self.stream = None;
            }
        }
        Ok(whole)
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
        let decoder = Decoder::new(pool.clone(), window_log());
        Unpacked { decoder, inflater: Inflater::new(pool) }
    }
}

impl Unpacked {
    /// Takes the next block, after [`Unpacked::next`] had nothing more.
    ///
    /// # Errors
    /// It does not go on with what came before.
    pub fn take(&mut self, block: Block) -> Result<(), ReceiveError> {
        self.decoder.take(block.header, block.data)
    }

    /// The next bytes, and where they belong; `None` if they take another block.
    ///
    /// # Errors
    /// They can't be decompressed, or are not as many as were announced.
    pub fn next(&mut self) -> io::Result<Option<(BlockHeader, Buffer)>> {
        let next = self.decoder.next().map_err(io::Error::other)?;
        let Some((header, piece)) = next else { return Ok(None) };
        Ok(Some((header, piece.unpack(&mut self.inflater)?)))
    }

    /// Whether more blocks have to come to end what has begun.
    pub fn in_frame(&self) -> bool {
        self.decoder.in_frame()
    }
}

/// What there is to do with what came of a frame.
enum State {
    /// More can come out of it.
    GoesOn,
    /// It is used up.
    UsedUp,
    /// It is used up, and the frame has ended.
    Ended,
}

impl Stream {
    fn new(window_log: u32) -> Stream {
        let mut context = DCtx::create();
        // Within what zstd takes, so that this can't fail.
        let _ = context.set_parameter(zstd_safe::DParameter::WindowLogMax(window_log));
        let (announced, out) = (VecDeque::new(), Buffer::default());
        Stream { context, announced, out, filled: 0, input: None }
    }

    /// Decompresses some of what came; a piece that is whole by that, and what is left to do.
    fn step(&mut self, pool: &Pool) -> io::Result<(Option<(BlockHeader, Piece)>, State)> {
        let Some((data, used, _)) = &mut self.input else { return Ok((None, State::UsedUp)) };
        if data.is_empty() {
            return Ok((None, State::UsedUp));
        }
        let mut nothing = [0u8; 1];
        let room = match self.announced.front() {
            None => &mut nothing[..],
            Some(header) => {
                // Memory is taken when bytes come out, not when they are announced.
                if self.out.is_empty() {
                    self.out = pool.take(header.raw_len as usize);
                }
                &mut self.out[self.filled..]
            }
        };
        let room_len = room.len();
        let mut input = InBuffer { src: &data[..], pos: *used };
        let mut output = OutBuffer::around(room);
        let hint = self.context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
        let produced = output.pos();
        *used = input.pos;
        let used_up = *used == data.len();
        let mut piece = None;
        if self.announced.is_empty() {
            if produced > 0 {
                return Err(io::Error::other("more bytes came out than were announced"));
            }
        } else {
            self.filled += produced;
            if produced == room_len
                && let Some(header) = self.announced.pop_front()
            {
                let data = std::mem::take(&mut self.out);
                self.filled = 0;
                piece = Some((header, Piece { data, packed: None }));
            }
        }
        let state = match hint {
            0 if used_up => State::Ended,
            0 => return Err(io::Error::other("data after the end of the frame")),
            // What has filled its room may have left some.
            _ if used_up && piece.is_none() => State::UsedUp,
            _ => State::GoesOn,
        };
        Ok((piece, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(raw_len: usize, encoding: Encoding) -> BlockHeader {
        BlockHeader { path: 0, offset: 0, raw_len: raw_len as u32, encoding, last: false }
    }

    /// All that comes out until another block is needed.
    fn drain(decoder: &mut Decoder, out: &mut Vec<u8>) -> Result<(), ReceiveError> {
        let mut inflater = Inflater::new(Pool::default());
        while let Some((_, piece)) = decoder.next()? {
            out.extend_from_slice(&piece.unpack(&mut inflater).unwrap());
        }
        Ok(())
    }

    /// One frame that does not tell how long it is, with a window of that size.
    fn frame(raw: &[u8], window_log: u32) -> Vec<u8> {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(window_log).unwrap();
        zstd.include_contentsize(false).unwrap();
        io::Write::write_all(&mut zstd, raw).unwrap();
        zstd.finish().unwrap()
    }

    #[test]
    fn windows_follow_the_free_memory() {
        let text = |kib: u64| format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\nBuffers: 7 kB\n");
        assert_eq!(window_log_of(&text((2 << 20) - 1)), 23);
        assert_eq!(window_log_of(&text(2 << 20)), 27);
        // Of what is not known there is little.
        for unknown in ["", "MemTotal: 99999999 kB", "MemAvailable: much"] {
            assert_eq!(window_log_of(unknown), 23, "{unknown}");
        }
    }

    #[test]
    fn a_larger_window_than_was_promised_is_refused() {
        let raw = vec![7; 3 << 20];
        for (promised, window_log, taken) in [(23, 23, true), (23, 24, false), (27, 27, true)] {
            let mut decoder = Decoder::new(Pool::default(), promised);
            let header = header(raw.len(), Encoding::Stream { end: true });
            decoder.take(header, frame(&raw, window_log).into()).unwrap();
            let mut out = Vec::new();
            let drained = drain(&mut decoder, &mut out);
            assert_eq!((drained.is_ok(), out == raw), (taken, taken), "{promised} {window_log}");
        }
    }

    /// Some KiB become 64 MiB, one piece at a time.
    #[test]
    fn what_nobody_has_asked_for_takes_no_memory() {
        let (blocks, length) = (64, 1 << 20);
        let packed = frame(&vec![0; blocks * length], 23);
        assert!(packed.len() < 16 << 10, "{}", packed.len());
        let mut decoder = Decoder::new(Pool::default(), 23);
        for _ in 0..blocks {
            let header = header(length, Encoding::Stream { end: false });
            decoder.take(header, Buffer::default()).unwrap();
        }
        decoder.take(header(0, Encoding::Stream { end: true }), packed.into()).unwrap();
        let mut came = 0;
        loop {
            let pending = decoder.stream.as_ref().map_or(0, |stream| stream.out.len());
            assert_eq!((decoder.ready.is_none(), pending), (true, 0));
            assert_eq!(decoder.in_frame(), came < blocks);
            let Some((_, piece)) = decoder.next().unwrap() else { break };
            assert_eq!(piece.data[..], vec![0; length][..]);
            came += 1;
        }
        assert_eq!(came, blocks);
    }

    /// Who does not ask for what a block becomes gets no further one.
    #[test]
    fn blocks_do_not_pile_up() {
        let packed = frame(&[1; 2000], 23);
        let (begin, end) = packed.split_at(5);
        let mut decoder = Decoder::new(Pool::default(), 23);
        let stream = |end| header(1000, Encoding::Stream { end });
        decoder.take(stream(false), begin.to_vec().into()).unwrap();
        decoder.take(stream(true), end.to_vec().into()).unwrap_err();
        let mut decoder = Decoder::new(Pool::default(), 23);
        decoder.take(header(3, Encoding::Raw), b"abc".to_vec().into()).unwrap();
        decoder.take(header(3, Encoding::Raw), b"abc".to_vec().into()).unwrap_err();
    }

    /// A sender announces many blocks before the first byte of its frame is ready.
    #[test]
    fn a_frame_may_begin_with_many_blocks_without_data() {
        let raw: Vec<u8> = (0..250_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&raw, 1).unwrap();
        let mut decoder = Decoder::new(Pool::default(), 27);
        let blocks: Vec<&[u8]> = raw.chunks(raw.len() / 100).collect();
        for (i, block) in blocks.iter().enumerate() {
            let end = i + 1 == blocks.len();
            let data = if end { packed.clone() } else { Vec::new() };
            decoder.take(header(block.len(), Encoding::Stream { end }), data.into()).unwrap();
        }
        let mut out = Vec::new();
        drain(&mut decoder, &mut out).unwrap();
        assert!(out == raw && !decoder.in_frame());
    }

    /// However a frame is cut over blocks, the blocks' bytes come out in order.
    #[test]
    fn a_frame_goes_on_over_blocks() {
        let raw: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&raw, 1).unwrap();
        for cuts in [1, 2, 7, 40] {
            let mut decoder = Decoder::new(Pool::default(), 27);
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
                decoder.take(header, piece.to_vec().into()).unwrap();
                let drained = drain(&mut decoder, &mut out);
                if drained.is_err() && cuts > 1 {
                    // More came out than was announced so far: announced first, it is taken.
                    break;
                }
                drained.unwrap();
            }
            if cuts == 1 {
                assert!(out == raw);
            }
            // All announced before, as a sender does whose compressor is behind.
            let mut decoder = Decoder::new(Pool::default(), 27);
            let mut out = Vec::new();
            for piece in raw.chunks(announce) {
                let header = header(piece.len(), Encoding::Stream { end: false });
                decoder.take(header, Buffer::default()).unwrap();
            }
            for (i, piece) in pieces.iter().enumerate() {
                let end = i + 1 == pieces.len();
                let header = header(0, Encoding::Stream { end });
                decoder.take(header, piece.to_vec().into()).unwrap();
                drain(&mut decoder, &mut out).unwrap();
            }
            assert!(out == raw && !decoder.in_frame(), "{cuts}");
        }
    }

    #[test]
    fn what_is_not_announced_is_refused() {
        let packed = zstd::bulk::compress(&[1; 1000], 1).unwrap();
        for announced in [0, 999, 1001] {
            let mut decoder = Decoder::new(Pool::default(), 27);
            let header = header(announced, Encoding::Stream { end: true });
            let taken = decoder.take(header, packed.clone().into());
            let drained = taken.and_then(|()| drain(&mut decoder, &mut Vec::new()));
            assert!(drained.is_err(), "{announced}");
        }
    }
}
