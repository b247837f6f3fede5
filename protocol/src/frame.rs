//! Frames: how messages and closure data share one byte stream.
//!
//! ```text
//! frame   = u32le length, u8 kind, length bytes of payload
//! kind 0  = control: one JSON message
//! kind 1  = block: a piece of a NAR (header below, then the data)
//!
//! block   = u32le path, u64le offset, u32le raw length, u8 encoding, u8 flags, data
//! ```
//!
//! `length` counts the payload only. `path` is the index in the manifest, `offset` the position
//! of the block's first byte in the path's NAR, `encoding` 0 for raw and 1 for one zstd frame,
//! flag bit 0 marks a path's last block.

use thiserror::Error;
use zeroize::Zeroize;

/// The longest control message, in bytes: a manifest of some 60,000 paths.
pub const MAX_CONTROL: usize = 64 << 20;
/// The most NAR bytes that one block may hold, before compression.
pub const MAX_BLOCK_RAW: usize = 8 << 20;
/// The longest block payload, in bytes: incompressible data plus zstd's overhead and the header.
pub const MAX_BLOCK: usize = MAX_BLOCK_RAW + (MAX_BLOCK_RAW >> 7) + 64;
/// The frame header's length, in bytes.
pub const HEADER: usize = 5;
/// The block header's length, in bytes.
pub const BLOCK_HEADER: usize = 18;

const KIND_CONTROL: u8 = 0;
const KIND_BLOCK: u8 = 1;
const FLAG_LAST: u8 = 1;

/// A frame that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is unknown.
    #[error(
        "frame of unknown kind {0}: the stream is not Keystone's protocol (does the login shell print something?)"
    )]
    UnknownKind(u8),
    /// The length is over the limit of its kind.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the header says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
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
        };
        out[17] = if self.last { FLAG_LAST } else { 0 };
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
        let encoding = match header[16] {
            0 if bytes.len() - BLOCK_HEADER != raw_len as usize => {
                return Err(FrameError::BadBlock("raw data of another length than announced"));
            }
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            _ => return Err(FrameError::BadBlock("unknown encoding")),
        };
        let last = match header[17] {
            0 => false,
            FLAG_LAST => true,
            _ => return Err(FrameError::BadBlock("unknown flags")),
        };
        Ok(BlockHeader {
            path: u32_at(0),
            offset: u64::from_le_bytes(header[4..12].try_into().unwrap()),
            raw_len,
            encoding,
            last,
        })
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

/// A frame's header: the kind and the payload's length, checked against the limits.
///
/// For readers that know how many bytes to ask for next.
pub fn parse_header(header: [u8; HEADER]) -> Result<(u8, usize), FrameError> {
    let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
    let limit = match header[4] {
        KIND_CONTROL => MAX_CONTROL,
        KIND_BLOCK => MAX_BLOCK,
        kind => return Err(FrameError::UnknownKind(kind)),
    };
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok((header[4], length))
}

/// A whole payload of the kind that [`parse_header`] returned, as a frame.
pub fn parse_payload(kind: u8, mut payload: Vec<u8>) -> Result<Frame, FrameError> {
    match kind {
        KIND_CONTROL => Ok(Frame::Control(ControlBytes(payload))),
        KIND_BLOCK => {
            let header = BlockHeader::decode(&payload)?;
            payload.drain(..BLOCK_HEADER);
            Ok(Frame::Block(header, payload))
        }
        kind => Err(FrameError::UnknownKind(kind)),
    }
}

fn header(kind: u8, length: usize, limit: usize) -> Result<[u8; HEADER], FrameError> {
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    out[4] = kind;
    Ok(out)
}

/// A control frame around `json`.
pub fn encode_control(json: &[u8]) -> Result<ControlBytes, FrameError> {
    let header = header(KIND_CONTROL, json.len(), MAX_CONTROL)?;
    let mut out = Vec::with_capacity(HEADER + json.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(json);
    Ok(ControlBytes(out))
}

/// What goes before a block's `encoded_len` bytes of data: frame header and block header.
pub fn encode_block_header(
    block: &BlockHeader,
    encoded_len: usize,
) -> Result<[u8; HEADER + BLOCK_HEADER], FrameError> {
    let header = header(KIND_BLOCK, BLOCK_HEADER + encoded_len, MAX_BLOCK)?;
    let mut out = [0; HEADER + BLOCK_HEADER];
    out[..HEADER].copy_from_slice(&header);
    out[HEADER..].copy_from_slice(&block.encode());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (kind, length) = parse_header(bytes[..HEADER].try_into().unwrap())?;
        parse_payload(kind, bytes[HEADER..HEADER + length].to_vec())
    }

    proptest! {
        #[test]
        fn blocks_round_trip(path: u32, offset: u64, data in proptest::collection::vec(any::<u8>(), 0..2000), last: bool) {
            let block = BlockHeader { path, offset, raw_len: data.len() as u32, encoding: Encoding::Raw, last };
            let mut bytes = encode_block_header(&block, data.len()).unwrap().to_vec();
            bytes.extend_from_slice(&data);
            prop_assert_eq!(read(&bytes).unwrap(), Frame::Block(block, data));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(header: [u8; HEADER], payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((kind, _)) = parse_header(header) {
                let _ = parse_payload(kind, payload);
            }
        }
    }

    #[test]
    fn limits_hold_at_both_ends() {
        let mut header = [0xff; HEADER];
        header[4] = KIND_CONTROL;
        assert!(matches!(parse_header(header), Err(FrameError::TooLong { .. })));
        let block =
            BlockHeader { path: 0, offset: 0, raw_len: 0, encoding: Encoding::Zstd, last: true };
        assert!(matches!(encode_block_header(&block, MAX_BLOCK), Err(FrameError::TooLong { .. })));
        assert_eq!(parse_header(*b"Welco"), Err(FrameError::UnknownKind(b'o')));
    }
}
