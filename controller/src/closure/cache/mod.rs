//! A binary cache: a directory or a web server with narinfos and compressed NARs.
//!
//! | module | job |
//! |---|---|
//! | [`place`] | where a cache is |
//! | [`walk`] | the closure of a path, by narinfos asked for in parallel |
//! | [`fetch`] | a NAR out of a compressed file, checked while it passes |
//! | [`kept`] | compressed files that were looked into, kept for the transfer |
//! | [`error`] | what can be wrong with a cache |
//!
//! Files come from web servers by [`keystone_fetch`].
//!
//! Format: Nix manual, "HTTP Binary Cache Store" and "Local Binary Cache Store"
//! (src/libstore/binary-cache-store.cc). Nothing that a cache says is used unless it agrees with
//! the NAR's hash; whether that hash is trusted is for [`super::trust`].

pub mod error;
pub mod fetch;
pub mod kept;
pub mod place;
pub mod walk;

pub use error::CacheError;

use super::ClosureSource;
use super::error::ClosureError;
use super::narinfo::NarInfo;
use super::store::STORE_DIR;
use crate::nar::DumpError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kept::Kept;
use keystone_fetch::Roots;
use keystone_protocol::fetch::{Fetch, FetchNar};
use keystone_protocol::manifest::{Manifest, PathInfo};
use place::Place;
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest `nix-cache-info`, in bytes.
const MAX_CACHE_INFO: u64 = 64 << 10;

/// A binary cache.
#[derive(Debug)]
pub struct Cache {
    place: Place,
    narinfos: Mutex<HashMap<String, NarInfo>>,
    /// Compressed files that were looked into and will be needed again.
    kept: Kept,
}

impl Cache {
    /// The cache at an address: `file:///DIRECTORY`, `http://…` or `https://…`.
    pub fn open(address: &str) -> Result<Self, CacheError> {
        let place = Place::parse(address)?;
        let info = place.small("nix-cache-info", MAX_CACHE_INFO)?;
        let info = info.ok_or_else(|| CacheError::NoCache(place.name()))?;
        let info = String::from_utf8_lossy(&info).into_owned();
        let store = info.lines().find_map(|line| line.strip_prefix("StoreDir:")).map(str::trim);
        if let Some(found) = store.filter(|&store| store != STORE_DIR) {
            return Err(CacheError::OtherStore { cache: place.name(), found: found.to_owned() });
        }
        Ok(Cache { place, narinfos: Mutex::default(), kept: Kept::default() })
    }

    /// Everything of the closure of `toplevel` but its contents, sorted by path.
    pub fn closure(&self, toplevel: &str) -> Result<Manifest, CacheError> {
        let found = walk::closure(&self.place, toplevel)?;
        let mut paths: Vec<PathInfo> = found.values().map(|narinfo| narinfo.info.clone()).collect();
        paths.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        lock(&self.narinfos).extend(found);
        Ok(Manifest { toplevel: toplevel.to_owned(), paths })
    }

    fn dump(&self, path: &PathInfo, out: &mut dyn Write, keep: bool) -> Result<(), DumpError> {
        let source = |error| DumpError::Source(ClosureError::Cache(error));
        let lacks =
            || source(CacheError::Lacks { cache: self.place.name(), path: path.path.clone() });
        let narinfo = lock(&self.narinfos).get(&path.path).cloned().ok_or_else(lacks)?;
        let url = self.place.url(&narinfo.url);
        if let Some(mut file) = self.kept.get(&path.path) {
            return fetch::unpack(&narinfo, &url, &mut file, out);
        }
        let file = self.place.open(&narinfo.url).map_err(source)?;
        let missing = || CacheError::NoNar { url: url.clone(), path: path.path.clone() };
        let mut file = file.ok_or_else(|| source(missing()))?;
        if !keep || !self.place.is_far() {
            return fetch::unpack(&narinfo, &url, &mut file, out);
        }
        let mut copying = self.kept.copying(&mut file);
        fetch::unpack(&narinfo, &url, &mut copying, out)?;
        self.kept.keep(&path.path, copying);
        Ok(())
    }
}

impl ClosureSource for Cache {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        Cache::dump(self, path, out, false)
    }

    fn elsewhere(&self, paths: &[(u32, &PathInfo)]) -> Option<Fetch> {
        let Place::Http(http) = &self.place else { return None };
        let roots = match http.roots() {
            Some(Roots::These(ders)) => Some(ders.iter().map(|der| BASE64.encode(der)).collect()),
            // The machine's are newer than this program's, if it has some.
            Some(Roots::Mozillas) | None => None,
        };
        let narinfos = lock(&self.narinfos);
        let nar = |(index, info): &(u32, &PathInfo)| {
            let narinfo = narinfos.get(&info.path)?;
            Some(FetchNar {
                path: *index,
                name: narinfo.url.clone(),
                compression: narinfo.compression,
                file_size: narinfo.file_size,
                file_sha256: narinfo.file_sha256.map(hex::encode),
            })
        };
        let nars = paths.iter().filter_map(nar).collect();
        Some(Fetch { base: http.base().to_owned().into(), roots, nars })
    }
}

/// The cache as one that keeps what it fetches, for looking into NARs that are sent later.
#[derive(Debug)]
pub struct Keeping(pub Arc<Cache>);

impl ClosureSource for Keeping {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        self.0.dump(path, out, true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
