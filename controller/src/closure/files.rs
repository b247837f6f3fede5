//! Files of store paths, wherever these come from.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Links followed before a chain is called a loop (as Linux: `ELOOP` after 40).
const MAX_LINKS: usize = 40;

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Its length, in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(PathBuf),
    /// A device, a pipe or a socket. No store path has one, but links lead there: what is masked in systemd's
    /// directories is a link to `/dev/null`.
    Special,
}

/// The files of store paths, by logical path (`/nix/store/…`).
///
/// The three required methods follow no links, the others follow all, logically.
pub trait Files: Send + Sync {
    /// What lies there.
    fn node(&self, logical: &Path) -> io::Result<Node>;
    /// The names in a directory, in any order.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;
    /// A regular file's bytes, to be read.
    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>>;

    /// A regular file as text; `None` if it is larger than `limit` bytes or no text.
    fn text(&self, file: &Path, limit: u64) -> io::Result<Option<String>> {
        match self.node(file)? {
            Node::File { size } if size <= limit => {}
            _ => return Ok(None),
        }
        let mut bytes = Vec::new();
        self.open(file)?.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8(bytes).ok())
    }

    /// The logical path without links that `logical` leads to. It exists.
    fn resolve(&self, logical: &Path) -> io::Result<PathBuf> {
        let mut links = 0;
        let mut todo: Vec<OsString> = names_reversed(logical);
        let mut done = PathBuf::from("/");
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            let Node::Link(target) = self.node(&next)? else {
                done = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
            }
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(names_reversed(&target));
        }
        Ok(done)
    }

    /// A file's bytes; `None` if it is not there.
    fn read(&self, logical: &Path) -> io::Result<Option<Vec<u8>>> {
        let read = self.resolve(logical).and_then(|path| {
            if self.node(&path)? == Node::Special {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::new();
            self.open(&path)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A file's size, in bytes.
    fn size(&self, logical: &Path) -> io::Result<u64> {
        match self.node(&self.resolve(logical)?)? {
            Node::File { size } => Ok(size),
            _ => Err(io::Error::other("it is not a file")),
        }
    }

    /// Whether there is something.
    fn exists(&self, logical: &Path) -> io::Result<bool> {
        present(self.resolve(logical)).map(|path| path.is_some())
    }
}

/// `None` for what is not there, links that lead nowhere included; other errors are errors.
pub fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if is_absence(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(nix::libc::ELOOP)
}

fn names_reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
