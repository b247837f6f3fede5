//! The target's store, judged by Nix itself.
//!
//! Nix builds a small closure in a store below another root; its NARs come from
//! `nix-store --dump`; what the agent made of them is compared with what Nix says of both.

mod source;

use keystone_agent::ensure::Ensured;
use keystone_agent::store::{ReceiveError, Received, Store};
use keystone_protocol::manifest::{Manifest, PathInfo};
use sha2::{Digest, Sha256};
use source::{Feed, Origin, Single, nix_store};
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

/// Wherever a source breaks off, the next one goes on, and the result is the same. Of what came, only
/// what an object begins with that was not made yet comes again.
#[test]
fn a_path_goes_on_where_it_broke_off() {
    let origin = Origin::get();
    let total = origin.manifest().nar_bytes();
    for stride in [1, 2, 3, 7] {
        let root = target();
        let (mut runs, mut given) = (0, 0);
        loop {
            let mut feed = Feed::new(origin);
            feed.fail_after = Some(stride);
            let (store, _) = Store::prepare(root.path()).unwrap();
            let cancel = AtomicBool::new(false);
            let received = store.receive(&origin.manifest(), &mut feed, &mut |_| {}, &cancel);
            runs += 1;
            given += feed.given;
            assert!(runs < 200, "does not get on");
            if let Ok(received) = received {
                // The last run had only a part to do.
                assert!(received.progress.bytes < total, "{received:?}");
                break;
            }
        }
        assert!(runs > 2, "{runs}");
        // A name, lengths and brackets: much less than the smaller blocks.
        assert!(given <= total + runs * 500, "{given} of {total} in {runs} runs, {stride}");
        judge(root.path(), origin);
    }
}

/// The tree's name below a root, when it has come to the half and was finished, and nothing is
/// registered. The source breaks off both times, so that what came first is in the journal.
fn finished_in_two_runs(root: &Path, origin: &'static Origin) -> std::path::PathBuf {
    let index = origin.index("-tree");
    let manifest = origin.manifest();
    let (tree, half) =
        (&manifest.paths[index as usize], manifest.paths[index as usize].nar_size / 2);
    let name = root.join(&tree.path[1..]);
    let mut feed = Feed::new(origin);
    feed.change = Some(Box::new(move |header, _| {
        if header.path == index && header.offset > half {
            header.path = 99;
        }
    }));
    let _ = receive(root, &mut feed).unwrap_err();
    let (mut feed, top) = (Feed::new(origin), manifest.paths.len() as u32 - 1);
    assert!(manifest.paths[top as usize].path == manifest.toplevel && top > index);
    let waited_for = name.clone();
    feed.change = Some(Box::new(move |header, _| {
        if header.path == top {
            let began = std::time::Instant::now();
            while !waited_for.exists() {
                assert!(began.elapsed().as_secs() < 60, "the tree is not finished");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            header.path = 99;
        }
    }));
    let _ = receive(root, &mut feed).unwrap_err();
    assert!(feed.from > half / 2 && name.exists(), "{}", feed.from);
    name
}

/// After a power loss a path may have its name and not all of its data. What a checkpoint vouches for
/// is not asked for again.
#[test]
fn a_finished_path_that_lost_its_end_is_gone_on_with() {
    let origin = Origin::get();
    type Damage = fn(&Path);
    let cases: [(&str, Damage, bool); 4] = [
        ("its end", |tree| cut_short(&tree.join("data"), 2 << 20), true),
        ("entries", |tree| std::fs::remove_dir_all(tree.join("sub")).unwrap(), true),
        ("its time", |tree| std::fs::File::open(tree).unwrap().set_modified(EARLY).unwrap(), true),
        // What the checkpoint speaks of is gone as well.
        ("its beginning", |tree| std::fs::remove_file(tree.join("busybox")).unwrap(), false),
    ];
    for (what, damage, is_kept) in cases {
        let root = target();
        let name = finished_in_two_runs(root.path(), origin);
        damage(&name);
        let mut feed = Feed::new(origin);
        let received = receive(root.path(), &mut feed).unwrap();
        assert_eq!((received.kept, received.kept > 0), (feed.from, is_kept), "{what}");
        judge(root.path(), origin);
        assert!(store_names(root.path()).iter().all(|name| !name.starts_with('.')), "{what}");
    }
}

/// Some time that is none of a store's.
const EARLY: std::time::SystemTime = std::time::UNIX_EPOCH;

fn cut_short(file: &Path, length: u64) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    assert!(file.metadata().unwrap().len() > length);
    file.set_len(length).unwrap();
}

/// The only path of [`manifest_of`].
const SINGLE: &str = "11111111111111111111111111111111-single";
const BLOCK: usize = 1 << 20;

fn manifest_of(nar: &[u8]) -> Manifest {
    let path = format!("/nix/store/{SINGLE}");
    let info = PathInfo {
        path: path.clone(),
        nar_sha256: hex::encode(Sha256::digest(nar)),
        nar_size: nar.len() as u64,
        references: vec![],
        deriver: None,
        signatures: vec![],
        ca: None,
    };
    Manifest { toplevel: path, paths: vec![info] }
}

/// Where hardly anything is contents, nearly every block ends in a name.
#[test]
fn a_path_of_small_files_goes_on_where_it_broke_off() {
    let given = tempfile::tempdir().unwrap();
    for n in 0..12 {
        let dir = given.path().join(format!("tree/{n}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), "short").unwrap();
        symlink("../file", dir.join("link")).unwrap();
    }
    let nar = source::dump(&given.path().join("tree"));
    let manifest = manifest_of(&nar);
    let root = target();
    let (mut runs, mut given) = (0, 0);
    let received = loop {
        let (store, _) = Store::prepare(root.path()).unwrap();
        let mut single = Single::new(&nar, 500, 1, false);
        let cancel = AtomicBool::new(false);
        let received = store.receive(&manifest, &mut single, &mut |_| {}, &cancel);
        runs += 1;
        given += single.given * 500;
        assert!(runs < 100, "does not get on");
        if let Ok(received) = received {
            break received;
        }
    };
    assert!(runs > 10 && given <= nar.len() + 500 + runs * 300, "{given} in {runs} runs");
    assert!(received.kept > nar.len() as u64 - 500, "{received:?}");
    assert!(source::dump(&root.path().join("nix/store").join(SINGLE)) == nar);
}

/// A path of a size from which on a thread of its own decompresses it.
#[test]
fn a_large_path_is_cut_and_gone_on_with() {
    let given = tempfile::tempdir().unwrap();
    std::fs::create_dir(given.path().join("large")).unwrap();
    for n in 0..3 {
        // Compresses to a half.
        let text: Vec<u8> = source::noise(8 << 20).into_iter().flat_map(|b| [b, n]).collect();
        std::fs::write(given.path().join(format!("large/{n}")), text).unwrap();
    }
    let nar = source::dump(&given.path().join("large"));
    let manifest = manifest_of(&nar);
    let root = target();
    let run = |fail_after, damaged| {
        let mut single = Single::new(&nar, BLOCK, fail_after, damaged);
        let (store, _) = Store::prepare(root.path()).unwrap();
        let cancel = AtomicBool::new(false);
        let received = store.receive(&manifest, &mut single, &mut |_| {}, &cancel);
        (received, single.given)
    };
    let blocks = nar.len().div_ceil(BLOCK);
    // In the middle of the first file, and of the last by what can't be decompressed.
    assert!(matches!(run(7, false), (Err(ReceiveError::Source(_)), 7)));
    assert!(matches!(run(blocks - 12, true), (Err(ReceiveError::Decompress { .. }), _)));
    assert_eq!(store_names(root.path()), [format!(".keystone-{SINGLE}")]);
    let (received, came) = run(usize::MAX, false);
    assert_eq!((came, received.unwrap().kept), (5, ((blocks - 5) * BLOCK) as u64));
    nix_store(root.path(), &["--verify", "--check-contents"]);
    assert!(source::dump(&root.path().join("nix/store").join(SINGLE)) == nar);
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
