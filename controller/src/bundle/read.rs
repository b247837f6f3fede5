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

/// Decompressed blocks kept: one for each of a few readers.
const KEPT: usize = 4;

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
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
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
        let raw = (self.total - number as u64 * self.block).min(self.block) as usize;
        let bytes = zstd::bulk::decompress(&frame, raw).map_err(|_| damaged())?;
        if bytes.len() == raw { Ok(bytes) } else { Err(damaged()) }
    }

    fn get(&self, number: usize) -> Result<Arc<Vec<u8>>, BundleError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = lock().iter().find(|(kept, _)| *kept == number) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.decompress(number)?);
        let mut kept = lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl ClosureSource for Bundle {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        let fail =
            |source| DumpError::Source(ClosureError::Bundle { path: self.path.clone(), source });
        let lacks = || fail(BundleError::Lacks(path.path.clone()));
        let &(start, length) = self.nars.get(&path.path).ok_or_else(lacks)?;
        let (mut at, end) = (start, start + length);
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

/// A file that ends too early is a truncated bundle.
fn short(error: io::Error) -> BundleError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Truncated,
        _ => BundleError::Io(error),
    }
}
