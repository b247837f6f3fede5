use super::offer::{Offer, RestoreError};
use super::*;
use crate::store::buffer::Pool;
use crate::testing::noise;
use keystone_protocol::chunks::{Cutter, Part, from_text, write_parts};
use keystone_protocol::manifest::{Manifest, PathInfo};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, mpsc};

const TREE: &str = "11111111111111111111111111111111-tool-1.2-lib";

/// A tree with files of many sizes, empty ones, a link, and an executable.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("sub/empty")).unwrap();
    for (i, length) in [0usize, 1, 8, 700, 5000, 70_000, 300_000, 1_100_000].into_iter().enumerate()
    {
        fs::write(at.join(format!("sub/file {i}")), noise(2 * i as u64, length)).unwrap();
        fs::write(at.join(format!("small {i}")), noise(99, i * 7)).unwrap();
    }
    symlink("/nowhere", at.join("link")).unwrap();
}

fn info(base: &str, nar_size: u64) -> PathInfo {
    PathInfo {
        path: format!("/nix/store/{base}"),
        nar_sha256: "ab".repeat(32),
        nar_size,
        references: vec![],
        deriver: None,
        signatures: vec![],
        ca: None,
    }
}

/// What is held in a store below `root` for these wanted paths, all from their beginning.
fn held(root: &Path, wanted: &[(&str, u64)]) -> Held {
    let (store, _) = Store::prepare(root).unwrap();
    let paths: Vec<PathInfo> = wanted.iter().map(|(base, size)| info(base, *size)).collect();
    let manifest = Manifest { toplevel: paths[0].path.clone(), paths };
    let closure = Closure::check(&manifest).unwrap();
    let wanted: Vec<Wanted> =
        (0..wanted.len()).map(|i| Wanted { path: i as u32, from: 0 }).collect();
    store.held(&closure, &wanted)
}

/// Chunks' first number and hashes, for each path.
type Told = Vec<(u32, u32, usize)>;

fn offer(held: Held, paths: &[u32]) -> (Offer, Told) {
    let (sender, told) = mpsc::channel();
    let tell = move |path, first, hashes: String| {
        sender.send((path, first, from_text(&hashes).unwrap().len())).is_ok()
    };
    let offer = Offer::start(Arc::new(held), paths.to_vec(), Box::new(tell)).unwrap();
    let told = paths.iter().map(|_| told.recv().unwrap()).collect();
    (offer, told)
}

/// The data of a block of these chunks.
fn chunks(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    write_parts(&numbers.into_iter().map(Part::Chunk).collect::<Vec<_>>(), b"")
}

/// Of the chunks of these bytes.
fn lengths(bytes: &[u8]) -> Vec<u32> {
    let mut lengths = Vec::new();
    let mut each = |chunk: &[u8]| {
        lengths.push(chunk.len() as u32);
        Ok::<(), std::convert::Infallible>(())
    };
    let mut cutter = Cutter::default();
    let (Ok(()), Ok(())) = (cutter.push(bytes, &mut each), cutter.end(&mut each));
    lengths
}

#[test]
fn what_is_alike_is_known_by_its_name() {
    assert_eq!(package("glibc-2.40-66-bin"), "glibc");
    assert_eq!(package("python3.11-foo-1.2"), "python3.11-foo");
    assert_eq!(package("source"), "source");
    assert_eq!(package("unit-dbus.service"), "unit-dbus.service");
    let root = tempfile::tempdir().unwrap();
    let (store, _) = Store::prepare(root.path()).unwrap();
    drop(store);
    let at = root.path().join("nix/store");
    let name = |c: char, rest: &str| format!("{}-{rest}", c.to_string().repeat(32));
    for held in [
        name('1', "tool-1.0-lib"),
        name('2', "tool-1.1"),
        name('3', "tool-1.2"),
        name('4', "tool-1.2.drv"),
        name('5', "tools-1.2"),
        ".keystone-x".to_owned(),
    ] {
        fs::write(at.join(held), "").unwrap();
    }
    let wanted = [name('7', "tool-1.2"), name('8', "tool-2.0-lib"), name('9', "other-1.2")];
    let sized = [(&*wanted[0], 1 << 20), (&*wanted[1], 1 << 20), (&*wanted[2], 1 << 20)];
    let found = held(root.path(), &sized);
    assert_eq!(found.paths(), [0, 1]);
    let names = |path: u32| -> Vec<String> {
        found.alike[&path].candidates.iter().map(|(_, name)| name.clone()).collect()
    };
    assert_eq!(names(0), [name('3', "tool-1.2"), name('2', "tool-1.1")]);
    assert_eq!(names(1)[0], name('1', "tool-1.0-lib"));
    // What is small is sent.
    assert!(held(root.path(), &[(&wanted[0], LEAST - 1)]).paths().is_empty());
}

#[test]
fn chunks_are_given_back_until_they_change() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("nix/store");
    tree(&store.join(TREE));
    let wanted = "22222222222222222222222222222222-tool-1.3-lib";
    let found = held(root.path(), &[(wanted, 2 << 20)]);
    let mut nar = Vec::new();
    let dir = OpenDir::open(&store).unwrap();
    use std::os::fd::AsFd;
    crate::store::nar::dump::dump(dir.fd.as_fd(), TREE, &mut nar).unwrap();
    let (mut offer, told) = offer(found, &[0]);
    let [(0, 0, count)] = told[..] else { panic!("{told:?}") };
    assert!(count > 40, "{count}");
    // All of them in their order are the archive: nothing in it is twice.
    let pool = Pool::default();
    let all = chunks(0..count as u32);
    let length = nar.len() as u32;
    assert!(offer.restore(&all, length, &pool).unwrap()[..] == nar[..]);
    // Bytes between them, compressed or not; and backwards.
    let begin = offer.restore(&chunks([0]), lengths(&nar)[0], &pool).unwrap().to_vec();
    let own = vec![5u8; 3000];
    let parts = [Part::Bytes(1000), Part::Chunk(0), Part::Bytes(2000), Part::Chunk(0)];
    let together = [&own[..1000], &begin, &own[1000..], &begin].concat();
    for bytes in [own.clone(), zstd::bulk::compress(&own, 3).unwrap()] {
        let data = write_parts(&parts, &bytes);
        let restored = offer.restore(&data, together.len() as u32, &pool).unwrap();
        assert!(restored[..] == together[..]);
    }
    let mut each = Vec::new();
    for (number, length) in lengths(&nar).into_iter().enumerate().rev() {
        each.push(offer.restore(&chunks([number as u32]), length, &pool).unwrap().to_vec());
    }
    each.reverse();
    assert!(each.concat() == nar);

    let mut wrong = |data: &[u8], length: u32| {
        matches!(offer.restore(data, length, &pool), Err(RestoreError::Wrong(_)))
    };
    assert!(wrong(&chunks([count as u32]), 5000));
    assert!(wrong(&chunks([u32::MAX >> 1]), 5000));
    assert!(wrong(&all, length + 1) && wrong(&all, length - 1));
    assert!(wrong(b"", 1) && wrong(&[1, 0, 0], 1));
    assert!(wrong(&write_parts(&[Part::Bytes(100)], b"no zstd"), 100));

    let large = store.join(TREE).join("sub/file 7");
    let mut contents = fs::read(&large).unwrap();
    contents[500_000] ^= 1;
    fs::write(&large, &contents).unwrap();
    let gone = |result: Result<_, _>| matches!(result, Err(RestoreError::Gone(_)));
    assert!(gone(offer.restore(&all, length, &pool)));
    contents[500_000] ^= 1;
    fs::write(&large, &contents).unwrap();
    offer.restore(&all, length, &pool).unwrap();
    // A link to what is right is not followed, whether to a file or to a directory.
    drop(fs::rename(store.join(TREE).join("sub"), store.join("elsewhere")));
    symlink("../elsewhere", store.join(TREE).join("sub")).unwrap();
    assert!(gone(offer.restore(&all, length, &pool)));
}

#[test]
fn what_can_not_be_read_offers_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("nix/store");
    fs::create_dir_all(&store).unwrap();
    nix::unistd::mkfifo(&store.join(TREE), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let wanted = "22222222222222222222222222222222-tool-1.3-lib";
    let found = held(root.path(), &[(wanted, 1 << 20)]);
    let (_offer, told) = offer(found, &[0, 77]);
    // The beginning of the archive is none of a file's, and all there is.
    assert!(told[0].2 <= 1 && told[1].2 == 0, "{told:?}");
}
