//! Frames: how messages and closure data share one byte stream.
//!
//! ```text
//! frame   = header, payload
//! header  = u32le length, u8 kind, 3 bytes check, u64le number, 32 bytes blake3 of the payload
//! kind 0  = control: one JSON message; its number is 0
//! kind 1  = block: a piece of a NAR (block header below, then the data)
//!
//! block   = u32le path, u64le offset, u32le raw length, u8 encoding, u8 flags, data
//! ```
//!
//! `length` counts the payload only. `check` is the beginning of the blake3 of the header's other
//! fields: where it is right, the payload's end is known, and a damaged payload is one frame
//! that can be asked for again; where it is not, the stream is lost.
//!
//! Blocks are numbered from 0 in the order in which they are to be used. They may arrive in another
//! one: over several connections, or sent again, under the same number, because they were asked
//! for. `path` is the index in the manifest, `offset` the
//! position of the block's first byte in the path's NAR, flag bit 0 marks a path's last block.
//! `encoding` is 0 for raw data and 1 for one zstd frame of its own. With 2 the data are the next
//! bytes of a zstd frame that goes on over blocks: what comes out of it are these blocks' NAR
//! bytes, one after the other, in the order of the blocks, but possibly later than the block that
//! announces them. Such a block may announce no bytes at all; flag bit 1 marks the block in which
//! the zstd frame ends. With 3 the data say what the block is put together from: chunks that the
//! receiver has offered, by their numbers, and bytes ([`crate::chunks::write_parts`]). Such a block may
//! stand amid a zstd frame that goes on over blocks, where all that was announced before has come out.
//! When it is sent again, it is raw: it is asked for since a chunk is not there any more.

use crate::chunks::read_parts;
use std::ops::Range;
use thiserror::Error;
use zeroize::Zeroize;

/// The longest control message, in bytes: a manifest of some 60,000 paths.
pub const MAX_CONTROL: usize = 64 << 20;
/// The most NAR bytes that one block may hold, before compression.
pub const MAX_BLOCK_RAW: usize = 8 << 20;
/// The longest block payload, in bytes: incompressible data plus zstd's overhead and the header.
pub const MAX_BLOCK: usize = MAX_BLOCK_RAW + (MAX_BLOCK_RAW >> 7) + 64;
/// The frame header's length, in bytes.
pub const HEADER: usize = 48;
/// How much of the header is enough to know that it is none, in bytes: see [`check_kind`].
pub const PREFIX: usize = 5;
/// The block header's length, in bytes.
pub const BLOCK_HEADER: usize = 18;

const KIND_CONTROL: u8 = 0;
const KIND_BLOCK: u8 = 1;
/// Where the number is in the header, and where the hash begins.
const NUMBER: Range<usize> = 8..16;
const HASH: usize = 16;
const FLAG_LAST: u8 = 1;
const FLAG_END: u8 = 2;

/// A frame that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is unknown.
    #[error(
        "frame of unknown kind {0}: the stream is not Keystone's protocol (does the login shell print something?)"
    )]
    UnknownKind(u8),
    /// The header is not what its check says.
    #[error("damaged frame header: what follows can't be told apart any more")]
    DamagedHeader,
    /// The payload is not what the header says.
    #[error("damaged frame")]
    Damaged,
    /// The length is over the limit of its kind.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the header says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A control message that has a number, as only blocks have.
    #[error("a control message with a block's number")]
    NumberedControl,
    /// A block shorter than its header, or with fields out of range.
    #[error("malformed block: {0}")]
    BadBlock(&'static str),
}

/// How a block's data are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
    /// The next bytes of a zstd frame that goes on over blocks.
    Stream {
        /// Whether it ends here.
        end: bool,
    },
    /// Numbers of chunks that the receiver has offered, and bytes between them.
    Chunks,
}

/// What is said of a block before its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Index of the path in the manifest.
    pub path: u32,
    /// Position of the first byte in the path's NAR.
    pub offset: u64,
    /// Length of the data once decoded, in bytes.
    pub raw_len: u32,
    /// How the data are encoded.
    pub encoding: Encoding,
    /// Whether this ends the path's NAR.
    pub last: bool,
}

impl BlockHeader {
    fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut out = [0; BLOCK_HEADER];
        out[0..4].copy_from_slice(&self.path.to_le_bytes());
        out[4..12].copy_from_slice(&self.offset.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        out[16] = match self.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
            Encoding::Stream { .. } => 2,
            Encoding::Chunks => 3,
        };
        let end = matches!(self.encoding, Encoding::Stream { end: true });
        out[17] = if self.last { FLAG_LAST } else { 0 } | if end { FLAG_END } else { 0 };
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let header: &[u8; BLOCK_HEADER] = bytes
            .get(..BLOCK_HEADER)
            .and_then(|b| b.try_into().ok())
            .ok_or(FrameError::BadBlock("shorter than its header"))?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let raw_len = u32_at(12);
        if raw_len as usize > MAX_BLOCK_RAW {
            return Err(FrameError::BadBlock("more data than a block may hold"));
        }
        let flags = header[17];
        let end = flags & FLAG_END != 0;
        let encoding = match header[16] {
            0 if bytes.len() - BLOCK_HEADER != raw_len as usize => {
                return Err(FrameError::BadBlock("raw data of another length than announced"));
            }
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            2 => Encoding::Stream { end },
            3 if read_parts(&bytes[BLOCK_HEADER..], raw_len).is_none() => {
                return Err(FrameError::BadBlock("parts that can't be its bytes"));
            }
            3 => Encoding::Chunks,
            _ => return Err(FrameError::BadBlock("unknown encoding")),
        };
        if flags & !(FLAG_LAST | FLAG_END) != 0
            || (end && !matches!(encoding, Encoding::Stream { .. }))
        {
            return Err(FrameError::BadBlock("unknown flags"));
        }
        Ok(BlockHeader {
            path: u32_at(0),
            offset: u64::from_le_bytes(header[4..12].try_into().unwrap()),
            raw_len,
            encoding,
            last: flags & FLAG_LAST != 0,
        })
    }
}

/// What kind of payload a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One JSON message.
    Control,
    /// A block of closure data.
    Block {
        /// Its place among the blocks.
        number: u64,
    },
}

/// A frame's header, checked against the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// The payload's length, in bytes.
    pub length: usize,
    hash: [u8; 32],
}

impl Header {
    /// Whether these bytes are the payload that was sent.
    pub fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        let right = payload.len() == self.length && *blake3::hash(payload).as_bytes() == self.hash;
        if right { Ok(()) } else { Err(FrameError::Damaged) }
    }
}

/// A frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A control message's JSON. Zeroed when dropped through [`ControlBytes`].
    Control(ControlBytes),
    /// A block of closure data, still encoded.
    Block(BlockHeader, Vec<u8>),
}

/// A control message's bytes, zeroed when dropped because it may carry secrets.
#[derive(PartialEq, Eq)]
pub struct ControlBytes(pub Vec<u8>);

impl std::fmt::Debug for ControlBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlBytes({} bytes)", self.0.len())
    }
}

impl Drop for ControlBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A control frame's payload while it arrives. It grows as bytes come, since a length that is only
/// claimed must take no memory, and leaves no copy of them behind when it does.
#[derive(Debug)]
pub struct Arriving {
    bytes: ControlBytes,
    filled: usize,
    length: usize,
}

/// What is set aside for a payload before any of it came, in bytes.
const FIRST: usize = 64 << 10;

impl Arriving {
    /// For a payload of `length` bytes.
    pub fn new(length: usize) -> Self {
        Arriving { bytes: ControlBytes(vec![0; length.min(FIRST)]), filled: 0, length }
    }

    /// Where the next bytes go; empty once all are there.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled == self.bytes.0.len() && self.filled < self.length {
            let mut larger = ControlBytes(vec![0; (self.filled * 2).min(self.length)]);
            larger.0[..self.filled].copy_from_slice(&self.bytes.0);
            self.bytes = larger;
        }
        &mut self.bytes.0[self.filled..]
    }

    /// Notes that `count` more bytes are in the space.
    pub fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    /// The payload, if it is whole.
    pub fn whole(mut self) -> Option<Vec<u8>> {
        (self.filled == self.length).then(|| std::mem::take(&mut self.bytes.0))
    }
}

fn check_bytes(fields: &[u8], hash: &[u8]) -> [u8; 3] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields).update(hash);
    let digest = hasher.finalize();
    let bytes = digest.as_bytes();
    [bytes[0], bytes[1], bytes[2]]
}

/// Whether a header's first bytes can be those of one. Who speaks another protocol may never send
/// as much as a header.
pub fn check_kind(prefix: &[u8; PREFIX]) -> Result<(), FrameError> {
    match prefix[4] {
        KIND_CONTROL | KIND_BLOCK => Ok(()),
        kind => Err(FrameError::UnknownKind(kind)),
    }
}

/// A frame's header. For readers that know how many bytes to ask for next.
pub fn parse_header(header: [u8; HEADER]) -> Result<Header, FrameError> {
    let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
    let number = u64::from_le_bytes(header[NUMBER].try_into().unwrap());
    let (kind, limit) = match header[4] {
        KIND_CONTROL => (Kind::Control, MAX_CONTROL),
        KIND_BLOCK => (Kind::Block { number }, MAX_BLOCK),
        kind => return Err(FrameError::UnknownKind(kind)),
    };
    if check_bytes(&header[..5], &header[8..]) != header[5..8] {
        return Err(FrameError::DamagedHeader);
    }
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if kind == Kind::Control && number != 0 {
        return Err(FrameError::NumberedControl);
    }
    Ok(Header { kind, length, hash: header[HASH..].try_into().unwrap() })
}

/// A whole payload as a frame.
pub fn parse_payload(header: &Header, mut payload: Vec<u8>) -> Result<Frame, FrameError> {
    match header.kind {
        Kind::Control => {
            let payload = ControlBytes(payload);
            header.check(&payload.0)?;
            Ok(Frame::Control(payload))
        }
        Kind::Block { .. } => {
            let block = parse_block(header, &payload)?;
            payload.drain(..BLOCK_HEADER);
            Ok(Frame::Block(block, payload))
        }
    }
}

/// What a block's payload says before its data, which begin at [`BLOCK_HEADER`].
pub fn parse_block(header: &Header, payload: &[u8]) -> Result<BlockHeader, FrameError> {
    header.check(payload)?;
    BlockHeader::decode(payload)
}

fn header(
    kind: u8,
    length: usize,
    limit: usize,
    hash: &blake3::Hash,
) -> Result<[u8; HEADER], FrameError> {
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    out[4] = kind;
    out[HASH..].copy_from_slice(hash.as_bytes());
    seal(&mut out);
    Ok(out)
}

/// Puts in the check of a header's other fields.
fn seal(header: &mut [u8]) {
    let check = check_bytes(&header[..5], &header[8..HEADER]);
    header[5..8].copy_from_slice(&check);
}

/// A control frame around `json`.
pub fn encode_control(json: &[u8]) -> Result<ControlBytes, FrameError> {
    let header = header(KIND_CONTROL, json.len(), MAX_CONTROL, &blake3::hash(json))?;
    let mut out = Vec::with_capacity(HEADER + json.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(json);
    Ok(ControlBytes(out))
}

/// Frame header and block header.
pub type EncodedBlockHeader = [u8; HEADER + BLOCK_HEADER];

/// Gives a block its number.
pub fn set_number(encoded: &mut EncodedBlockHeader, number: u64) {
    encoded[NUMBER].copy_from_slice(&number.to_le_bytes());
    seal(encoded);
}

/// What goes before a block's data: frame header and block header. Its number is 0.
pub fn encode_block_header(
    block: &BlockHeader,
    data: &[u8],
) -> Result<EncodedBlockHeader, FrameError> {
    let block = block.encode();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&block).update(data);
    let header = header(KIND_BLOCK, BLOCK_HEADER + data.len(), MAX_BLOCK, &hasher.finalize())?;
    let mut out = [0; HEADER + BLOCK_HEADER];
    out[..HEADER].copy_from_slice(&header);
    out[HEADER..].copy_from_slice(&block);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::{Part, write_parts};
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        let header = parse_header(bytes[..HEADER].try_into().unwrap())?;
        parse_payload(&header, bytes[HEADER..].to_vec())
    }

    fn block_bytes(block: &BlockHeader, data: &[u8]) -> Vec<u8> {
        let mut bytes = encode_block_header(block, data).unwrap().to_vec();
        bytes.extend_from_slice(data);
        bytes
    }

    proptest! {
        #[test]
        fn a_payload_arrives_in_any_pieces(length in 0..400_000usize, piece in 1..90_000usize) {
            let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut arriving = Arriving::new(length);
            let mut at = 0;
            while at < length {
                let space = arriving.space();
                prop_assert!(!space.is_empty());
                let count = piece.min(space.len());
                space[..count].copy_from_slice(&data[at..at + count]);
                arriving.advance(count);
                at += count;
            }
            prop_assert!(arriving.space().is_empty());
            prop_assert_eq!(arriving.whole().unwrap(), data);
        }

        #[test]
        fn a_number_is_read_as_it_was_given(number: u64, data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let block = BlockHeader { path: 1, offset: 7, raw_len: data.len() as u32, encoding: Encoding::Raw, last: false };
            let mut bytes = block_bytes(&block, &data);
            let mut encoded = bytes[..HEADER + BLOCK_HEADER].try_into().unwrap();
            set_number(&mut encoded, number);
            bytes[..encoded.len()].copy_from_slice(&encoded);
            let header = parse_header(bytes[..HEADER].try_into().unwrap()).unwrap();
            prop_assert_eq!(header.kind, Kind::Block { number });
            prop_assert_eq!(read(&bytes).unwrap(), Frame::Block(block, data));
        }

        #[test]
        fn blocks_round_trip(path: u32, offset: u64, data in proptest::collection::vec(any::<u8>(), 0..2000), last: bool, stream: Option<bool>) {
            let encoding = stream.map_or(Encoding::Raw, |end| Encoding::Stream { end });
            let block = BlockHeader { path, offset, raw_len: data.len() as u32, encoding, last };
            prop_assert_eq!(read(&block_bytes(&block, &data)).unwrap(), Frame::Block(block, data));
        }

        #[test]
        fn blocks_of_parts_round_trip(path: u32, offset: u64, numbers in proptest::collection::vec(0..1u32 << 31, 1..300), last: bool) {
            let parts: Vec<Part> = numbers.into_iter().map(Part::Chunk).collect();
            let data = write_parts(&parts, b"");
            let block = BlockHeader { path, offset, raw_len: 1 << 20, encoding: Encoding::Chunks, last };
            prop_assert_eq!(read(&block_bytes(&block, &data)).unwrap(), Frame::Block(block, data));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(header: [u8; HEADER], payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(header) = parse_header(header) {
                let _ = parse_payload(&header, payload);
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(data in proptest::collection::vec(any::<u8>(), 0..300), at: proptest::sample::Index, bit in 0..8u8, control: bool) {
            let block = BlockHeader { path: 1, offset: 7, raw_len: data.len() as u32, encoding: Encoding::Raw, last: false };
            let mut bytes = match control {
                true => encode_control(&data).unwrap().0.clone(),
                false => block_bytes(&block, &data),
            };
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let error = read(&bytes).unwrap_err();
            // Whether the next frame can still be found.
            prop_assert_eq!(error == FrameError::Damaged, at >= HEADER);
        }
    }

    #[test]
    fn limits_hold_at_both_ends() {
        let long = header(KIND_CONTROL, MAX_CONTROL + 1, usize::MAX, &blake3::hash(b"")).unwrap();
        assert!(matches!(parse_header(long), Err(FrameError::TooLong { .. })));
        let block =
            BlockHeader { path: 0, offset: 0, raw_len: 0, encoding: Encoding::Zstd, last: true };
        let data = vec![0; MAX_BLOCK];
        assert!(matches!(encode_block_header(&block, &data), Err(FrameError::TooLong { .. })));
        let mut greeting = [b' '; HEADER];
        greeting[..7].copy_from_slice(b"Welcome");
        assert_eq!(parse_header(greeting), Err(FrameError::UnknownKind(b'o')));
    }

    #[test]
    fn parts_that_cant_be_a_blocks_bytes_are_refused() {
        for (raw_len, length) in [(0, 8), (100, 0), (100, 3), (100, 9)] {
            let encoding = Encoding::Chunks;
            let block = BlockHeader { path: 0, offset: 0, raw_len, encoding, last: true };
            let data: Vec<u8> = [&1u32.to_le_bytes()[..], &[0; 8]].concat()[..length].to_vec();
            let refused = read(&block_bytes(&block, &data));
            assert!(matches!(refused, Err(FrameError::BadBlock(_))), "{raw_len} {length}");
        }
    }
}
