//! A Nix store, which may lie below another root.
//!
//! As Nix's `local?root=ROOT`: the store's directory is `ROOT/nix/store`, its database
//! `ROOT/nix/var/nix/db`, and every path that it speaks of stays `/nix/store/…` (Nix manual,
//! "Local Store", setting `root`). Links inside lead to logical paths, so they are resolved
//! here, below the root, and never by the kernel.

use super::error::ClosureError;
use super::files::{Files, Node};
use keystone_protocol::store_path;
pub use keystone_protocol::store_path::STORE_DIR;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// A store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Store { root: "/".into() }
    }
}

impl Store {
    /// The store below `root`; also takes Nix's `local?root=ROOT`.
    pub fn below(root: &Path) -> Self {
        let text = root.to_string_lossy();
        let plain = text.strip_prefix("local?root=").map(PathBuf::from);
        Store { root: plain.unwrap_or_else(|| root.to_owned()) }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a logical path lies. Links on the way are not resolved: see [`Files::resolve`].
    pub fn physical(&self, logical: &Path) -> PathBuf {
        self.root.join(logical.strip_prefix("/").unwrap_or(logical))
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.physical(Path::new("/nix/var/nix/db/db.sqlite"))
    }

    /// The store path that `given` is or leads to.
    pub fn locate(&self, given: &Path) -> Result<String, ClosureError> {
        let fail = || ClosureError::NotAStorePath { given: given.to_owned() };
        let below_root = given
            .strip_prefix(&self.root)
            .ok()
            .map(|rest| Path::new("/").join(rest))
            .filter(|logical| logical.starts_with(STORE_DIR));
        let logical = match below_root {
            Some(logical) => logical,
            None if given.starts_with(STORE_DIR) => given.to_owned(),
            // A link outside the store, as nix build's ./result: its target is logical.
            None => match std::fs::read_link(given) {
                Ok(target) if target.starts_with(STORE_DIR) => target,
                _ => self.resolve(given).map_err(|_| fail())?,
            },
        };
        let resolved = match self.resolve(&logical) {
            Ok(resolved) => resolved,
            // Not there: the database says so in better words.
            Err(e) if e.kind() == io::ErrorKind::NotFound => logical,
            Err(source) => return Err(ClosureError::Read { path: logical, source }),
        };
        let relative = resolved.strip_prefix(STORE_DIR).map_err(|_| fail())?;
        let mut names = relative.components();
        match (names.next(), names.next()) {
            (Some(Component::Normal(name)), None) => {
                let name =
                    name.to_str().filter(|n| store_path::parts(n).is_some()).ok_or_else(fail)?;
                Ok(format!("{STORE_DIR}/{name}"))
            }
            _ => Err(fail()),
        }
    }
}

impl Files for Store {
    fn node(&self, logical: &Path) -> io::Result<Node> {
        let file = self.physical(logical);
        let meta = file.symlink_metadata()?;
        if meta.is_symlink() {
            Ok(Node::Link(file.read_link()?))
        } else if meta.is_dir() {
            Ok(Node::Directory)
        } else if meta.is_file() {
            Ok(Node::File { size: meta.len() })
        } else {
            Ok(Node::Special)
        }
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(self.physical(directory))?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::fs::File::open(self.physical(file))?))
    }
}

/// The store path (`/nix/store/<name>`) that a logical path is in, if it is in the store.
pub fn store_path_of(logical: &Path) -> Option<String> {
    let relative = logical.strip_prefix(STORE_DIR).ok()?;
    let Component::Normal(name) = relative.components().next()? else { return None };
    let name = name.to_str().filter(|n| store_path::parts(n).is_some())?;
    Some(format!("{STORE_DIR}/{name}"))
}

/// All store paths that a text names, each as it stands there (with what follows the name cut
/// off).
pub fn store_paths_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("/nix/store/").filter_map(move |(at, prefix)| {
        let rest = &text[at + prefix.len()..];
        let length = rest.bytes().take_while(|&b| is_name_byte(b)).count();
        store_path::parts(&rest[..length]).is_some().then(|| &text[at..at + prefix.len() + length])
    })
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+-._?=".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const NAME: &str = "0123456789abcdfghijklmnpqrsvwxyz-nixos-system-nas";

    #[test]
    fn links_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::below(dir.path());
        let top = dir.path().join("nix/store").join(NAME);
        std::fs::create_dir_all(top.join("real")).unwrap();
        std::fs::write(top.join("real/hostid"), b"abcd").unwrap();
        symlink(format!("/nix/store/{NAME}/real"), top.join("etc")).unwrap();
        symlink("../../..", top.join("up")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        let logical = PathBuf::from(format!("/nix/store/{NAME}"));
        assert_eq!(store.read(&logical.join("etc/hostid")).unwrap().unwrap(), b"abcd");
        assert_eq!(store.resolve(&logical.join("up/../../..")).unwrap(), Path::new("/"));
        assert!(store.resolve(&logical.join("loop")).is_err());
        assert_eq!(store.read(&logical.join("nothing")).unwrap(), None);
    }

    #[test]
    fn a_system_is_located_by_path_link_and_physical_path() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::below(&PathBuf::from(format!("local?root={}", dir.path().display())));
        let top = dir.path().join("nix/store").join(NAME);
        std::fs::create_dir_all(&top).unwrap();
        let logical = format!("/nix/store/{NAME}");
        let result = dir.path().join("result");
        symlink(&logical, &result).unwrap();
        for given in [PathBuf::from(&logical), top.clone(), result] {
            assert_eq!(store.locate(&given).unwrap(), logical, "{}", given.display());
        }
        for bad in ["/nix/store", "/etc/passwd", "/nix/store/short-name"] {
            assert!(store.locate(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(store.locate(&top.join("bin")).is_err());
    }

    #[test]
    fn paths_in_texts() {
        let text = format!("exec /nix/store/{NAME}/bin/x --y=/nix/store/{NAME}\" /nix/store/no");
        let expected = format!("/nix/store/{NAME}");
        assert_eq!(store_paths_in(&text).collect::<Vec<_>>(), vec![&expected, &expected]);
    }
}
