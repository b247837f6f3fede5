//! How far unfinished paths came: what a later run goes on from.
//!
//! `/nix/var/nix/.keystone-journal` on the target, one record a line: JSON, a tab, and the first
//! 16 hex digits of the JSON's blake3, so that a line that was cut off is known as such. A record
//! is written only after a `syncfs` that began after the data it speaks of were written; and what
//! it says is compared with what is on disk before it counts. The file goes when the closure is
//! registered.

use super::fs::{FsError, Io, OpenDir};
use super::nar::replay::Reached;
use super::nar::unpack::Unfinished;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const NAME: &str = ".keystone-journal";
/// How long another run may go on with this store: longer than an agent waits for a controller
/// that is silent.
const OTHER_RUN: Duration = Duration::from_secs(150);
/// The most that is read of it, in bytes.
const LONGEST: u64 = 64 << 20;

/// How far a path came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The path's name in the store.
    pub(super) base: String,
    /// SHA-256 of its whole NAR, hex.
    pub(super) nar_sha256: String,
    /// How many bytes of its NAR were taken.
    offset: u64,
    /// Their SHA-256, hex.
    sha256: String,
    /// Names that lead to the file in the middle of which that is, hex, and the file's length.
    unfinished: Option<(Vec<String>, u64)>,
}

impl Record {
    /// That the path `base`, whose NAR has the hash `nar_sha256`, came so far.
    pub(super) fn new(base: &str, nar_sha256: &str, reached: &Reached) -> Record {
        let names = |u: &Unfinished| u.names.iter().map(hex::encode).collect();
        Record {
            base: base.to_owned(),
            nar_sha256: nar_sha256.to_owned(),
            offset: reached.offset,
            sha256: hex::encode(reached.sha256),
            unfinished: reached.unfinished.as_ref().map(|u| (names(u), u.size)),
        }
    }

    /// How far that is, unless the record is malformed.
    pub(super) fn reached(&self) -> Option<Reached> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut sha256).ok()?;
        let unfinished = match &self.unfinished {
            None => None,
            Some((names, size)) => {
                let names = names.iter().map(hex::decode).collect::<Result<_, _>>().ok()?;
                Some(Unfinished { names, size: *size })
            }
        };
        Some(Reached { offset: self.offset, sha256, unfinished })
    }
}

/// The journal, held by this run alone.
#[derive(Debug)]
pub(super) struct Journal {
    file: Flock<File>,
    /// Its directory, until the journal's name in it is known to be on the disk.
    directory: Mutex<Option<OwnedFd>>,
    path: PathBuf,
    records: Vec<Record>,
}

impl Journal {
    /// Whether there is one.
    pub(super) fn exists(state: &OpenDir) -> Result<bool, FsError> {
        Ok(state.stat(NAME)?.is_some())
    }

    /// Opens or makes it in the directory of Nix's state. Waits, bounded, for another run on the
    /// same store to end: an agent whose connection broke makes its last checkpoint.
    pub(super) fn open(state: &OpenDir) -> Result<Journal, FsError> {
        let path = state.path.join(NAME);
        let began = Instant::now();
        loop {
            let flags = OFlag::O_RDWR
                | OFlag::O_CREAT
                | OFlag::O_APPEND
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            let fd = openat(&state.fd, NAME, flags, Mode::from_bits_truncate(0o600))
                .at("open", &path)?;
            match Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    // The other run may have removed what was waited for.
                    if fstat(&*file).at("look at", &path)?.st_nlink == 0 {
                        continue;
                    }
                    let directory = state.fd.try_clone().at("open directory", &state.path)?;
                    let directory = Mutex::new(Some(directory));
                    let mut journal = Journal { file, directory, path, records: Vec::new() };
                    journal.read()?;
                    return Ok(journal);
                }
                Err((_, Errno::EAGAIN)) if began.elapsed() < OTHER_RUN => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err((_, Errno::EAGAIN)) => {
                    let error = io::Error::other("another run still works on this store");
                    return Err(error).at("lock", path);
                }
                Err((_, errno)) => return Err(errno).at("lock", path),
            }
        }
    }

    fn read(&mut self) -> Result<(), FsError> {
        let mut text = Vec::new();
        self.file.seek(SeekFrom::Start(0)).at("read", &self.path)?;
        (&*self.file).take(LONGEST).read_to_end(&mut text).at("read", &self.path)?;
        self.records = text.split(|b| *b == b'\n').filter_map(parse).collect();
        if text.last().is_some_and(|b| *b != b'\n') {
            // What was cut off ends here.
            self.file.write_all(b"\n").at("write", &self.path)?;
        }
        Ok(())
    }

    /// All records, oldest first.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds records, and syncs.
    pub(super) fn append(&self, records: &[Record]) -> Result<(), FsError> {
        let text: String = records.iter().map(line).collect();
        (&*self.file)
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .at("write", &self.path)?;
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
        match directory {
            Some(directory) => fsync(directory).at("sync the directory of", &self.path),
            None => Ok(()),
        }
    }

    /// Removes it: nothing is unfinished any more.
    pub(super) fn remove(self, state: &OpenDir) -> Result<(), FsError> {
        unlinkat(&state.fd, NAME, UnlinkatFlags::NoRemoveDir).at("remove", &self.path)
    }
}

fn checksum(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..16].to_owned()
}

fn line(record: &Record) -> String {
    let json = serde_json::to_string(record).unwrap_or_default();
    let checksum = checksum(&json);
    format!("{json}\t{checksum}\n")
}

fn parse(line: &[u8]) -> Option<Record> {
    let (json, sum) = std::str::from_utf8(line).ok()?.rsplit_once('\t')?;
    if sum == checksum(json) { serde_json::from_str(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(base: &str) -> Record {
        let unfinished = Some(Unfinished { names: vec![b"a\xff".to_vec()], size: 9 });
        Record::new(base, "ab", &Reached { offset: 5, sha256: [7; 32], unfinished })
    }

    #[test]
    fn records_survive_and_torn_lines_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let state = OpenDir::open(dir.path()).unwrap();
        let journal = Journal::open(&state).unwrap();
        journal.append(&[record("one"), record("two")]).unwrap();
        drop(journal);
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let journal = Journal::open(&state).unwrap();
        assert_eq!(journal.records(), [record("one")]);
        assert_eq!(record("one").reached().unwrap().unfinished.unwrap().names, [b"a\xff"]);
        journal.append(&[record("three")]).unwrap();
        drop(journal);
        let journal = Journal::open(&state).unwrap();
        assert_eq!(journal.records(), [record("one"), record("three")]);
        journal.remove(&state).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = OpenDir::open(dir.path()).unwrap();
        let journal = Journal::open(&state).unwrap();
        let (sender, opened) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(Journal::open(&state).map(drop)).unwrap());
            assert!(opened.recv_timeout(Duration::from_millis(200)).is_err());
            journal.remove(&state).unwrap();
            opened.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        });
        // The one that waited made a file of its own.
        assert!(dir.path().join(NAME).exists());
    }
}
