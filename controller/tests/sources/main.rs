//! Binary caches, bundles and signatures against real Nix.

#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod bundles;
mod caches;
mod signatures;

use common::nix::{self, NixStore, logical};
use keystone_controller::closure::origin::Found;
use keystone_controller::closure::{ClosureError, Origin, Store};
use keystone_controller::nar::DumpError;
use keystone_protocol::manifest::{Manifest, PathInfo};
use std::path::Path;

/// The store's own account, to compare with.
fn own(store: &NixStore, path: &str) -> Found {
    Origin::Store(Store::below(store.root())).find(Some(Path::new(path)), None).unwrap()
}

/// A cache or bundle, by its name.
fn find(from: &str, path: &str) -> Result<Found, ClosureError> {
    Origin::named(from)?.find(Some(Path::new(path)), None)
}

/// The NAR of one path.
fn nar(found: &Found, path: &str) -> Result<Vec<u8>, String> {
    let info = found.manifest.paths.iter().find(|info| info.path == path).unwrap();
    let mut nar = Vec::new();
    match found.source.dump(info, &mut nar) {
        Ok(()) => Ok(nar),
        Err(DumpError::Source(error)) => {
            assert!((nar.len() as u64) < info.nar_size, "a whole NAR was given out before {error}");
            Err(keystone_controller::chain(&error))
        }
        Err(DumpError::Sink(error)) => panic!("{error}"),
    }
}

/// What does not depend on where it comes from.
fn essence(manifest: &Manifest) -> Vec<PathInfo> {
    let without = |info: &PathInfo| PathInfo { signatures: Vec::new(), ..info.clone() };
    manifest.paths.iter().map(without).collect()
}

/// Every path's NAR is the one that the store has.
#[track_caller]
fn assert_same_contents(found: &Found, store: &NixStore) {
    let own = own(store, &found.manifest.toplevel);
    for info in &found.manifest.paths {
        let (theirs, ours) = (nar(found, &info.path).unwrap(), nar(&own, &info.path).unwrap());
        assert!(theirs == ours, "{}", info.path);
    }
}

fn said(error: &ClosureError) -> String {
    keystone_controller::chain(error)
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

fn system() -> String {
    logical(nix::SYSTEM)
}
