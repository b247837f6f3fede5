//! What this machine holds that is like what is wanted: other versions of the same packages, in the
//! target's store and in that of the running system.
//!
//! | module | job |
//! |---|---|
//! | [`offer`] | cuts it into chunks beside the transfer, and gives their bytes back |
//! | `archive` | where in which file a part of an archive is |
//!
//! Nothing of this is trusted: a chunk's hash is compared when it is read again, and the NAR that it
//! becomes a part of with its SHA-256.

mod archive;
pub mod offer;

use super::Store;
use super::closure::Closure;
use super::fs::OpenDir;
use keystone_protocol::message::Wanted;
use keystone_protocol::store_path::parts;
use std::collections::{BTreeMap, HashMap};

/// Of less than this that is wanted of a path, in bytes of its NAR, nothing is looked for.
const LEAST: u64 = 64 << 10;
/// How many paths are looked at for one that is wanted.
const CANDIDATES: usize = 2;

/// Paths of this machine's stores that are like wanted ones.
#[derive(Debug)]
pub struct Held {
    stores: Vec<OpenDir>,
    alike: BTreeMap<u32, Alike>,
}

/// What is like one wanted path.
#[derive(Debug)]
struct Alike {
    /// Size of the wanted path's NAR, in bytes.
    size: u64,
    /// In which of the stores, and its name there; the most alike first.
    candidates: Vec<(usize, String)>,
}

impl Held {
    /// The wanted paths that something is like, as indices in the manifest.
    pub fn paths(&self) -> Vec<u32> {
        self.alike.keys().copied().collect()
    }
}

impl Store {
    /// Looks for what is like the wanted paths, by its name. What can't be read is not there.
    pub(super) fn held(&self, closure: &Closure<'_>, wanted: &[Wanted]) -> Held {
        let own = self.store.fd.try_clone().ok();
        let own = own.map(|fd| OpenDir { fd, path: self.store.path.clone() });
        let stores: Vec<OpenDir> = own.into_iter().chain(self.running_store()).collect();
        let names: Vec<(usize, String)> = stores
            .iter()
            .enumerate()
            .flat_map(|(i, store)| {
                let names = store.names().unwrap_or_default().into_iter();
                names.filter_map(move |name| Some((i, name.into_string().ok()?)))
            })
            .filter(|(_, name)| is_of_use(name))
            .collect();
        let mut packages: HashMap<&str, Vec<&(usize, String)>> = HashMap::new();
        for held in &names {
            let name = parts(&held.1).map_or("", |(_, name)| name);
            packages.entry(package(name)).or_default().push(held);
        }
        let find = |wanted: &Wanted| {
            let entry = &closure.entries[wanted.path as usize];
            let size = entry.info.nar_size;
            let (_, name) = parts(entry.base).filter(|_| size - wanted.from >= LEAST)?;
            let mut found = packages.get(package(name))?.clone();
            found.sort_by_key(|(store, held)| (distance(name, held), *store, held.clone()));
            let candidates = found.into_iter().take(CANDIDATES).cloned().collect();
            is_of_use(entry.base).then_some((wanted.path, Alike { size, candidates }))
        };
        let alike = wanted.iter().filter_map(find).collect();
        Held { stores, alike }
    }
}

/// Whether a name in a store is that of a path whose contents are of use: not of a temporary one, a
/// lock or a derivation.
fn is_of_use(base: &str) -> bool {
    parts(base).is_some_and(|_| !base.ends_with(".drv") && !base.ends_with(".lock"))
}

/// What a package is called whatever its version: a name up to the first `-` that a digit follows.
///
/// Source: Nix's manual, `builtins.parseDrvName`.
fn package(name: &str) -> &str {
    let bytes = name.as_bytes();
    let version = bytes.windows(2).position(|w| w[0] == b'-' && w[1].is_ascii_digit());
    version.map_or(name, |at| &name[..at])
}

/// How far what is held is from what is wanted, of names of one package: the same name, the same
/// output of another version, or another output.
fn distance(wanted: &str, held: &str) -> u8 {
    let held = parts(held).map_or("", |(_, name)| name);
    let output = |name: &str| {
        let last = name[package(name).len()..].rsplit('-').next().unwrap_or_default();
        let is_version = last.bytes().any(|b| b.is_ascii_digit());
        if is_version { String::new() } else { last.to_owned() }
    };
    match held {
        _ if held == wanted => 0,
        _ if output(held) == output(wanted) => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
