//! Files of store paths that are at hand only as NARs.
//!
//! A NAR is read whole, and its hash checked, before anything is said about what is in it. Its
//! tree is kept, and texts as long as there is room; another file's bytes are read again when
//! they are asked for.

use super::ClosureSource;
use super::files::{Files, Node};
use super::store::STORE_DIR;
use crate::nar::DumpError;
use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::nar::parse::{FeedError, Parser, Sink};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files up to this length are kept, if they are texts (as `Files::text` is asked for them).
const KEEP_TEXT: u64 = 256 << 10;
/// Files up to this length are kept whatever they are.
const KEEP_ANY: u64 = 4 << 10;
/// All that is kept, in bytes.
const BUDGET: u64 = 48 << 20;
/// The most objects in a NAR that is looked into; large closures have some hundred thousand in all.
const MAX_OBJECTS: usize = 2_000_000;
/// The largest file that is read into memory, one at a time: texts, and a kernel module, which has about 10 MB
/// with its symbols.
const MAX_READ: u64 = 64 << 20;

/// Files in the NARs of a closure.
pub struct NarFiles {
    source: Arc<dyn ClosureSource>,
    paths: HashMap<String, PathInfo>,
    trees: Mutex<Trees>,
}

#[derive(Default)]
struct Trees {
    by_path: HashMap<String, Arc<Tree>>,
    kept: u64,
}

/// What is in a NAR, by path below its root, which is the empty path.
type Tree = HashMap<PathBuf, Entry>;

enum Entry {
    File { size: u64, contents: Contents },
    Directory(Vec<OsString>),
    Link(PathBuf),
}

enum Contents {
    Kept(Arc<[u8]>),
    /// Not kept, and it is a text.
    Text,
    /// Not kept, and it is too large or no text.
    Other,
}

impl NarFiles {
    /// Of the paths of `manifest`, as `source` has them.
    pub fn new(source: Arc<dyn ClosureSource>, manifest: &Manifest) -> Self {
        let paths = manifest.paths.iter().map(|info| (info.path.clone(), info.clone())).collect();
        NarFiles { source, paths, trees: Mutex::default() }
    }

    /// The store path's tree, and the path below it; `None` above the store's paths.
    fn find(&self, logical: &Path) -> io::Result<Option<(Arc<Tree>, PathBuf)>> {
        if Path::new(STORE_DIR).starts_with(logical) {
            return Ok(None);
        }
        let (path, below) = split(logical).ok_or_else(not_found)?;
        let info = self.paths.get(&path).ok_or_else(not_found)?;
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.by_path.get(&path) {
            return Ok(Some((Arc::clone(tree), below)));
        }
        let room = BUDGET.saturating_sub(trees.kept);
        let scanned = self.scan(info, Scan { room, ..Scan::default() })?;
        trees.kept += room - scanned.room;
        let tree = Arc::new(scanned.tree);
        trees.by_path.insert(path, Arc::clone(&tree));
        Ok(Some((tree, below)))
    }

    /// Reads a path's NAR; an error unless it is the one that was announced.
    fn scan(&self, info: &PathInfo, scan: Scan) -> io::Result<Scan> {
        let parser = Parser::new(scan, info.nar_size);
        let mut reading = Reading { parser, sha256: Sha256::new(), failure: None };
        match self.source.dump(info, &mut reading) {
            Ok(()) => {}
            Err(DumpError::Source(error)) => return Err(io::Error::other(error)),
            Err(DumpError::Sink(error)) => return Err(reading.failure.unwrap_or(error)),
        }
        let found = hex::encode(reading.sha256.finalize());
        if found != info.nar_sha256 {
            return Err(io::Error::other(format!(
                "the NAR of {} has SHA-256 {found}, not {}",
                info.path, info.nar_sha256
            )));
        }
        reading.parser.finish().map_err(io::Error::other)
    }
}

impl Files for NarFiles {
    fn node(&self, logical: &Path) -> io::Result<Node> {
        let Some((tree, below)) = self.find(logical)? else { return Ok(Node::Directory) };
        Ok(match tree.get(&below).ok_or_else(not_found)? {
            Entry::File { size, .. } => Node::File { size: *size },
            Entry::Directory(_) => Node::Directory,
            Entry::Link(target) => Node::Link(target.clone()),
        })
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let Some((tree, below)) = self.find(directory)? else { return Ok(Vec::new()) };
        match tree.get(&below).ok_or_else(not_found)? {
            Entry::Directory(names) => Ok(names.clone()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        let (tree, below) = self.find(file)?.ok_or(io::ErrorKind::IsADirectory)?;
        match tree.get(&below).ok_or_else(not_found)? {
            Entry::File { contents: Contents::Kept(bytes), .. } => {
                Ok(Box::new(Cursor::new(Arc::clone(bytes))))
            }
            Entry::File { size, .. } if *size > MAX_READ => {
                Err(io::Error::other("the file is too large to look into"))
            }
            Entry::File { .. } => {
                let (path, below) = split(file).ok_or_else(not_found)?;
                let scan = Scan { only: Some(below), ..Scan::default() };
                let scanned = self.scan(&self.paths[&path], scan)?;
                Ok(Box::new(Cursor::new(scanned.wanted)))
            }
            Entry::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
            Entry::Link(_) => Err(io::Error::from_raw_os_error(nix::libc::ELOOP)),
        }
    }

    fn text(&self, file: &Path, limit: u64) -> io::Result<Option<String>> {
        let Some((tree, below)) = self.find(file)? else { return Ok(None) };
        // What is known not to be one is not read again.
        match tree.get(&below).ok_or_else(not_found)? {
            Entry::File { size, .. } if *size > limit => Ok(None),
            Entry::File { contents: Contents::Other, size } if *size <= KEEP_TEXT => Ok(None),
            Entry::File { .. } => {
                let mut bytes = Vec::new();
                self.open(file)?.read_to_end(&mut bytes)?;
                Ok(String::from_utf8(bytes).ok())
            }
            _ => Ok(None),
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// The store path that a logical path is in, and what is below.
fn split(logical: &Path) -> Option<(String, PathBuf)> {
    let path = super::store::store_path_of(logical)?;
    let below = logical.strip_prefix(&path).ok()?.to_owned();
    Some((path, below))
}

/// Takes a NAR as it comes.
struct Reading {
    parser: Parser<Scan>,
    sha256: Sha256,
    failure: Option<io::Error>,
}

impl Write for Reading {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sha256.update(data);
        match self.parser.feed(data) {
            Ok(()) => Ok(data.len()),
            Err(FeedError::Format(error)) => {
                self.failure = Some(io::Error::other(error));
                Err(io::Error::other("no NAR"))
            }
            Err(FeedError::Sink(TooMany)) => {
                let what = format!("it has more than {MAX_OBJECTS} files");
                self.failure = Some(io::Error::other(what));
                Err(io::Error::other("no tree"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a tree of a NAR.
#[derive(Default)]
struct Scan {
    tree: Tree,
    /// Where in the tree it is.
    at: PathBuf,
    /// Bytes that may be kept.
    room: u64,
    /// The file whose bytes are wanted, and no other's.
    only: Option<PathBuf>,
    wanted: Vec<u8>,
    file: PathBuf,
    size: u64,
    bytes: Vec<u8>,
    collect: bool,
}

impl Scan {
    fn place(&mut self, name: &[u8]) -> Result<PathBuf, TooMany> {
        if self.tree.len() == MAX_OBJECTS {
            return Err(TooMany);
        }
        let name = OsStr::from_bytes(name);
        if let Some(Entry::Directory(names)) = self.tree.get_mut(&self.at) {
            names.push(name.to_owned());
        }
        // Joining an empty name would end the path with a slash.
        Ok(if name.is_empty() { PathBuf::new() } else { self.at.join(name) })
    }
}

/// More objects than are looked into.
struct TooMany;

impl Sink for Scan {
    type Error = TooMany;

    fn directory(&mut self, name: &[u8]) -> Result<(), TooMany> {
        self.at = self.place(name)?;
        self.tree.insert(self.at.clone(), Entry::Directory(Vec::new()));
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), TooMany> {
        self.at.pop();
        Ok(())
    }

    fn file(&mut self, name: &[u8], _: bool, size: u64) -> Result<(), TooMany> {
        self.file = self.place(name)?;
        self.size = size;
        self.bytes = Vec::new();
        self.collect = match &self.only {
            Some(only) => *only == self.file && size <= MAX_READ,
            None => size <= KEEP_TEXT,
        };
        if self.collect {
            // Not twice that while it grows; what a NAR announces beyond its own length is refused before.
            self.bytes.reserve_exact(size as usize);
        }
        Ok(())
    }

    fn contents(&mut self, data: &[u8]) -> Result<(), TooMany> {
        if self.collect {
            self.bytes.extend_from_slice(data);
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), TooMany> {
        let bytes = std::mem::take(&mut self.bytes);
        let contents = match self.collect {
            true if self.only.is_some() => {
                self.wanted = bytes;
                Contents::Other
            }
            true => {
                let text = std::str::from_utf8(&bytes).is_ok();
                if (text || self.size <= KEEP_ANY) && self.size <= self.room {
                    self.room -= self.size;
                    Contents::Kept(bytes.into())
                } else if text {
                    Contents::Text
                } else {
                    Contents::Other
                }
            }
            false => Contents::Other,
        };
        let file = std::mem::take(&mut self.file);
        self.tree.insert(file, Entry::File { size: self.size, contents });
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), TooMany> {
        let place = self.place(name)?;
        self.tree.insert(place, Entry::Link(PathBuf::from(OsStr::from_bytes(target))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::{LocalSource, Store};
    use crate::nar;
    use std::os::unix::fs::symlink;

    const NAME: &str = "0123456789abcdfghijklmnpqrsvwxyz-odd";

    /// A store with one path, and the same path as a NAR.
    fn both(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Store, NarFiles) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::below(dir.path());
        let physical = dir.path().join("nix/store").join(NAME);
        std::fs::create_dir_all(physical.parent().unwrap()).unwrap();
        make(&physical);
        let mut bytes = Vec::new();
        nar::dump(&physical, &mut bytes).unwrap();
        let path = format!("{STORE_DIR}/{NAME}");
        let info = PathInfo {
            path: path.clone(),
            nar_sha256: hex::encode(Sha256::digest(&bytes)),
            nar_size: bytes.len() as u64,
            references: vec![],
            deriver: None,
            signatures: vec![],
            ca: None,
        };
        let manifest = Manifest { toplevel: path, paths: vec![info] };
        let nars = NarFiles::new(Arc::new(LocalSource::new(store.clone())), &manifest);
        (dir, store, nars)
    }

    fn kind<T>(found: io::Result<T>) -> io::ErrorKind {
        found.err().map(|error| error.kind()).unwrap_or(io::ErrorKind::Other)
    }

    #[test]
    fn the_same_as_the_files_themselves() {
        let (_dir, store, nars) = both(|path| {
            std::fs::create_dir_all(path.join("a/b/empty")).unwrap();
            std::fs::write(path.join("a/text"), "text").unwrap();
            std::fs::write(path.join("a/small"), [0xff, 0]).unwrap();
            std::fs::write(path.join("a/binary"), vec![0xff; 100_000]).unwrap();
            std::fs::write(path.join("a/large"), vec![b'x'; 300_000]).unwrap();
            std::fs::write(path.join("a-b"), "").unwrap();
            symlink("../text", path.join("a/b/up")).unwrap();
            symlink(format!("{STORE_DIR}/{NAME}/a"), path.join("whole")).unwrap();
            symlink("loop", path.join("loop")).unwrap();
            symlink("nowhere", path.join("dead")).unwrap();
        });
        let top = PathBuf::from(format!("{STORE_DIR}/{NAME}"));
        for below in [
            "",
            "a",
            "a-b",
            "a/b",
            "a/b/empty",
            "a/b/up",
            "a/text",
            "a/small",
            "a/binary",
            "a/large",
            "whole",
            "whole/b/up",
            "loop",
            "dead",
            "none",
            "a/none",
            "a/text/x",
            "..",
        ] {
            let path = top.join(below);
            let name = path.display();
            let (ours, theirs) = (nars.resolve(&path), store.resolve(&path));
            assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{name}");
            assert_eq!(nars.exists(&path).unwrap(), store.exists(&path).unwrap(), "{name}");
            let Ok(path) = theirs else { continue };
            if path == Path::new(STORE_DIR) {
                continue;
            }
            assert_eq!(nars.node(&path).unwrap(), store.node(&path).unwrap(), "{name}");
            if store.node(&path).unwrap() == Node::Directory {
                let sorted = |files: &dyn Files| {
                    let mut names = files.names(&path).unwrap();
                    names.sort();
                    names
                };
                assert_eq!(sorted(&nars), sorted(&store), "{name}");
                continue;
            }
            assert_eq!(nars.size(&path).unwrap(), store.size(&path).unwrap(), "{name}");
            assert!(nars.read(&path).unwrap() == store.read(&path).unwrap(), "{name}");
            for limit in [0, 3, 4, KEEP_TEXT, MAX_READ] {
                let (ours, theirs) = (nars.text(&path, limit), store.text(&path, limit));
                assert!(ours.unwrap() == theirs.unwrap(), "{name} up to {limit}");
            }
        }
        let other = Path::new("/nix/store/1123456789abcdfghijklmnpqrsvwxyz-other");
        assert_eq!(kind(nars.node(other)), io::ErrorKind::NotFound);
        assert_eq!(kind(nars.names(&top.join("a/text"))), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_path_that_is_a_file() {
        let (_dir, store, nars) = both(|path| std::fs::write(path, "just this").unwrap());
        let path = PathBuf::from(format!("{STORE_DIR}/{NAME}"));
        assert_eq!(nars.node(&path).unwrap(), store.node(&path).unwrap());
        assert_eq!(nars.read(&path).unwrap().unwrap(), b"just this");
    }

    #[test]
    fn what_is_not_kept_is_read_again() {
        let (_dir, _, nars) = both(|path| {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("text"), "text").unwrap();
        });
        nars.trees.lock().unwrap().kept = BUDGET;
        let text = PathBuf::from(format!("{STORE_DIR}/{NAME}/text"));
        assert_eq!(nars.text(&text, 10).unwrap().unwrap(), "text");
        assert_eq!(nars.trees.lock().unwrap().kept, BUDGET);
    }

    #[test]
    fn nothing_is_said_of_another_nar() {
        let (dir, _, nars) = both(|path| std::fs::write(path, "one").unwrap());
        std::fs::write(dir.path().join("nix/store").join(NAME), "two").unwrap();
        let error = nars.node(Path::new(&format!("{STORE_DIR}/{NAME}"))).unwrap_err();
        assert!(error.to_string().contains("has SHA-256"), "{error}");
    }
}
