//! Writes bundles.
//!
//! One thread reads the NARs and cuts them into blocks, some compress, the caller's writes them in
//! order. A NAR's hash is checked while it is read: what lasts must be right. The file gets its
//! name when it is whole.

use super::BundleError;
use super::format::{self, BLOCK, Block, Footer, HEADER, Index};
use crate::closure::signature::SecretKey;
use crate::closure::{ClosureError, ClosureSource};
use crate::nar::DumpError;
use keystone_protocol::manifest::Manifest;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How to write.
#[derive(Debug)]
pub struct WriteOptions {
    /// Zstandard's level.
    pub level: i32,
    /// Who signs.
    pub key: Option<SecretKey>,
    /// Whether an existing file is replaced.
    pub replace: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the file, in bytes.
    pub length: u64,
    /// NAR bytes in it.
    pub nar_bytes: u64,
}

type Compressed = Result<Vec<u8>, ClosureError>;

/// A block to be compressed, and who waits for it.
type Job = (Vec<u8>, SyncSender<Compressed>);

/// Writes the bundle of a closure. `progress` is told the NAR bytes so far, and says whether to go
/// on.
pub fn write(
    manifest: &Manifest,
    source: &dyn ClosureSource,
    path: &Path,
    options: &WriteOptions,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Written, ClosureError> {
    let fail = |source| ClosureError::Bundle { path: path.to_owned(), source };
    let io = |error| fail(BundleError::Io(error));
    if !options.replace && path.symlink_metadata().is_ok() {
        return Err(fail(BundleError::Exists));
    }
    let directory = crate::parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(".keystone-bundle-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(io)?;
    let header = format::header(BLOCK);
    file.write_all(&header).map_err(io)?;
    let mut blocks = Vec::new();
    let nar_bytes = manifest.nar_bytes();
    let mut length = HEADER as u64;
    compressed_blocks(manifest, source, options.level, path, &mut |frame| {
        file.write_all(&frame).map_err(io)?;
        length += frame.len() as u64;
        let blake3 = blake3::hash(&frame).to_hex().to_string();
        blocks.push(Block { length: frame.len() as u64, blake3 });
        match progress(nar_bytes.min(blocks.len() as u64 * u64::from(BLOCK))) {
            true => Ok(()),
            false => Err(fail(BundleError::Stopped)),
        }
    })?;
    let index = Index { manifest: manifest.clone(), blocks };
    let text = serde_json::to_vec(&index).map_err(|e| io(io::Error::other(e)))?;
    let index = zstd::bulk::compress(&text, options.level).map_err(io)?;
    let root = format::root(&header, &index);
    let sign = |key: &SecretKey| key.sign(format::signed_text(&root).as_bytes()) + "\n";
    let signatures = options.key.as_ref().map(sign).unwrap_or_default();
    let footer = Footer {
        index_at: length,
        index_length: index.len() as u64,
        index_raw: text.len() as u64,
        signatures_length: signatures.len() as u64,
        root,
    };
    for part in [&index, signatures.as_bytes(), &footer.encode()] {
        file.write_all(part).map_err(io)?;
        length += part.len() as u64;
    }
    file.as_file().sync_all().map_err(io)?;
    match options.replace {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    }
    .map_err(|error| io(error.error))?;
    Ok(Written { length, nar_bytes })
}

/// Gives the blocks' frames to `take`, in order.
fn compressed_blocks(
    manifest: &Manifest,
    source: &dyn ClosureSource,
    level: i32,
    path: &Path,
    take: &mut dyn FnMut(Vec<u8>) -> Result<(), ClosureError>,
) -> Result<(), ClosureError> {
    let workers = crate::nar::means::cores();
    let (order, ordered) = sync_channel::<Receiver<Compressed>>(workers);
    let (jobs, queue) = sync_channel::<Job>(0);
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| compress(&queue, level, path));
        }
        scope.spawn(move || {
            let (failed, failure) = sync_channel(1);
            if let Err(error) = read(manifest, source, &order, &jobs) {
                let _ = failed.send(Err(error));
                let _ = order.send(failure);
            }
        });
        // Ends with the readers' end of the queue, which the reading thread has; leaving early
        // ends the reading thread, and that ends the workers.
        let mut take_all = || {
            for frame in &ordered {
                let died = |_| Err(broken(path, "a thread ended early"));
                take(frame.recv().unwrap_or_else(died)?)?;
            }
            Ok(())
        };
        let taken = take_all();
        drop(ordered);
        taken
    })
}

fn broken(path: &Path, what: &str) -> ClosureError {
    let source = BundleError::Io(io::Error::other(what.to_owned()));
    ClosureError::Bundle { path: path.to_owned(), source }
}

fn compress(queue: &Mutex<Receiver<Job>>, level: i32, path: &Path) {
    let mut compressor = zstd::bulk::Compressor::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((raw, done)) = job else { return };
        let compressed = match &mut compressor {
            Ok(compressor) => compressor.compress(&raw).map_err(|e| broken(path, &e.to_string())),
            Err(error) => Err(broken(path, &error.to_string())),
        };
        let _ = done.send(compressed);
    }
}

/// Reads all NARs and cuts their series.
fn read(
    manifest: &Manifest,
    source: &dyn ClosureSource,
    order: &SyncSender<Receiver<Compressed>>,
    jobs: &SyncSender<Job>,
) -> Result<(), ClosureError> {
    let mut cutter = Cutter { raw: Vec::new(), sha256: Sha256::new(), length: 0, order, jobs };
    for info in &manifest.paths {
        cutter.length = 0;
        match source.dump(info, &mut cutter) {
            Ok(()) => {}
            Err(DumpError::Source(error)) => return Err(error),
            // Nobody takes the blocks any more, and knows why.
            Err(DumpError::Sink(_)) => return Ok(()),
        }
        let found = hex::encode(cutter.sha256.finalize_reset());
        if (found.as_str(), cutter.length) != (info.nar_sha256.as_str(), info.nar_size) {
            return Err(ClosureError::HashDiffers {
                path: info.path.clone(),
                expected: info.nar_sha256.clone(),
                found,
            });
        }
    }
    // The last block; that nobody takes it is the receiver's affair.
    let _ = cutter.send();
    Ok(())
}

struct Cutter<'a> {
    raw: Vec<u8>,
    sha256: Sha256,
    length: u64,
    order: &'a SyncSender<Receiver<Compressed>>,
    jobs: &'a SyncSender<Job>,
}

impl Cutter<'_> {
    fn send(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let gone = || io::Error::other("nobody takes the blocks");
        let (done, frame) = sync_channel(1);
        self.order.send(frame).map_err(|_| gone())?;
        self.jobs.send((std::mem::take(&mut self.raw), done)).map_err(|_| gone())
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(BLOCK as usize - self.raw.len());
        self.raw.extend_from_slice(&data[..taken]);
        self.sha256.update(&data[..taken]);
        self.length += taken as u64;
        if self.raw.len() == BLOCK as usize {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
