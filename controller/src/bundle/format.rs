//! The file format of bundles: header, index, footer. See `docs/bundle-format.md`.

use super::BundleError;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::{nar, store_path};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::Read;

/// What a bundle begins and ends with.
pub const MAGIC: &[u8; 16] = b"keystone bundle\n";
/// The format's version.
pub const VERSION: u32 = 1;
/// Length of the header, in bytes.
pub const HEADER: usize = 24;
/// Length of the footer, in bytes.
pub const FOOTER: usize = 80;
/// NAR bytes in a block, as written: enough for a good ratio, little to read for a small file.
pub const BLOCK: u32 = 8 << 20;
/// NAR bytes in a block, as read at most.
pub const MAX_BLOCK: u32 = 64 << 20;
/// The longest index, in bytes, once decompressed: some 400,000 paths.
pub const MAX_INDEX: u64 = 256 << 20;
/// The longest list of signatures, in bytes.
pub const MAX_SIGNATURES: u64 = 64 << 10;

/// Magic, version, and how many NAR bytes a block has.
pub fn header(block: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..20].copy_from_slice(&VERSION.to_le_bytes());
    header[20..].copy_from_slice(&block.to_le_bytes());
    header
}

/// The length of a block in NAR bytes, out of a header.
pub fn read_header(header: &[u8; HEADER]) -> Result<u32, BundleError> {
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if &header[..16] != MAGIC {
        return Err(BundleError::NotABundle);
    }
    if number(16) != VERSION {
        return Err(BundleError::Version(number(16)));
    }
    match number(20) {
        block @ 1..=MAX_BLOCK => Ok(block),
        block => Err(BundleError::Malformed(format!("blocks of {block} bytes"))),
    }
}

/// Where the index is, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the index begins, in bytes from the file's beginning; the blocks end there.
    pub index_at: u64,
    /// Its length.
    pub index_length: u64,
    /// Its length once decompressed.
    pub index_raw: u64,
    /// Length of the signatures, which follow it.
    pub signatures_length: u64,
    /// Blake3 of header and index: of all of the bundle, since the index has the blocks' hashes.
    pub root: [u8; 32],
}

impl Footer {
    /// As bytes.
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        let numbers = [self.index_at, self.index_length, self.index_raw, self.signatures_length];
        for (number, place) in numbers.iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[32..64].copy_from_slice(&self.root);
        bytes[64..].copy_from_slice(MAGIC);
        bytes
    }

    /// Out of the last bytes of a file of `length` bytes; every length is within the file and its
    /// bound.
    pub fn decode(bytes: &[u8; FOOTER], length: u64) -> Result<Self, BundleError> {
        let number = |n: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[n * 8..n * 8 + 8]);
            u64::from_le_bytes(number)
        };
        if &bytes[64..] != MAGIC {
            return Err(BundleError::Truncated);
        }
        let mut root = [0; 32];
        root.copy_from_slice(&bytes[32..64]);
        let footer = Footer {
            index_at: number(0),
            index_length: number(1),
            index_raw: number(2),
            signatures_length: number(3),
            root,
        };
        let end = [footer.index_length, footer.signatures_length, FOOTER as u64]
            .iter()
            .try_fold(footer.index_at, |sum, part| sum.checked_add(*part));
        let fits = end == Some(length)
            && footer.index_at >= HEADER as u64
            && footer.index_raw <= MAX_INDEX
            && footer.index_length <= MAX_INDEX
            && footer.signatures_length <= MAX_SIGNATURES;
        match fits {
            true => Ok(footer),
            false => Err(BundleError::Malformed("a footer that does not fit the file".into())),
        }
    }
}

/// What is signed of a bundle.
pub fn signed_text(root: &[u8; 32]) -> String {
    format!("keystone-bundle-1;blake3:{}", hex::encode(root))
}

/// Blake3 of header and compressed index.
pub fn root(header: &[u8; HEADER], index: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(index).finalize().as_bytes()
}

/// What is in a bundle, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The paths, in the order of their NARs, which follow each other without a gap.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// The blocks of that series, each compressed by itself, in order and without a gap.
    pub blocks: Vec<Block>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Length of its Zstandard frame, in bytes.
    pub length: u64,
    /// Blake3 of the frame, 64 lower-case hex digits.
    pub blake3: String,
}

impl Index {
    /// Decompresses and checks an index, which is followed by nothing.
    pub fn read(compressed: &[u8], raw: u64, block: u32, data: u64) -> Result<Self, BundleError> {
        let bad = |what: String| BundleError::Malformed(what);
        let fail = |error: std::io::Error| bad(format!("an index that can't be read: {error}"));
        let mut text = Vec::new();
        let decoder = zstd::Decoder::new(compressed).map_err(fail)?;
        decoder.take(raw + 1).read_to_end(&mut text).map_err(fail)?;
        if text.len() as u64 != raw {
            return Err(bad("an index of another length than announced".into()));
        }
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| bad(format!("an index that can't be read: {error}")))?;
        index.check(block, data)?;
        Ok(index)
    }

    /// `data`: bytes between header and index.
    fn check(&self, block: u32, data: u64) -> Result<(), BundleError> {
        let bad = |what: String| Err(BundleError::Malformed(what));
        let mut total = 0u64;
        let mut names = HashSet::new();
        for info in &self.manifest.paths {
            if store_path::base_name(&info.path).is_none() || !names.insert(info.path.as_str()) {
                return bad(format!("{:?} as a store path, or twice", info.path));
            }
            if info.nar_size < nar::SMALLEST || info.nar_size > i64::MAX as u64 {
                return bad(format!("a NAR of {} bytes", info.nar_size));
            }
            match total.checked_add(info.nar_size) {
                Some(sum) => total = sum,
                None => return bad("NARs longer than can be counted".into()),
            }
        }
        let references = self.manifest.paths.iter().flat_map(|info| &info.references);
        if let Some(open) = references.into_iter().find(|r| !names.contains(r.as_str())) {
            return bad(format!("a reference to {open:?}, which it lacks"));
        }
        if !names.contains(self.manifest.toplevel.as_str()) {
            return bad(format!("not {:?}, which it is said to be of", self.manifest.toplevel));
        }
        if self.blocks.len() as u64 != total.div_ceil(u64::from(block)) {
            return bad(format!("{} blocks for {total} NAR bytes", self.blocks.len()));
        }
        let lengths = self.blocks.iter().try_fold(0u64, |sum, b| sum.checked_add(b.length));
        if lengths != Some(data) {
            return bad("blocks that do not fill the file".into());
        }
        // A frame is hardly longer than what is in it (zstd's ZSTD_COMPRESSBOUND).
        let bound = u64::from(block) + u64::from(block) / 128 + 1024;
        if self.blocks.iter().any(|b| b.length > bound) {
            return bad("a block that is longer than what is in it".into());
        }
        Ok(())
    }
}

/// What a fuzzer calls: no bytes make the readers of footer, header and index panic or take more
/// memory than they may.
pub fn fuzz(bytes: &[u8]) {
    if let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let _ = read_header(header);
        if let Some((body, footer)) = rest.split_last_chunk::<FOOTER>() {
            let _ = Footer::decode(footer, bytes.len() as u64);
            let _ = Index::read(body, 1 << 20, BLOCK, 1000);
        }
    }
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let _ = index.check(BLOCK, 1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn footers(index_length in 0u64..1000, index_raw in 0u64..1000, signatures_length in 0u64..100, gap in 0u64..9, root: [u8; 32]) {
            let index_at = HEADER as u64 + gap;
            let footer = Footer { index_at, index_length, index_raw, signatures_length, root };
            let length = index_at + index_length + signatures_length + FOOTER as u64;
            prop_assert_eq!(Footer::decode(&footer.encode(), length).unwrap(), footer);
            prop_assert!(Footer::decode(&footer.encode(), length + 1).is_err());
        }

        #[test]
        fn fuzzed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
            let compressed = zstd::encode_all(&bytes[..], 1).unwrap();
            fuzz(&[&header(BLOCK)[..], &compressed, &[0; FOOTER]].concat());
        }
    }

    #[test]
    fn hostile_footers() {
        let footer = Footer {
            index_at: u64::MAX,
            index_length: u64::MAX,
            index_raw: 1,
            signatures_length: 5,
            root: [0; 32],
        };
        assert!(Footer::decode(&footer.encode(), 200).is_err());
        let huge = Footer { index_at: 24, index_length: 10, index_raw: MAX_INDEX + 1, ..footer };
        assert!(Footer::decode(&huge.encode(), 24 + 10 + 5 + 80).is_err());
        assert!(Footer::decode(&[7; FOOTER], 200).is_err());
    }
}
