//! What `nix copy` writes, from directories and web servers.

use super::common::flaky::{Faults, Flaky};
use super::common::nix::{self, NixStore, logical};
use super::common::web::Nginx;
use super::*;
use keystone_controller::closure::narinfo::NarInfo;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tempfile::TempDir;

fn cache(store: &NixStore, compression: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    store.copy_to_cache(&system(), dir.path(), compression);
    dir
}

fn url(dir: &TempDir) -> String {
    format!("file://{}", dir.path().display())
}

fn narinfo(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(format!("{}.narinfo", &name[..32]))
}

#[test]
fn every_compression_of_nix_is_read() {
    let store = NixStore::with_system();
    let own_system = Origin::Store(Store::below(store.root()));
    let (expected, _) = own_system.system(Some(Path::new(&system())), None).unwrap();
    for compression in ["none", "xz", "zstd", "bzip2", "gzip"] {
        let dir = cache(&store, compression);
        let text = std::fs::read_to_string(narinfo(&dir, nix::KERNEL)).unwrap();
        assert!(text.contains(&format!("Compression: {compression}\n")), "{text}");
        let origin = Origin::named(&url(&dir)).unwrap();
        let (closure, source) = origin.system(Some(Path::new(&system())), None).unwrap();
        assert_eq!(closure.facts, expected.facts, "{compression}");
        assert_eq!(essence(&closure.manifest), essence(&expected.manifest), "{compression}");
        assert_same_contents(&Found { manifest: closure.manifest, source }, &store);
    }
}

/// Our narinfo of a path is Nix's, but for what a copy does not keep.
#[test]
fn narinfos_are_written_as_nix_writes_them() {
    let store = NixStore::with_system();
    let dir = cache(&store, "xz");
    for name in [nix::SYSTEM, nix::ETC, nix::KERNEL] {
        let text = std::fs::read_to_string(narinfo(&dir, name)).unwrap();
        assert_eq!(NarInfo::parse(&text).unwrap().to_string(), text);
    }
}

#[test]
fn a_web_server_is_read_in_parallel_and_once() {
    let store = NixStore::with_system();
    let dir = cache(&store, "xz");
    let server = Nginx::serve(dir.path());
    let origin = Origin::named(&server.http()).unwrap();
    let (closure, source) = origin.system(Some(Path::new(&system())), None).unwrap();
    let found = Found { manifest: closure.manifest, source };
    assert_eq!(essence(&found.manifest), essence(&own(&store, &system()).manifest));
    assert_same_contents(&found, &store);
    // What was looked into beforehand is not fetched again.
    let nars = server.requests().iter().filter(|line| line.contains("/nar/")).count();
    assert_eq!(nars, found.manifest.paths.len(), "{:#?}", server.requests());
    // Behind a redirection, as caches have them.
    let moved = find(&format!("{}/moved", server.http()), &system()).unwrap();
    assert_same_contents(&moved, &store);
    let error = find(&format!("{}/busy", server.http()), &system()).err().unwrap();
    assert_says(&said(&error), &["/busy/nix-cache-info", "503"]);
}

#[test]
fn transfers_that_break_off_are_continued() {
    let store = NixStore::with_system();
    let dir = cache(&store, "none");
    for ranges in [true, false] {
        let faults = Faults { cut: 1_000_000, ranges, busy: 1, stalls: false };
        let server = Flaky::serve(dir.path(), faults);
        let found = find(server.address(), &system()).unwrap();
        assert_same_contents(&found, &store);
        // Three million bytes of a kernel in pieces of one million, after one refusal.
        assert!(server.asked("nar/").iter().any(|&times| times >= 4), "{:?}", server.asked("nar/"));
    }
    // One that never gets on is given up.
    let server = Flaky::serve(dir.path(), Faults { cut: 0, ranges: true, busy: 0, stalls: false });
    let error = find(server.address(), &system()).err().unwrap();
    assert_says(&said(&error), &["nix-cache-info", "can't be read"]);
}

#[test]
fn damage_is_noticed_before_a_whole_nar_is_given_out() {
    let store = NixStore::with_system();
    let kernel = logical(nix::KERNEL);
    let damaged = |break_it: &dyn Fn(&TempDir)| {
        let dir = cache(&store, "none");
        break_it(&dir);
        nar(&find(&url(&dir), &system()).unwrap(), &kernel).unwrap_err()
    };
    let file = |dir: &TempDir| {
        let text = std::fs::read_to_string(narinfo(dir, nix::KERNEL)).unwrap();
        dir.path().join(NarInfo::parse(&text).unwrap().url)
    };
    let flipped = damaged(&|dir| {
        let mut bytes = std::fs::read(file(dir)).unwrap();
        bytes[2_000_000] ^= 1;
        std::fs::write(file(dir), bytes).unwrap();
    });
    assert_says(&flipped, &["is damaged", "SHA-256", ".nar"]);
    let shortened = damaged(&|dir| {
        let bytes = std::fs::read(file(dir)).unwrap();
        std::fs::write(file(dir), &bytes[..bytes.len() - 8]).unwrap();
    });
    assert_says(&shortened, &["is damaged", "length"]);
    let longer = damaged(&|dir| {
        let bytes = std::fs::read(file(dir)).unwrap();
        std::fs::write(file(dir), [&bytes[..], &[0; 8]].concat()).unwrap();
    });
    assert_says(&longer, &["holds another NAR", &kernel]);
    // The file is what its narinfo says, and the NAR is not.
    let edit = |dir: &TempDir, key: &str, value: &str| {
        let path = narinfo(dir, nix::KERNEL);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.starts_with(key) {
            true => format!("{key}: {value}\n"),
            false => format!("{line}\n"),
        });
        std::fs::write(path, lines.collect::<String>()).unwrap();
    };
    let other = format!("sha256:{}", "0".repeat(52));
    let other_hash = damaged(&|dir| edit(dir, "NarHash", &other));
    assert_says(&other_hash, &["holds another NAR", &kernel, "SHA-256"]);
    let other_size = damaged(&|dir| edit(dir, "NarSize", "4000000"));
    assert_says(&other_size, &["holds another NAR", "length", "4000000"]);
    let no_xz = damaged(&|dir| edit(dir, "Compression", "xz"));
    assert_says(&no_xz, &["can't be read"]);
    let gone = damaged(&|dir| std::fs::remove_file(file(dir)).unwrap());
    assert_says(&gone, &["is not there", &kernel]);
}

/// A narinfo whose hash is wrong, of a path that is looked into before anything is sent.
#[test]
fn what_is_looked_into_is_checked_first() {
    let store = NixStore::with_system();
    let dir = cache(&store, "zstd");
    let path = narinfo(&dir, nix::ETC);
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("NarHash: sha256:").unwrap() + 16;
    let changed = format!("{}{}{}", &text[..at], "1".repeat(52), &text[at + 52..]);
    std::fs::write(path, changed).unwrap();
    let origin = Origin::named(&url(&dir)).unwrap();
    let error = origin.system(Some(Path::new(&system())), None).err().unwrap();
    assert_says(&said(&error), &["holds another NAR", nix::ETC]);
}

#[test]
fn what_is_no_cache_or_lacks_something() {
    let store = NixStore::with_system();
    let empty = tempfile::tempdir().unwrap();
    assert_says(&said(&Origin::named(&url(&empty)).unwrap_err()), &["no binary cache", "nix copy"]);
    assert_says(&said(&Origin::named("s3://bucket").unwrap_err()), &["s3://bucket", "https://"]);
    let nobody = said(&Origin::named("http://127.0.0.1:1").unwrap_err());
    assert_says(&nobody, &["127.0.0.1:1", "refused"]);

    let dir = cache(&store, "zstd");
    let lacking = find(&url(&dir), &logical(nix::OTHER)).err().unwrap();
    assert_says(&said(&lacking), &["does not have", nix::OTHER]);
    std::fs::remove_file(narinfo(&dir, nix::ZFS)).unwrap();
    let incomplete = find(&url(&dir), &system()).err().unwrap();
    assert_says(&said(&incomplete), &["lacks", nix::ZFS, nix::SYSTEM, "refers to"]);
    let text = std::fs::read_to_string(narinfo(&dir, nix::ETC)).unwrap();
    std::fs::write(narinfo(&dir, nix::ZFS), &text).unwrap();
    let another = find(&url(&dir), &system()).err().unwrap();
    assert_says(&said(&another), &["instead of", nix::ETC, nix::ZFS]);
    std::fs::write(narinfo(&dir, nix::ZFS), text.replace("URL: nar/", "URL: ../")).unwrap();
    let outside = find(&url(&dir), &system()).err().unwrap();
    assert_says(&said(&outside), &["URL", "../"]);
    std::fs::write(dir.path().join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    assert_says(&said(&Origin::named(&url(&dir)).unwrap_err()), &["/gnu/store"]);
}

/// What a machine is told that fetches a closure itself.
#[test]
fn a_web_server_says_where_its_files_lie() {
    let store = NixStore::with_system();
    let file = tempfile::tempdir().unwrap();
    std::fs::write(file.path().join("plain"), b"contents").unwrap();
    let plain = file.path().join("plain").display().to_string();
    let flat = store.query(&["--add-fixed", "sha256", &plain]).trim().to_owned();
    let tree = store.query(&["--add-fixed", "--recursive", "sha256", &plain]).trim().to_owned();
    let dir = cache(&store, "xz");
    store.copy_to_cache(&flat, dir.path(), "xz");
    store.copy_to_cache(&tree, dir.path(), "xz");
    let server = Nginx::serve(dir.path());
    let told = |found: &Found| {
        let paths: Vec<(u32, &PathInfo)> =
            found.manifest.paths.iter().enumerate().map(|(i, info)| (i as u32, info)).collect();
        found.source.elsewhere(&paths)
    };
    let found = find(&server.http(), &system()).unwrap();
    let fetch = told(&found).unwrap();
    assert_eq!(fetch.base.expose(), server.http().as_bytes());
    assert_eq!(fetch.roots, None);
    assert_eq!(fetch.nars.len(), found.manifest.paths.len());
    for nar in &fetch.nars {
        let bytes = std::fs::read(dir.path().join(&nar.name)).unwrap();
        assert_eq!((nar.compression.name(), nar.file_size), ("xz", Some(bytes.len() as u64)));
        assert_eq!(nar.file_sha256, Some(hex::encode(Sha256::digest(&bytes))));
    }
    // What has to be looked at here to be trusted is sent from here.
    let trust = super::signatures::Keys::new("stranger-1").trust();
    let origin = Origin::named(&server.http()).unwrap();
    let trusted = |path: &str| told(&origin.find(Some(Path::new(path)), Some(&trust)).unwrap());
    assert_eq!(trusted(&flat).unwrap().nars, []);
    assert_eq!(trusted(&tree).unwrap().nars.len(), 1);
    // A machine can't read this computer's directories.
    assert!(told(&find(&url(&dir), &system()).unwrap()).is_none());
}
