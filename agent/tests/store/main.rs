//! The target's store, judged by Nix itself.
//!
//! Nix builds a small closure in a store below another root; its NARs come from
//! `nix-store --dump`; what the agent made of them is compared with what Nix says of both.

mod source;

use keystone_agent::ensure::Ensured;
use keystone_agent::store::{ReceiveError, Received, Store};
use source::{Feed, Origin, nix_store};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn receive(root: &Path, feed: &mut Feed) -> Result<Received, ReceiveError> {
    let (store, _) = Store::prepare(root).unwrap();
    let manifest = feed.manifest.clone();
    store.receive(&manifest, feed, &mut |_| {}, &AtomicBool::new(false))
}

fn target() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Names in the store but Nix's own directory.
fn store_names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root.join("nix/store"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".links")
        .collect();
    names.sort();
    names
}

/// All of it, as Nix and the file system see it.
fn judge(root: &Path, origin: &Origin) {
    let paths = origin.manifest().paths.len();
    let db = root.join("nix/var/nix/db/db.sqlite");
    let count = |query: &str| -> i64 {
        rusqlite::Connection::open(&db).unwrap().query_row(query, [], |r| r.get(0)).unwrap()
    };
    // Before verifying, which drops rows without a word.
    assert_eq!(count("select count(*) from ValidPaths"), paths as i64);
    nix_store(root, &["--verify", "--check-contents"]);
    assert_eq!(count("select count(*) from ValidPaths"), paths as i64);
    assert_eq!(nix_store(root, &["--dump-db"]), nix_store(origin.root(), &["--dump-db"]));
    let output = |root: &Path| -> String {
        let db = rusqlite::Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap();
        let query = "select path from ValidPaths where id = (select drv from DerivationOutputs)";
        let drv: String = db.query_row(query, [], |r| r.get(0)).unwrap();
        let query = "select id || ' ' || path from DerivationOutputs";
        format!("{drv} {}", db.query_row(query, [], |r| r.get::<_, String>(0)).unwrap())
    };
    assert_eq!(output(root), output(origin.root()));
    for check in ["pragma integrity_check", "pragma foreign_key_check"] {
        let db = rusqlite::Connection::open(&db).unwrap();
        let mut rows = db.prepare(check).unwrap();
        let rows: Vec<String> =
            rows.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(rows.is_empty() || rows == ["ok"], "{check}: {rows:?}");
    }
    let store = root.join("nix/store");
    let metadata = std::fs::symlink_metadata(&store).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o1775, 0, 30_000));
    for name in store_names(root) {
        assert_canonical(&store.join(name));
    }
}

fn assert_canonical(path: &Path) {
    let m = std::fs::symlink_metadata(path).unwrap();
    let mode = m.mode() & 0o7777;
    assert_eq!((m.mtime(), m.mtime_nsec(), m.uid(), m.gid()), (1, 0, 0, 0), "{}", path.display());
    if m.is_dir() {
        assert_eq!(mode, 0o555, "{}", path.display());
        for entry in std::fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    } else if m.is_file() {
        assert!(matches!(mode, 0o444 | 0o555), "{}: {mode:o}", path.display());
    }
}

#[test]
fn nix_finds_the_closure_as_it_was() {
    let origin = Origin::get();
    let root = target();
    let mut seen = Vec::new();
    let (store, made) = Store::prepare(root.path()).unwrap();
    assert_eq!(made, Ensured::Created);
    let mut feed = Feed::new(origin);
    let manifest = origin.manifest();
    let received = store
        .receive(&manifest, &mut feed, &mut |p| seen.push(p), &AtomicBool::new(false))
        .unwrap();
    assert_eq!(received.ensured, Ensured::Created);
    assert_eq!(received.progress.paths, manifest.paths.len() as u64);
    assert_eq!(received.progress.bytes, manifest.nar_bytes());
    assert_eq!(seen.last(), Some(&received.progress));
    assert!(seen.windows(2).all(|w| w[0].bytes <= w[1].bytes && w[0].paths <= w[1].paths));
    judge(root.path(), origin);
    let db = root.path().join("nix/var/nix/db");
    assert_eq!(std::fs::read(db.join("schema")).unwrap(), b"10");
    for (file, size) in [("big-lock", 0), ("reserved", 8 << 20)] {
        let metadata = std::fs::metadata(db.join(file)).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (size, 0o600));
    }
}

#[test]
fn again_is_already_so() {
    let origin = Origin::get();
    let root = target();
    let _ = receive(root.path(), &mut Feed::new(origin)).unwrap();
    let (store, again) = Store::prepare(root.path()).unwrap();
    assert_eq!(again, Ensured::AlreadySo);
    let mut feed = Feed::new(origin);
    let manifest = origin.manifest();
    let received =
        store.receive(&manifest, &mut feed, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(feed.wanted, Some(vec![]));
    assert_eq!(received.ensured, Ensured::AlreadySo);
    assert_eq!(received.present, manifest.paths.len() as u64);
    judge(root.path(), origin);
}

#[test]
fn a_wrong_nar_never_gets_its_name() {
    let origin = Origin::get();
    let root = target();
    let mut feed = Feed::new(origin);
    // A byte of the big file's contents: the NAR stays well-formed.
    feed.corrupt = Some((origin.index("-tree"), 500_000));
    let error = receive(root.path(), &mut feed).unwrap_err();
    assert!(
        matches!(&error, ReceiveError::Hash { path, .. } if path.ends_with("-tree")),
        "{error}"
    );
    assert!(store_names(root.path()).iter().all(|name| !name.ends_with("-tree")));
    assert!(store_names(root.path()).iter().all(|name| !name.starts_with('.')));
    // What came before it is not asked for again.
    let left = store_names(root.path());
    let mut feed = Feed::new(origin);
    let _ = receive(root.path(), &mut feed).unwrap();
    assert_eq!(feed.wanted.unwrap().len(), origin.manifest().paths.len() - left.len());
    judge(root.path(), origin);
}

#[test]
fn damaged_leftovers_are_replaced() {
    let origin = Origin::get();
    let root = target();
    let _ = receive(root.path(), &mut Feed::new(origin)).unwrap();
    std::fs::remove_dir_all(root.path().join("nix/var/nix/db")).unwrap();
    let store = root.path().join("nix/store");
    let name = |suffix: &str| {
        let names = store_names(root.path());
        store.join(names.iter().find(|name| name.ends_with(suffix)).unwrap())
    };
    // Contents, metadata, kind, and a half-unpacked path of a run that was killed.
    std::fs::write(name("-lib.txt"), "a lobrary").unwrap();
    std::fs::set_permissions(name("-app.txt"), PermissionsExt::from_mode(0o644)).unwrap();
    let tree = name("-tree");
    std::fs::remove_dir_all(&tree).unwrap();
    symlink("/etc", &tree).unwrap();
    std::fs::create_dir_all(store.join(".keystone-1-2/deep")).unwrap();
    let mut feed = Feed::new(origin);
    let _ = receive(root.path(), &mut feed).unwrap();
    let mut expected = ["-lib.txt", "-app.txt", "-tree"].map(|suffix| origin.index(suffix));
    expected.sort();
    assert_eq!(feed.wanted, Some(expected.to_vec()));
    judge(root.path(), origin);
}

#[test]
fn cancelling_leaves_nothing_partial() {
    let origin = Origin::get();
    let root = target();
    let (store, _) = Store::prepare(root.path()).unwrap();
    let cancel = AtomicBool::new(false);
    let mut feed = Feed::new(origin);
    let manifest = origin.manifest();
    let half = manifest.nar_bytes() / 2;
    let result = store.receive(
        &manifest,
        &mut feed,
        &mut |p| cancel.store(p.bytes > half, Ordering::Relaxed),
        &cancel,
    );
    assert!(matches!(result, Err(ReceiveError::Cancelled)), "{result:?}");
    assert!(!root.path().join("nix/var/nix/db/schema").exists());
    // What came is not asked for again, also of the path that was half written.
    let mut feed = Feed::new(origin);
    let received = receive(root.path(), &mut feed).unwrap();
    assert_eq!(received.kept, feed.from);
    assert!(received.progress.bytes <= manifest.nar_bytes() - half, "{received:?}");
    judge(root.path(), origin);
    assert!(store_names(root.path()).iter().all(|name| !name.starts_with('.')));
    assert!(!root.path().join("nix/var/nix/.keystone-journal").exists());
}

/// Wherever a source breaks off, the next one goes on, and the result is the same.
#[test]
fn a_path_goes_on_where_it_broke_off() {
    let origin = Origin::get();
    let total = origin.manifest().nar_bytes();
    for stride in [1, 2, 3, 7] {
        let root = target();
        let mut runs = 0;
        loop {
            let mut feed = Feed::new(origin);
            feed.fail_after = Some(stride);
            let (store, _) = Store::prepare(root.path()).unwrap();
            let cancel = AtomicBool::new(false);
            let received = store.receive(&origin.manifest(), &mut feed, &mut |_| {}, &cancel);
            runs += 1;
            assert!(runs < 200, "does not get on");
            if let Ok(received) = received {
                // The last run had only a part to do.
                assert!(received.progress.bytes < total, "{received:?}");
                break;
            }
        }
        assert!(runs > 2, "{runs}");
        judge(root.path(), origin);
    }
}

/// What is on disk counts only as what it is.
#[test]
fn a_half_written_path_that_was_changed_is_not_gone_on_with() {
    let origin = Origin::get();
    let root = target();
    let mut feed = Feed::new(origin);
    let index = origin.index("-tree");
    feed.manifest = origin.manifest();
    // Breaks in the middle of the tree.
    feed.change = Some(Box::new(move |header, _| {
        if header.path == index && header.offset > 400_000 {
            header.path = 99;
        }
    }));
    let _ = receive(root.path(), &mut feed).unwrap_err();
    let store = root.path().join("nix/store");
    let names = store_names(root.path());
    let half = names.iter().find(|name| name.starts_with(".keystone-")).unwrap();
    let mut files = vec![store.join(half)];
    let mut changed = false;
    while let Some(path) = files.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if metadata.is_file() && metadata.len() > 1000 && !changed {
            let mut contents = std::fs::read(&path).unwrap();
            contents[500] ^= 1;
            std::fs::write(&path, contents).unwrap();
            changed = true;
        }
    }
    assert!(changed);
    let mut feed = Feed::new(origin);
    let received = receive(root.path(), &mut feed).unwrap();
    assert_eq!((feed.from, received.kept), (0, 0));
    judge(root.path(), origin);
}

#[test]
fn a_source_that_fails_or_lies_is_refused() {
    let origin = Origin::get();
    let index = origin.index("-tree");
    type Change = Box<dyn Fn(&mut keystone_protocol::frame::BlockHeader, &mut Vec<u8>)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|h, _| h.path = 99), "where path"),
        (Box::new(|h, _| h.offset += 1), "had to follow"),
        (Box::new(|h, _| h.last = true), "it ends at byte"),
        (Box::new(|h, _| h.raw_len += 1), "were announced"),
        (
            Box::new(|h, data| {
                h.raw_len = 0;
                h.encoding = keystone_protocol::frame::Encoding::Raw;
                data.clear();
            }),
            "empty block",
        ),
        (
            Box::new(|h, data| {
                h.encoding = keystone_protocol::frame::Encoding::Zstd;
                data.fill(7);
            }),
            "decompress",
        ),
    ];
    for (change, expected) in cases {
        let root = target();
        let mut feed = Feed::new(origin);
        feed.change = Some(Box::new(move |header, data| {
            if header.path == index && header.offset > 100_000 {
                change(header, data);
            }
        }));
        let error = receive(root.path(), &mut feed).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        assert!(
            store_names(root.path())
                .iter()
                .all(|name| !name.ends_with("-tree") || name.starts_with('.'))
        );
    }
    let root = target();
    let mut feed = Feed::new(origin);
    feed.fail_after = Some(3);
    let error = receive(root.path(), &mut feed).unwrap_err();
    assert!(matches!(error, ReceiveError::Source(_)), "{error}");
}

#[test]
fn another_stores_disk_is_refused() {
    let origin = Origin::get();
    let root = target();
    let _ = receive(root.path(), &mut Feed::new(origin)).unwrap();
    let (store, _) = Store::prepare(root.path()).unwrap();
    let mut manifest = origin.manifest();
    manifest.paths[0].nar_sha256 = "ab".repeat(32);
    let error = store
        .receive(&manifest, &mut Feed::new(origin), &mut |_| {}, &AtomicBool::new(false))
        .unwrap_err();
    assert!(error.to_string().contains("is registered with contents other"), "{error}");
    std::fs::write(root.path().join("nix/var/nix/db/schema"), "9").unwrap();
    let error = receive(root.path(), &mut Feed::new(origin)).unwrap_err();
    assert!(error.to_string().contains("schema version \"9\""), "{error}");
}

#[test]
fn the_profile_is_what_nix_makes_of_it() {
    let origin = Origin::get();
    let root = target();
    let _ = receive(root.path(), &mut Feed::new(origin)).unwrap();
    let (store, _) = Store::prepare(root.path()).unwrap();
    let toplevel = origin.manifest().toplevel;
    // Nix's garbage collector keeps what the profile names.
    let dead = nix_store(root.path(), &["--gc", "--print-dead"]);
    assert!(dead.contains(&toplevel), "{dead}");
    let set = store.set_profile(&toplevel).unwrap();
    assert_eq!((set.ensured, set.generation), (Ensured::Created, 1));
    let set = store.set_profile(&toplevel).unwrap();
    assert_eq!((set.ensured, set.generation), (Ensured::AlreadySo, 1));
    let profiles = root.path().join("nix/var/nix/profiles");
    let link = |name: &str| std::fs::read_link(profiles.join(name)).unwrap();
    assert_eq!(link("system"), Path::new("system-1-link"));
    assert_eq!(link("system-1-link"), Path::new(&toplevel));
    assert_eq!(std::fs::read(root.path().join("etc/NIXOS")).unwrap(), b"");
    // Another system is the next generation, and the first is found again.
    let other = &origin.manifest().paths[origin.index("-tree") as usize].path;
    assert_eq!(store.set_profile(other).unwrap().generation, 2);
    assert_eq!(link("system"), Path::new("system-2-link"));
    assert_eq!(store.set_profile(&toplevel).unwrap().generation, 1);
    assert!(store.set_profile("/nix/store/../../etc").is_err());
    let dead = nix_store(root.path(), &["--gc", "--print-dead"]);
    assert!(!dead.contains(&toplevel), "{dead}");
}
