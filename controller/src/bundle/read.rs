//! Reads bundles, at any place.

use super::format::{self, FOOTER, Footer, HEADER, Index};
use super::{BundleError, Signed};
use crate::closure::signature::{PublicKey, signer};
use crate::closure::{ClosureError, ClosureSource};
use crate::nar::DumpError;
use keystone_protocol::manifest::{Manifest, PathInfo};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Decompressed blocks that are kept, in bytes: one for each of a few readers, as blocks are written. Of larger
/// ones fewer are, but always the last.
const KEPT: u64 = 32 << 20;

/// A bundle, opened: header, index and footer agree, blocks are checked when they are read.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    file: File,
    index: Index,
    root: [u8; 32],
    signatures: Vec<String>,
    block: u64,
    /// Where each block begins in the file.
    starts: Vec<u64>,
    /// Where each path's NAR begins in the series of all, and its length.
    nars: HashMap<String, (u64, u64)>,
    total: u64,
    kept: Mutex<Kept>,
}

impl Bundle {
    /// Opens a bundle.
    pub fn open(path: &Path) -> Result<Self, ClosureError> {
        Self::read(path).map_err(|source| ClosureError::Bundle { path: path.to_owned(), source })
    }

    fn read(path: &Path) -> Result<Self, BundleError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(short)?;
        let block = format::read_header(&header)?;
        let mut footer = [0; FOOTER];
        let footer_at = length.checked_sub(FOOTER as u64).ok_or(BundleError::Truncated)?;
        file.read_exact_at(&mut footer, footer_at).map_err(short)?;
        let footer = Footer::decode(&footer, length)?;
        let mut compressed = vec![0; footer.index_length as usize];
        file.read_exact_at(&mut compressed, footer.index_at).map_err(short)?;
        if format::root(&header, &compressed) != footer.root {
            return Err(BundleError::Damaged("its index".into()));
        }
        let mut signatures = vec![0; footer.signatures_length as usize];
        let signatures_at = footer.index_at + footer.index_length;
        file.read_exact_at(&mut signatures, signatures_at).map_err(short)?;
        let signatures = String::from_utf8_lossy(&signatures);
        let data = footer.index_at - HEADER as u64;
        let index = Index::read(&compressed, footer.index_raw, block, data)?;
        let mut at = HEADER as u64;
        let mut starts = Vec::with_capacity(index.blocks.len());
        for block in &index.blocks {
            starts.push(at);
            at += block.length;
        }
        let mut total = 0;
        let mut nars = HashMap::with_capacity(index.manifest.paths.len());
        for info in &index.manifest.paths {
            nars.insert(info.path.clone(), (total, info.nar_size));
            total += info.nar_size;
        }
        Ok(Bundle {
            path: path.to_owned(),
            file,
            root: footer.root,
            signatures: signatures.lines().map(str::to_owned).collect(),
            block: u64::from(block),
            starts,
            nars,
            total,
            kept: Mutex::default(),
            index,
        })
    }

    /// Whether a file begins as a bundle does.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; format::MAGIC.len()];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0));
        read.is_ok() && &magic == format::MAGIC
    }

    /// Its paths.
    pub fn manifest(&self) -> &Manifest {
        &self.index.manifest
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of its blocks, compressed, in bytes.
    pub fn compressed(&self) -> u64 {
        self.index.blocks.iter().map(|block| block.length).sum()
    }

    /// Who signed it, by their own account.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signatures.iter().map(|signature| signer(signature))
    }

    /// Whether one of these keys signed it.
    pub fn signed_by(&self, keys: &[PublicKey]) -> Signed {
        let text = format::signed_text(&self.root);
        let by = |key: &&PublicKey| self.signatures.iter().any(|s| key.signed(text.as_bytes(), s));
        match keys.iter().find(by) {
            Some(key) => Signed::By(key.name.clone()),
            None => Signed::ByNobodyKnown,
        }
    }

    /// How many blocks it has.
    pub(super) fn blocks(&self) -> usize {
        self.starts.len()
    }

    /// How many NAR bytes a block has.
    fn length(&self, number: usize) -> u64 {
        (self.total - number as u64 * self.block).min(self.block)
    }

    /// A block's NAR bytes, checked.
    pub(super) fn decompress(&self, number: usize) -> Result<Vec<u8>, BundleError> {
        let block = &self.index.blocks[number];
        let damaged = || BundleError::Damaged(format!("block {number} of {}", self.blocks()));
        // Within the bound that the index was checked for.
        let mut frame = vec![0; block.length as usize];
        self.file.read_exact_at(&mut frame, self.starts[number]).map_err(short)?;
        if blake3::hash(&frame).to_hex().as_str() != block.blake3 {
            return Err(damaged());
        }
        let raw = self.length(number) as usize;
        let bytes = zstd::bulk::decompress(&frame, raw).map_err(|_| damaged())?;
        if bytes.len() == raw { Ok(bytes) } else { Err(damaged()) }
    }

    fn get(&self, number: usize) -> Result<Arc<Vec<u8>>, BundleError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(bytes) = kept.find(number) {
                return Ok(bytes);
            }
            kept.make_room(self.length(number));
        }
        let bytes = Arc::new(self.decompress(number)?);
        lock().keep(number, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Writes a path's NAR without its first `skipped` bytes; blocks that lie before are not read.
    fn write(&self, path: &PathInfo, skipped: u64, out: &mut dyn Write) -> Result<(), DumpError> {
        let fail =
            |source| DumpError::Source(ClosureError::Bundle { path: self.path.clone(), source });
        let lacks = || fail(BundleError::Lacks(path.path.clone()));
        let &(start, length) = self.nars.get(&path.path).ok_or_else(lacks)?;
        let (mut at, end) = (start + skipped.min(length), start + length);
        while at < end {
            let number = at / self.block;
            let bytes = self.get(number as usize).map_err(fail)?;
            let from = (at - number * self.block) as usize;
            let to = (end - number * self.block).min(bytes.len() as u64) as usize;
            out.write_all(&bytes[from..to]).map_err(DumpError::Sink)?;
            at += (to - from) as u64;
        }
        Ok(())
    }
}

/// Blocks that were read, the last one last.
#[derive(Debug, Default)]
struct Kept(VecDeque<(usize, Arc<Vec<u8>>)>);

impl Kept {
    fn find(&self, number: usize) -> Option<Arc<Vec<u8>>> {
        self.0.iter().find(|(kept, _)| *kept == number).map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Drops the oldest, until `bytes` more are not too many or nothing is left.
    fn make_room(&mut self, bytes: u64) {
        let all = |kept: &Self| kept.0.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        while !self.0.is_empty() && all(self) + bytes > KEPT {
            self.0.pop_front();
        }
    }

    fn keep(&mut self, number: usize, bytes: Arc<Vec<u8>>) {
        // Another reader may have read it meanwhile.
        if self.find(number).is_none() {
            self.make_room(bytes.len() as u64);
            self.0.push_back((number, bytes));
        }
    }
}

impl ClosureSource for Bundle {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        self.write(path, 0, out)
    }

    fn dump_from(&self, path: &PathInfo, from: u64, out: &mut dyn Write) -> Result<(), DumpError> {
        self.write(path, from, out)
    }
}

/// A file that ends too early is a truncated bundle.
fn short(error: io::Error) -> BundleError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Truncated,
        _ => BundleError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::BLOCK;
    use super::super::write::{WriteOptions, write};
    use super::*;
    use sha2::{Digest, Sha256};

    /// One path, whose NAR is given.
    struct Given(Vec<u8>);

    impl ClosureSource for Given {
        fn dump(&self, _: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
            out.write_all(&self.0).map_err(DumpError::Sink)
        }
    }

    /// A path that is gone on with is read from the block on where it goes on.
    #[test]
    fn blocks_that_lie_before_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ksb");
        let nar: Vec<u8> = (0..5_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x".to_owned();
        let info = PathInfo {
            path: path.clone(),
            nar_sha256: hex::encode(Sha256::digest(&nar)),
            nar_size: nar.len() as u64,
            references: vec![],
            deriver: None,
            signatures: vec![],
            ca: None,
        };
        let manifest = Manifest { toplevel: path, paths: vec![info.clone()] };
        let options = WriteOptions { level: 1, key: None, replace: false };
        write(&manifest, &Given(nar.clone()), &file, &options, &mut |_| true).unwrap();
        let rest = |bundle: &Bundle, from: usize| {
            let mut out = Vec::new();
            bundle.dump_from(&info, from as u64, &mut out).map(|()| out)
        };
        let block = BLOCK as usize;
        let whole = Bundle::open(&file).unwrap();
        for from in [0, 1, block - 1, block, block + 1, 2 * block + 7, nar.len()] {
            assert!(rest(&whole, from).unwrap() == nar[from..], "{from}");
        }
        let damaged = Bundle::open(&file).unwrap();
        let writable = File::options().write(true).open(&file).unwrap();
        writable.write_all_at(b"damage", damaged.starts[0] + 100).unwrap();
        assert!(rest(&damaged, block).unwrap() == nar[block..]);
        let error = rest(&damaged, block - 1).unwrap_err();
        assert!(crate::chain(&error).contains("block 0 of 3 is damaged"), "{error}");
    }

    /// However long blocks are, what is kept of them is bounded; of the longest it is one.
    #[test]
    fn few_of_large_blocks_are_kept() {
        for (mib, expected) in [(1, 32), (8, 4), (9, 3), (17, 1), (32, 1), (64, 1)] {
            let mut kept = Kept::default();
            for number in 0..40 {
                kept.make_room(mib << 20);
                kept.keep(number, Arc::new(vec![0; (mib as usize) << 20]));
                assert!(kept.find(number).is_some());
            }
            assert_eq!(kept.0.len(), expected, "{mib} MiB");
            kept.keep(39, Arc::default());
            assert_eq!(kept.0.len(), expected, "it is there already");
        }
    }
}
