//! What is there already of a closure: registered, whole without being registered, half written
//! by an earlier run, or in the store of the system that runs here.

use super::closure::{Closure, Entry};
use super::fs::{Io, OpenDir, remove_tree};
use super::journal::Journal;
use super::nar::dump::measure;
use super::nar::replay::{Resumed, duplicate, replay};
use super::nar::unpack::own_umask;
use super::receive::{ReceiveError, TEMPORARY, temporary};
use super::{Store, db};
use keystone_protocol::message::Wanted;
use nix::fcntl::renameat;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The store of the system that runs here: the installer's.
const RUNNING_STORE: &str = "/nix/store";
/// How many of a path's latest records are compared with what is on disk.
const TRIES: usize = 4;

/// What is there, and what has to come.
pub(super) struct Present<'a> {
    /// What has to come, in the closure's order.
    pub(super) wanted: Vec<Wanted>,
    /// Paths of which only the rest has to come.
    pub(super) resumed: HashMap<u32, Resumed<'a>>,
    /// NAR bytes that need not come since an earlier run wrote them, without whole paths.
    pub(super) kept: u64,
    /// NAR bytes taken from the running system's store.
    pub(super) copied: u64,
}

enum Found<'a> {
    Whole,
    Copied,
    Resumed(Resumed<'a>, u64),
    Nothing,
}

impl Store {
    /// Which paths are registered and there.
    pub(super) fn registered(&self, closure: &Closure<'_>) -> Result<Vec<bool>, ReceiveError> {
        let mut registered = db::registered(&self.db, closure)?;
        for (entry, so) in closure.entries.iter().zip(&mut registered) {
            *so = *so && self.store.stat(entry.base)?.is_some();
        }
        Ok(registered)
    }

    /// Looks for the other paths of the closure. Removes what stands in their place.
    pub(super) fn present<'a>(
        &'a self,
        closure: &Closure<'_>,
        registered: &[bool],
        journal: &Journal,
        cancel: &AtomicBool,
    ) -> Result<Present<'a>, ReceiveError> {
        self.remove_litter(closure, journal)?;
        let running = self.running_store();
        let open: Vec<usize> = (0..registered.len()).filter(|&i| !registered[i]).collect();
        let found = parallel(&open, cancel, |&i| {
            self.look_for(&closure.entries[i], journal, running.as_ref())
        })?;
        let mut present =
            Present { wanted: Vec::new(), resumed: HashMap::new(), kept: 0, copied: 0 };
        for (i, found) in open.into_iter().zip(found) {
            let path = i as u32;
            let from = match found {
                Found::Whole => continue,
                Found::Copied => {
                    present.copied += closure.entries[i].info.nar_size;
                    continue;
                }
                Found::Resumed(resumed, from) => {
                    present.resumed.insert(path, resumed);
                    present.kept += from;
                    from
                }
                Found::Nothing => 0,
            };
            present.wanted.push(Wanted { path, from });
        }
        Ok(present)
    }

    fn look_for<'a>(
        &'a self,
        entry: &Entry<'_>,
        journal: &Journal,
        running: Option<&OpenDir>,
    ) -> Result<Found<'a>, ReceiveError> {
        if self.store.stat(entry.base)?.is_some() {
            if self.is_whole(entry) {
                return Ok(Found::Whole);
            }
            self.unname(entry.base)?;
        }
        let records = journal.records().iter().rev().filter(|record| is_of(record, entry));
        for reached in records.take(TRIES).filter_map(|record| record.reached()) {
            let root = temporary(entry.base);
            match replay(self.store.fd.as_fd(), &root, entry.info.nar_size, &reached) {
                Ok(resumed) => return Ok(Found::Resumed(resumed, reached.offset)),
                Err(error) => {
                    tracing::info!("{} can't be gone on with: {error}", entry.info.path);
                }
            }
        }
        self.remove(&temporary(entry.base))?;
        match running {
            Some(running) if self.copy_from(running, entry)? => Ok(Found::Copied),
            _ => Ok(Found::Nothing),
        }
    }

    /// Gives a path that is not whole its temporary name again: a name may be on the disk when what
    /// it names is not yet, and what a checkpoint vouches for is there all the same.
    fn unname(&self, base: &str) -> Result<(), ReceiveError> {
        let name = temporary(base);
        if self.store.stat(&name)?.is_some() {
            return self.remove(base);
        }
        let renamed = renameat(&self.store.fd, base, &self.store.fd, name.as_str());
        Ok(renamed.at_with("rename", || self.store.path.join(base))?)
    }

    /// Copies a path from another store of this machine, if it has it with the right contents.
    fn copy_from(&self, running: &OpenDir, entry: &Entry<'_>) -> Result<bool, ReceiveError> {
        if running.stat(entry.base)?.is_none() {
            return Ok(false);
        }
        let name = temporary(entry.base);
        let size = entry.info.nar_size;
        match duplicate(running.fd.as_fd(), entry.base, self.store.fd.as_fd(), &name, size) {
            Ok((unpacker, sha256)) if sha256 == entry.sha256 => {
                renameat(&self.store.fd, name.as_str(), &self.store.fd, entry.base)
                    .at_with("name", || self.store.path.join(entry.base))?;
                unpacker.keep();
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => {
                tracing::info!("{} is not taken from here: {error}", entry.info.path);
                Ok(false)
            }
        }
    }

    /// The running system's store, if it is another one than this.
    pub(super) fn running_store(&self) -> Option<OpenDir> {
        let running = OpenDir::open(Path::new(RUNNING_STORE)).ok()?;
        let id = |dir: &OpenDir| nix::sys::stat::fstat(&dir.fd).map(|s| (s.st_dev, s.st_ino)).ok();
        (id(&running)? != id(&self.store)?).then_some(running)
    }

    fn is_whole(&self, entry: &Entry<'_>) -> bool {
        // What can't be read is not whole.
        measure(self.store.fd.as_fd(), entry.base).is_ok_and(|found| {
            found.sha256 == entry.sha256
                && found.size == entry.info.nar_size
                && found.deviation.is_none()
        })
    }

    /// Removes what an earlier run left half-written and nothing is known of.
    fn remove_litter(&self, closure: &Closure<'_>, journal: &Journal) -> Result<(), ReceiveError> {
        let entries: HashMap<&str, &Entry<'_>> =
            closure.entries.iter().map(|entry| (entry.base, entry)).collect();
        let of_use: HashSet<String> = journal
            .records()
            .iter()
            .filter(|record| entries.get(record.base.as_str()).is_some_and(|e| is_of(record, e)))
            .map(|record| temporary(&record.base))
            .collect();
        for name in self.store.names()? {
            let name = name.to_string_lossy();
            if name.starts_with(TEMPORARY) && !of_use.contains(name.as_ref()) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), ReceiveError> {
        let removed = remove_tree(&self.store.fd, name.as_bytes());
        Ok(removed.at_with("remove", || self.store.path.join(name))?)
    }
}

fn is_of(record: &super::journal::Record, entry: &Entry<'_>) -> bool {
    record.base == entry.base && record.nar_sha256 == entry.info.nar_sha256
}

/// Does `work` for all items on all cores; results in the items' order, or one of the errors.
fn parallel<T: Sync, R: Send>(
    items: &[T],
    cancel: &AtomicBool,
    work: impl Fn(&T) -> Result<R, ReceiveError> + Sync,
) -> Result<Vec<R>, ReceiveError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    let failure: Mutex<Option<ReceiveError>> = Mutex::new(None);
    let one = || -> Result<(), ReceiveError> {
        own_umask()?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(()) };
            if cancel.load(Ordering::Relaxed) {
                return Err(ReceiveError::Cancelled);
            }
            let result = work(item)?;
            results.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = one() {
                    next.store(items.len(), Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| result.ok_or(ReceiveError::Worker)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::nar::dump::dump;
    use crate::testing::noise;
    use keystone_protocol::manifest::{Manifest, PathInfo};
    use sha2::{Digest, Sha256};
    use std::fs;
    use std::os::unix::fs::symlink;

    const BASE: &str = "11111111111111111111111111111111-tool-1.0";

    /// A path in another store, as nobody has unpacked it: modes and times are any.
    fn other_store() -> (tempfile::TempDir, OpenDir, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(BASE).join("bin")).unwrap();
        fs::write(dir.path().join(BASE).join("bin/tool"), noise(1, 300_000)).unwrap();
        symlink("bin/tool", dir.path().join(BASE).join("link")).unwrap();
        let store = OpenDir::open(dir.path()).unwrap();
        let mut nar = Vec::new();
        dump(store.fd.as_fd(), BASE, &mut nar).unwrap();
        (dir, store, nar)
    }

    /// A manifest of that one path.
    fn manifest(nar_sha256: [u8; 32], nar_size: u64) -> Manifest {
        let path = format!("/nix/store/{BASE}");
        let info = PathInfo {
            path: path.clone(),
            nar_sha256: hex::encode(nar_sha256),
            nar_size,
            references: vec![],
            deriver: None,
            signatures: vec![],
            ca: None,
        };
        Manifest { toplevel: path, paths: vec![info] }
    }

    /// Whether the path is copied from `from`, and the names in the store after that.
    fn copied(store: &Store, from: &OpenDir, manifest: &Manifest) -> (bool, Vec<String>) {
        let closure = Closure::check(manifest).unwrap();
        let copied = parallel(&[0], &AtomicBool::new(false), |&i: &usize| {
            store.copy_from(from, &closure.entries[i])
        });
        let names =
            store.store.names().unwrap().into_iter().map(|name| name.into_string().unwrap());
        (copied.unwrap()[0], names.filter(|name| name != ".links").collect())
    }

    #[test]
    fn another_stores_path_is_copied_if_it_is_the_right_one() {
        let (other, from, nar) = other_store();
        let (right, size) = (<[u8; 32]>::from(Sha256::digest(&nar)), nar.len() as u64);
        let root = tempfile::tempdir().unwrap();
        let (store, _) = Store::prepare(root.path()).unwrap();
        let nothing = (false, Vec::new());
        // Another one of that name, a longer one, a shorter one, none.
        assert_eq!(copied(&store, &from, &manifest([7; 32], size)), nothing);
        assert_eq!(copied(&store, &from, &manifest(right, size - 8)), nothing);
        assert_eq!(copied(&store, &from, &manifest(right, size + 8)), nothing);
        assert_eq!(copied(&store, &store.root, &manifest(right, size)), nothing);
        // What can't be in a store.
        let fifo = other.path().join(BASE).join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(copied(&store, &from, &manifest(right, size)), nothing);
        fs::remove_file(fifo).unwrap();

        let there = (true, vec![BASE.to_owned()]);
        assert_eq!(copied(&store, &from, &manifest(right, size)), there);
        let manifest = manifest(right, size);
        let closure = Closure::check(&manifest).unwrap();
        assert!(store.is_whole(&closure.entries[0]));
    }
}
