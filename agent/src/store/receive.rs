//! The closure, from blocks to registered paths.
//!
//! ```text
//! source ─ blocks ─▶ caller's thread: order
//!                        │ pieces of NARs, a bounded number of bytes waiting
//!                        ▼
//!                    workers, a path each: decompress, hash, parse, write below a temporary name
//!                        │ hash and size right: rename          every now and then: checkpoint
//!                        ▼
//!                    sync the file system, then one transaction in the database
//! ```
//!
//! A path has its own name only when its NAR was whole and right, and is registered only when it
//! is on the disk. So what an interrupted run leaves can be used: registered paths are not asked
//! for again, paths that are there without being registered are hashed again, and of a path that
//! was half written the rest is asked for, if the journal says how far it was and what is on disk
//! has the hash that it had then.

use super::buffer::Buffer;
use super::closure::{Closure, Entry, ManifestError};
use super::db::{self, DbError, Derivation};
use super::fs::{FsError, Io};
use super::held::Held;
use super::journal::Journal;
use super::nar::parse::FormatError;
use super::pipeline::Pipeline;
use super::present::Present;
use super::{Store, derivation};
use crate::ensure::Ensured;
use crate::mount::MountError;
use keystone_fetch::FetchError;
use keystone_protocol::fetch::{Fetch, NotFetched};
use keystone_protocol::frame::BlockHeader;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::Wanted;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// How temporary names in the store begin.
pub(super) const TEMPORARY: &str = ".keystone-";

/// What a path is called until it is whole.
pub(super) fn temporary(base: &str) -> String {
    format!("{TEMPORARY}{base}")
}

/// Why a source failed.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A block of closure data.
#[derive(Debug)]
pub struct Block {
    /// What is said of it.
    pub header: BlockHeader,
    /// Its data, still encoded.
    pub data: Buffer,
}

/// Where the closure comes from.
///
/// After [`ClosureSource::want`] the blocks of exactly the wanted paths come, a path's blocks one
/// after another from the first byte that is wanted to the last, paths in any order.
pub trait ClosureSource {
    /// Says what this machine holds that is like what is wanted next: a source may make use of it
    /// until [`ClosureSource::let_go`].
    fn hold(&mut self, _held: Held) {}
    /// What is held is not to be touched any more, and nothing of it open.
    fn let_go(&mut self) {}
    /// Asks for these paths; no blocks follow an empty list. Called once more after
    /// [`ClosureSource::elsewhere`], for what is still wanted then.
    fn want(&mut self, wanted: &[Wanted]) -> Result<(), SourceError>;
    /// Where to fetch wanted paths from instead, if they are to come so. Called once after paths were
    /// wanted, before the first block.
    fn elsewhere(&mut self) -> Result<Option<Fetch>, SourceError> {
        Ok(None)
    }
    /// Tells that these could not be fetched. They are wanted next.
    fn not_fetched(&mut self, paths: &[NotFetched]) -> Result<(), SourceError> {
        let _ = paths;
        Ok(())
    }
    /// The next block, as it came. What the one before it held is in use no more.
    fn next_block(&mut self) -> Result<Block, SourceError>;
}

/// How far a closure is received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// NAR bytes unpacked.
    pub bytes: u64,
    /// NAR bytes to unpack in all, without the paths that are there already.
    pub bytes_total: u64,
    /// Paths unpacked and verified.
    pub paths: u64,
    /// Paths to unpack in all.
    pub paths_total: u64,
}

/// What receiving did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Whether something was unpacked or registered.
    pub ensured: Ensured,
    /// How far it got: to the end.
    pub progress: Progress,
    /// Paths of the closure that were there already.
    pub present: u64,
    /// NAR bytes of half-written paths of an earlier run that were found again.
    pub kept: u64,
    /// NAR bytes that were taken from the running system's store.
    pub copied: u64,
}

/// Why a closure was not received.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The manifest is not a closure.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The source failed.
    #[error("the source of the closure failed")]
    Source(#[source] SourceError),
    /// The source sent a block that has no place.
    #[error("the source sent a wrong block: {0}")]
    Block(String),
    /// A block could not be decompressed.
    #[error("could not decompress a block of {path}")]
    Decompress {
        /// Of which path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A path can't be fetched.
    #[error(transparent)]
    Fetch(FetchError),
    /// What came is no NAR.
    #[error("what came for {path} can't be unpacked")]
    Format {
        /// For which path.
        path: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// What came is another NAR.
    #[error(
        "what came for {path} has SHA-256 {found}, and the source's database says {expected}: \
         the source's store is damaged (`nix-store --verify --check-contents` finds more) or it \
         was changed on the way"
    )]
    Hash {
        /// For which path.
        path: String,
        /// What the manifest says.
        expected: String,
        /// What came.
        found: String,
    },
    /// A derivation whose outputs can't be read.
    #[error("{0} is not a derivation that can be read")]
    Derivation(String),
    /// The store could not be written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The store is mounted read-only and stays so.
    #[error(transparent)]
    ReadOnly(#[from] MountError),
    /// The database could not be written.
    #[error(transparent)]
    Db(#[from] DbError),
    /// It was told to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A worker died of a fault of the program.
    #[error("a worker died; this is a fault of the program")]
    Worker,
}

impl ReceiveError {
    pub(super) fn decompress(path: &str, source: std::io::Error) -> Self {
        ReceiveError::Decompress { path: path.to_owned(), source }
    }
}

impl Store {
    /// Receives what is missing of a closure, and registers the closure.
    ///
    /// `progress` is called often, from this thread. `cancel` is looked at between blocks. On
    /// error no path has its name that is not whole; what came of others stays beside them, and
    /// another call goes on from there.
    pub fn receive(
        &self,
        manifest: &Manifest,
        source: &mut dyn ClosureSource,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<Received, ReceiveError> {
        let closure = Closure::check(manifest)?;
        let registered = self.registered(&closure)?;
        if registered.iter().all(|so| *so) && !Journal::exists(&self.state)? {
            source.want(&[]).map_err(ReceiveError::Source)?;
            progress(Progress::default());
            return Ok(Received {
                ensured: Ensured::AlreadySo,
                progress: Progress::default(),
                present: closure.entries.len() as u64,
                kept: 0,
                copied: 0,
            });
        }
        let journal = Journal::open(&self.state)?;
        let Present { wanted, resumed, mut kept, copied } =
            self.present(&closure, &registered, &journal, cancel)?;
        source.hold(self.held(&closure, &wanted));
        let left = |w: &Wanted| closure.entries[w.path as usize].info.nar_size - w.from;
        let total = Progress {
            bytes_total: wanted.iter().map(left).sum(),
            paths_total: wanted.len() as u64,
            ..Progress::default()
        };
        let pipeline = Pipeline::new(&self.store, &journal, total);
        // What is held is let go of however this ends.
        let receive = || {
            source.want(&wanted).map_err(ReceiveError::Source)?;
            progress(total);
            let (mut sent, mut resumed) = (wanted.clone(), resumed);
            let elsewhere = if wanted.is_empty() { Ok(None) } else { source.elsewhere() };
            if let Some(fetch) = elsewhere.map_err(ReceiveError::Source)? {
                let left = pipeline.fetch(&closure, &wanted, resumed, &fetch, progress, cancel)?;
                (sent, resumed) = (left.wanted, left.resumed);
                kept -= left.lost;
                if !left.failed.is_empty() {
                    source.not_fetched(&left.failed).map_err(ReceiveError::Source)?;
                }
                if !sent.is_empty() {
                    source.want(&sent).map_err(ReceiveError::Source)?;
                }
            }
            pipeline.run(&closure, &sent, resumed, source, progress, cancel)
        };
        let reached = receive();
        source.let_go();
        let reached = reached?;
        drop(pipeline);
        let derivations = self.derivations(&closure)?;
        nix::unistd::syncfs(&self.store.fd).at("sync", &self.store.path)?;
        // Nix takes 0 for "unknown"; a machine's clock may start there.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs().max(1));
        let added = db::register(&self.db, &closure, &derivations, now as i64)?;
        nix::unistd::syncfs(&self.db.fd).at("sync", &self.db.path)?;
        // What is not on the disk is not called finished: another run comes to the sync again.
        journal.remove(&self.state)?;
        let changed = added > 0 || !wanted.is_empty();
        Ok(Received {
            ensured: if changed { Ensured::Created } else { Ensured::AlreadySo },
            progress: reached,
            present: (closure.entries.len() - wanted.len()) as u64,
            kept,
            copied,
        })
    }

    fn derivations(&self, closure: &Closure) -> Result<Vec<Derivation>, ReceiveError> {
        let is_derivation = |(_, entry): &(usize, &Entry)| entry.base.ends_with(".drv");
        closure
            .entries
            .iter()
            .enumerate()
            .filter(is_derivation)
            .map(|(i, entry)| {
                let text = self.store.read(entry.base)?;
                let outputs = std::str::from_utf8(&text).ok().and_then(derivation::outputs);
                Ok((i, outputs.ok_or_else(|| ReceiveError::Derivation(entry.info.path.clone()))?))
            })
            .collect()
    }
}
