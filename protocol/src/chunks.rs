//! Pieces of NARs that end where their contents say so, and are known by their hash.
//!
//! Both ends cut with the same parameters, so that what two NARs have in common falls into the
//! same pieces wherever it lies in them. The algorithm is FastCDC (Xia et al., "The Design of Fast
//! Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020) with the gear
//! tables and masks of the crate `fastcdc`, which belong to the protocol's version.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastcdc::v2020::FastCDC;

/// No chunk but an archive's last is shorter, in bytes.
pub const MIN: usize = 4 << 10;
/// About as long are most of them, in bytes.
pub const AVERAGE: usize = 16 << 10;
/// No chunk is longer, in bytes.
pub const MAX: usize = 64 << 10;
/// The most chunks that one end may offer the other for one stream: of some 2 GiB.
pub const MAX_OFFERED: usize = 1 << 17;

/// The beginning of a chunk's blake3. A chunk is found by it; that a NAR is right is what its
/// SHA-256 says.
pub type ChunkHash = [u8; 16];

/// What a chunk is known by.
pub fn hash(chunk: &[u8]) -> ChunkHash {
    let mut out = ChunkHash::default();
    out.copy_from_slice(&blake3::hash(chunk).as_bytes()[..size_of::<ChunkHash>()]);
    out
}

/// A part of what a block's bytes are put together from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The chunk of this number.
    Chunk(u32),
    /// So many of the bytes that came with it.
    Bytes(u32),
}

/// Marks what is no chunk.
const BYTES: u32 = 1 << 31;
/// The length of a number, in bytes.
const NUMBER: usize = 4;

/// A block's data: what its bytes are put together from. `bytes` are those of all [`Part::Bytes`], as
/// they are or as one zstd frame that is shorter.
///
/// ```text
/// data = u32le count, count times u32le part, bytes
/// part = number of a chunk, or length of bytes with bit 31 set
/// ```
pub fn write_parts(parts: &[Part], bytes: &[u8]) -> Vec<u8> {
    let number = |part: &Part| match *part {
        Part::Chunk(number) => number,
        Part::Bytes(length) => length | BYTES,
    };
    let mut out = Vec::with_capacity(NUMBER * (1 + parts.len()) + bytes.len());
    out.extend_from_slice(&(parts.len() as u32).to_le_bytes());
    out.extend(parts.iter().flat_map(|part| number(part).to_le_bytes()));
    out.extend_from_slice(bytes);
    out
}

/// What a block of `raw_len` bytes is put together from, the bytes that came with it, and how many
/// they are once decompressed; they are compressed unless they are as many. `None` if that can't be.
pub fn read_parts(
    data: &[u8],
    raw_len: u32,
) -> Option<(impl Iterator<Item = Part> + Clone, &[u8], usize)> {
    let (count, rest) = data.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    if count == 0 || count > raw_len {
        return None;
    }
    let (parts, bytes) = rest.split_at_checked(count as usize * NUMBER)?;
    let parts = parts.as_chunks().0.iter().map(|part| match u32::from_le_bytes(*part) {
        number if number < BYTES => Part::Chunk(number),
        length => Part::Bytes(length & !BYTES),
    });
    let lengths = parts.clone().map(|part| match part {
        Part::Chunk(_) => 0,
        Part::Bytes(length) => u64::from(length),
    });
    // At most 2^31 numbers below 2^31: no overflow.
    let length: u64 = lengths.sum();
    let possible = length <= u64::from(raw_len)
        && bytes.len() as u64 <= length
        && (length == 0 || !bytes.is_empty());
    possible.then_some((parts, bytes, length as usize))
}

/// Hashes as text, one after the other in base64.
pub fn to_text(hashes: &[ChunkHash]) -> String {
    STANDARD.encode(hashes.as_flattened())
}

/// The hashes in a text; `None` if it is none, or has more than [`MAX_OFFERED`].
pub fn from_text(text: &str) -> Option<Vec<ChunkHash>> {
    // A third more than the bytes, and padding.
    if text.len() > MAX_OFFERED * size_of::<ChunkHash>() / 3 * 4 + 8 {
        return None;
    }
    let bytes = STANDARD.decode(text).ok()?;
    let (hashes, rest) = bytes.as_chunks();
    (rest.is_empty() && hashes.len() <= MAX_OFFERED).then(|| hashes.to_vec())
}

/// Cuts bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct Cutter {
    /// What came since the last cut.
    bytes: Vec<u8>,
}

impl Cutter {
    /// Takes the next bytes, and hands over the chunks that end in them.
    ///
    /// # Errors
    /// The first one that `each` returns; no chunk is handed over after it.
    pub fn push<E>(
        &mut self,
        data: &[u8],
        each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.bytes.extend_from_slice(data);
        // Where a chunk ends depends on nothing that is further away.
        self.cut(MAX, each)
    }

    /// The bytes have ended: hands over the rest.
    ///
    /// # Errors
    /// As [`Cutter::push`].
    pub fn end<E>(&mut self, each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.cut(1, each)
    }

    /// Cuts as long as there are `least` bytes.
    fn cut<E>(
        &mut self,
        least: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let cdc = FastCDC::new(&self.bytes, MIN, AVERAGE, MAX);
        let mut begin = 0;
        let mut result = Ok(());
        while result.is_ok() && self.bytes.len() - begin >= least {
            let (_, end) = cdc.cut(begin, self.bytes.len() - begin);
            result = each(&self.bytes[begin..end]);
            begin = end;
        }
        self.bytes.drain(..begin);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(length)
        .collect()
    }

    fn chunks(data: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::default();
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut each = |chunk: &[u8]| {
            out.push(chunk.to_vec());
            Ok::<(), Infallible>(())
        };
        for piece in data.chunks(piece) {
            cutter.push(piece, &mut each).unwrap();
        }
        cutter.end(&mut each).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// In whatever pieces bytes come, the chunks are the same, and all of the bytes.
        #[test]
        fn pieces_do_not_matter(seed: u64, length in 0..600_000usize, piece in 1000..300_000usize, flat: bool) {
            let data = if flat { vec![0; length] } else { noise(seed, length) };
            let whole = chunks(&data, usize::MAX);
            prop_assert!(whole.concat() == data);
            prop_assert!(whole.iter().all(|chunk| chunk.len() <= MAX));
            prop_assert!(whole.iter().rev().skip(1).all(|chunk| chunk.len() >= MIN));
            prop_assert!(chunks(&data, piece) == whole);
        }

        #[test]
        fn hashes_survive_as_text(hashes in proptest::collection::vec(any::<ChunkHash>(), 0..40), any in ".{0,80}") {
            prop_assert_eq!(from_text(&to_text(&hashes)), Some(hashes));
            let _ = from_text(&any);
        }
    }

    proptest! {
        #[test]
        fn parts_survive(numbers in proptest::collection::vec((any::<bool>(), 0..2000u32), 1..40), any in proptest::collection::vec(any::<u8>(), 0..60)) {
            let parts: Vec<Part> = numbers.iter()
                .map(|&(chunk, n)| if chunk { Part::Chunk(n) } else { Part::Bytes(n) }).collect();
            let length = numbers.iter().filter(|(chunk, _)| !chunk).map(|(_, n)| *n as usize).sum();
            let data = write_parts(&parts, &vec![7; length]);
            let (read, bytes, total) = read_parts(&data, 1 << 20).unwrap();
            prop_assert_eq!(read.collect::<Vec<_>>(), parts);
            prop_assert_eq!((bytes.len(), total), (length, length));
            let _ = read_parts(&any, 1000).map(|(parts, _, _)| parts.count());
        }
    }

    #[test]
    fn parts_that_can_not_be() {
        let data = |parts: &[Part], bytes: &[u8]| write_parts(parts, bytes);
        let (chunk, bytes) = (Part::Chunk(3), Part::Bytes(10));
        for (data, raw_len) in [
            (vec![], 10),
            (data(&[], b""), 10),
            (data(&[chunk], b"x"), 10),
            (data(&[chunk, chunk], b""), 1),
            (data(&[bytes], b""), 10),
            (data(&[bytes], &[0; 10]), 9),
            (data(&[bytes], &[0; 11]), 20),
            (data(&[Part::Bytes(u32::MAX), Part::Bytes(u32::MAX)], b"x"), 8 << 20),
            (data(&[chunk, chunk], b"")[..10].to_vec(), 10),
            (u32::MAX.to_le_bytes().to_vec(), u32::MAX),
        ] {
            assert!(read_parts(&data, raw_len).is_none(), "{data:?}");
        }
        assert!(read_parts(&data(&[chunk, bytes], b"short"), 20).is_some());
    }

    /// What comes after an insertion is found again.
    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(7, 4 << 20);
        let mut after = before.clone();
        after.splice(1_000_000..1_000_000, *b"some bytes");
        let known: std::collections::HashSet<ChunkHash> =
            chunks(&before, 1 << 20).iter().map(|chunk| hash(chunk)).collect();
        let found = chunks(&after, 1 << 20);
        let new = found.iter().filter(|chunk| !known.contains(&hash(chunk))).count();
        assert!((1..=3).contains(&new), "{new} of {}", found.len());
    }

    #[test]
    fn what_are_no_hashes() {
        assert_eq!(from_text(""), Some(vec![]));
        for text in ["AAAA", "!", &STANDARD.encode([0; 17])] {
            assert_eq!(from_text(text), None, "{text}");
        }
        let many = to_text(&vec![[0; 16]; MAX_OFFERED]);
        assert_eq!(from_text(&many).map(|hashes| hashes.len()), Some(MAX_OFFERED));
        assert_eq!(from_text(&to_text(&vec![[0; 16]; MAX_OFFERED + 1])), None);
    }
}
