//! Parser, unpacker and dump against each other and against another implementation.

use super::parse::*;
use super::{MAX_DEPTH, dump, replay, unpack};
use keystone_protocol::nar::{MAGIC, MAX_NAME};
use nix_nar::{Decoder, Encoder};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

/// A tree that a NAR can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// The archive, written from the grammar alone; `names` are taken as they are.
fn encode(tree: &Tree) -> Vec<u8> {
    fn node(out: &mut Vec<u8>, tree: &Tree) {
        string(out, b"(");
        string(out, b"type");
        match tree {
            Tree::File { executable, contents } => {
                string(out, b"regular");
                if *executable {
                    string(out, b"executable");
                    string(out, b"");
                }
                string(out, b"contents");
                string(out, contents);
            }
            Tree::Symlink(target) => {
                string(out, b"symlink");
                string(out, b"target");
                string(out, target);
            }
            Tree::Directory(entries) => {
                string(out, b"directory");
                for (name, tree) in entries {
                    entry(out, name, tree);
                }
            }
        }
        string(out, b")");
    }
    fn entry(out: &mut Vec<u8>, name: &[u8], tree: &Tree) {
        string(out, b"entry");
        string(out, b"(");
        string(out, b"name");
        string(out, name);
        string(out, b"node");
        node(out, tree);
        string(out, b")");
    }
    let mut out = Vec::new();
    string(&mut out, MAGIC);
    node(&mut out, tree);
    out
}

/// A directory archive with these entries in this order, whatever they are.
fn directory_of(entries: &[(&[u8], &Tree)]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in [MAGIC, b"(", b"type", b"directory"] {
        string(&mut out, part);
    }
    for (name, tree) in entries {
        for part in [&b"entry"[..], b"(", b"name", name, b"node"] {
            string(&mut out, part);
        }
        out.extend_from_slice(&encode(tree)[24..]);
        string(&mut out, b")");
    }
    string(&mut out, b")");
    out
}

type Entries = BTreeMap<Vec<u8>, Tree>;

/// A sink that rebuilds the tree.
#[derive(Debug, Default)]
struct Rebuild {
    open: Vec<(Vec<u8>, Entries)>,
    file: Option<(Vec<u8>, bool, u64, Vec<u8>)>,
    root: Option<Tree>,
}

impl Rebuild {
    fn put(&mut self, name: Vec<u8>, tree: Tree) {
        match self.open.last_mut() {
            Some((_, entries)) => assert!(entries.insert(name, tree).is_none()),
            None => assert!(self.root.replace(tree).is_none()),
        }
    }
}

impl Sink for Rebuild {
    type Error = std::convert::Infallible;
    fn directory(&mut self, name: &[u8]) -> Result<(), Self::Error> {
        self.open.push((name.to_vec(), BTreeMap::new()));
        Ok(())
    }
    fn end_directory(&mut self) -> Result<(), Self::Error> {
        let (name, entries) = self.open.pop().unwrap();
        self.put(name, Tree::Directory(entries));
        Ok(())
    }
    fn file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), Self::Error> {
        assert!(self.file.replace((name.to_vec(), executable, size, vec![])).is_none());
        Ok(())
    }
    fn contents(&mut self, data: &[u8]) -> Result<(), Self::Error> {
        self.file.as_mut().unwrap().3.extend_from_slice(data);
        Ok(())
    }
    fn end_file(&mut self) -> Result<(), Self::Error> {
        let (name, executable, size, contents) = self.file.take().unwrap();
        assert_eq!(size, contents.len() as u64);
        self.put(name, Tree::File { executable, contents });
        Ok(())
    }
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Self::Error> {
        self.put(name.to_vec(), Tree::Symlink(target.to_vec()));
        Ok(())
    }
}

fn parse(nar: &[u8], piece: usize) -> Result<Tree, FormatError> {
    let mut parser = Parser::new(Rebuild::default(), nar.len() as u64);
    for piece in nar.chunks(piece) {
        parser.feed(piece).map_err(|error| match error {
            FeedError::Format(error) => error,
            FeedError::Sink(never) => match never {},
        })?;
    }
    Ok(parser.finish()?.root.unwrap())
}

/// Unpacks into a fresh directory and returns it, with the archive's root as `root`.
fn unpack_to_disk(nar: &[u8], piece: usize) -> Result<tempfile::TempDir, String> {
    let outer = tempfile::tempdir().unwrap();
    std::fs::create_dir(outer.path().join("store")).unwrap();
    let store = crate::store::fs::OpenDir::open(&outer.path().join("store")).unwrap();
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unpack::own_umask().unwrap();
                let unpacker = unpack::Unpacker::new(store.fd.as_fd(), "root".into());
                let mut parser = Parser::new(unpacker, nar.len() as u64);
                for piece in nar.chunks(piece) {
                    parser.feed(piece).map_err(|error| match error {
                        FeedError::Format(error) => error.to_string(),
                        FeedError::Sink(error) => format!("{error}: {}", error.source),
                    })?;
                }
                parser.finish().map_err(|error| error.to_string())?.keep();
                Ok(())
            })
            .join()
            .unwrap()
    });
    result.map(|()| outer)
}

/// Unpacks the first `cut` bytes, and, if the whole archive is to be there nonetheless, the rest;
/// then goes on from where the first bytes had led. How many of them counted, and the NAR of what
/// is on disk at the end.
fn cut_and_go_on(nar: &[u8], cut: usize, whole: bool) -> Result<(usize, Vec<u8>), String> {
    let outer = tempfile::tempdir().unwrap();
    let store = crate::store::fs::OpenDir::open(outer.path()).unwrap();
    let said = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let work = || {
        unpack::own_umask().unwrap();
        let unpacker = unpack::Unpacker::new(store.fd.as_fd(), "root".into());
        let mut parser = Parser::new(unpacker, nar.len() as u64);
        parser.feed(&nar[..cut]).map_err(|error| said(&error))?;
        let offset = parser.sink_mut().settled(cut as u64);
        let settled = offset as usize;
        let unfinished = parser.sink_mut().unfinished();
        let sha256 = Sha256::digest(&nar[..settled]).into();
        let reached = replay::Reached { offset, sha256, unfinished };
        if whole {
            parser.feed(&nar[cut..]).map_err(|error| said(&error))?;
        }
        parser.sink_mut().leave();
        drop(parser);
        let resumed = replay::replay(store.fd.as_fd(), "root", nar.len() as u64, &reached);
        let mut parser = resumed.map_err(|error| said(&error))?.parser;
        parser.feed(&nar[settled..]).map_err(|error| said(&error))?;
        parser.finish().map_err(|error| said(&error))?.keep();
        let mut again = Vec::new();
        dump::dump(store.fd.as_fd(), "root", &mut again).map_err(|error| said(&error))?;
        Ok((settled, again))
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("separator", |b| !matches!(b, 0 | b'/')), 1..12)
        .prop_filter("dots", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), vec(any::<u8>(), 0..64))
            .prop_map(|(executable, contents)| Tree::File { executable, contents }),
        vec(1..=255u8, 1..40).prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| btree_map(name(), inner, 0..6).prop_map(Tree::Directory))
}

/// A tree whose names and targets are UTF-8, which is all that the oracle takes.
fn utf8_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), vec(any::<u8>(), 0..64))
            .prop_map(|(executable, contents)| Tree::File { executable, contents }),
        "[a-zäß/.]{1,30}".prop_map(|target| Tree::Symlink(target.into_bytes())),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        btree_map("[A-Za-zäß~. -]{3,9}".prop_map(String::into_bytes), inner, 0..6)
            .prop_map(Tree::Directory)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_what_the_grammar_says(tree in tree(), piece in 1..40usize) {
        prop_assert_eq!(parse(&encode(&tree), piece).unwrap(), tree);
    }

    #[test]
    fn unpacks_and_dumps_to_the_same_bytes(tree in tree(), piece in 1..4000usize) {
        let nar = encode(&tree);
        let dir = unpack_to_disk(&nar, piece).unwrap();
        let store = crate::store::fs::OpenDir::open(&dir.path().join("store")).unwrap();
        let mut again = Vec::new();
        let deviation = dump::dump(store.fd.as_fd(), "root", &mut again).unwrap();
        prop_assert_eq!(deviation, None);
        prop_assert_eq!(again, nar);
    }

    #[test]
    fn agrees_with_another_implementation(tree in utf8_tree()) {
        use std::io::Read;
        let nar = encode(&tree);
        let ours = unpack_to_disk(&nar, 100).unwrap();
        let theirs = tempfile::tempdir().unwrap();
        Decoder::new(&nar[..]).unwrap().unpack(theirs.path().join("root")).unwrap();
        for dir in [&ours.path().join("store"), theirs.path()] {
            let mut dumped = Vec::new();
            Encoder::new(dir.join("root")).unwrap().read_to_end(&mut dumped).unwrap();
            prop_assert_eq!(&dumped, &nar);
            let store = crate::store::fs::OpenDir::open(dir).unwrap();
            let measured = dump::measure(store.fd.as_fd(), "root").unwrap();
            prop_assert_eq!(measured.sha256.to_vec(), Vec::from(&Sha256::digest(&nar)[..]));
            prop_assert_eq!(measured.size, nar.len() as u64);
        }
    }

    /// Of an archive that is cut anywhere all counts but what an object begins with that is not there.
    #[test]
    fn is_gone_on_with_wherever_it_was_cut(tree in tree(), cut: prop::sample::Index, whole: bool) {
        let nar = encode(&tree);
        let cut = cut.index(nar.len() + 1);
        let (settled, again) = cut_and_go_on(&nar, cut, whole).unwrap();
        prop_assert!(cut - settled < 300, "{} of {}", settled, cut);
        prop_assert_eq!(again, nar);
    }

    #[test]
    fn no_bytes_make_it_panic(mut nar in tree().prop_map(|tree| encode(&tree)), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let at = at.index(nar.len());
        nar[at] = byte;
        let _ = parse(&nar, 7);
        prop_assert!(parse(&nar[..cut.index(nar.len())], 64).is_err());
    }
}

fn file() -> Tree {
    Tree::File { executable: false, contents: b"contents".to_vec() }
}

#[test]
fn refuses_malicious_archives_and_writes_nothing_outside() {
    let file = file();
    let sub = Tree::Directory([(b"below".to_vec(), file.clone())].into());
    let link = |target: &str| Tree::Symlink(target.as_bytes().to_vec());
    let long = vec![b'x'; MAX_NAME + 1];
    let mut deep = file.clone();
    for _ in 0..=MAX_DEPTH {
        deep = Tree::Directory([(b"d".to_vec(), deep)].into());
    }
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("parent", directory_of(&[(b"..", &file)]), "illegal file name"),
        ("self", directory_of(&[(b".", &file)]), "illegal file name"),
        ("slash", directory_of(&[(b"../outside", &file)]), "illegal file name"),
        ("absolute", directory_of(&[(b"/outside", &file)]), "illegal file name"),
        ("empty", directory_of(&[(b"", &file)]), "illegal file name"),
        ("nul", directory_of(&[(b"a\0b", &file)]), "illegal file name"),
        ("long", directory_of(&[(&long, &file)]), "length of 256"),
        ("twice", directory_of(&[(b"a", &file), (b"a", &file)]), "entry \"a\" after \"a\""),
        ("unsorted", directory_of(&[(b"b", &file), (b"a", &file)]), "entry \"a\" after \"b\""),
        (
            "through a link",
            directory_of(&[(b"a", &link("../../outside")), (b"a", &sub)]),
            "entry \"a\" after \"a\"",
        ),
        ("target", encode(&link("")), "illegal symlink target"),
        ("target with NUL", encode(&link("a\0b")), "illegal symlink target"),
        ("deep", encode(&deep), "nested deeper"),
    ];
    for (what, nar, expected) in cases {
        for piece in [1, 64, 1 << 20] {
            let outer = tempfile::tempdir().unwrap();
            std::fs::create_dir(outer.path().join("store")).unwrap();
            let store = crate::store::fs::OpenDir::open(&outer.path().join("store")).unwrap();
            let unpacker = unpack::Unpacker::new(store.fd.as_fd(), "root".into());
            let mut parser = Parser::new(unpacker, nar.len() as u64);
            let error = nar.chunks(piece).find_map(|piece| parser.feed(piece).err());
            let message = match error {
                Some(FeedError::Format(error)) => error.to_string(),
                other => panic!("{what}: {other:?}"),
            };
            assert!(message.contains(expected), "{what}: {message}");
            drop(parser);
            assert_eq!(tree_names(outer.path()), ["store"], "{what}");
        }
    }
}

#[test]
fn never_writes_through_what_is_there() {
    let outer = tempfile::tempdir().unwrap();
    let outside = outer.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(outer.path().join("store")).unwrap();
    std::os::unix::fs::symlink(&outside, outer.path().join("store/root")).unwrap();
    let store = crate::store::fs::OpenDir::open(&outer.path().join("store")).unwrap();
    for tree in [file(), Tree::Directory([(b"a".to_vec(), file())].into())] {
        let nar = encode(&tree);
        let unpacker = unpack::Unpacker::new(store.fd.as_fd(), "root".into());
        let mut parser = Parser::new(unpacker, nar.len() as u64);
        match parser.feed(&nar) {
            Err(FeedError::Sink(error)) => {
                assert_eq!(error.source.raw_os_error(), Some(nix::libc::EEXIST));
            }
            other => panic!("{other:?}"),
        }
        std::mem::forget(parser);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}

#[test]
fn refuses_huge_lengths_before_anything_is_made() {
    for length in [u64::MAX, 1 << 62, 1 << 40, 1000] {
        let mut nar = Vec::new();
        for part in [MAGIC, b"(", b"type", b"regular", b"contents"] {
            string(&mut nar, part);
        }
        nar.extend_from_slice(&length.to_le_bytes());
        nar.resize(200, 0);
        let error = parse(&nar, 200).unwrap_err();
        assert!(matches!(error, FormatError::Length { .. }), "{error}");
    }
}

#[test]
fn refuses_dirty_padding_and_data_after_the_end() {
    let tree = Tree::File { executable: true, contents: b"abc".to_vec() };
    let good = encode(&tree);
    let contents = good.windows(3).position(|w| w == b"abc").unwrap();
    for at in [contents + 3, contents + 7, 8 + MAGIC.len()] {
        let mut nar = good.clone();
        nar[at] = 1;
        for piece in [1, 300] {
            assert!(matches!(parse(&nar, piece), Err(FormatError::Padding(_))), "byte {at}");
        }
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(parse(&longer, 300), Err(FormatError::Trailing(good.len() as u64)));
    assert_eq!(parse(&good, 3).unwrap(), tree);
}

/// Names below a directory.
fn tree_names(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir_) = left.pop() {
        for entry in std::fs::read_dir(dir_).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(dir).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            }
        }
    }
    names
}

#[test]
fn an_empty_directory_is_the_smallest_archive() {
    let empty = encode(&Tree::Directory(BTreeMap::new()));
    assert_eq!(empty.len(), 96);
    assert_eq!(parse(&empty, 5).unwrap(), Tree::Directory(BTreeMap::new()));
    let others = [Tree::File { executable: false, contents: vec![] }, Tree::Symlink(b"x".to_vec())];
    assert!(others.iter().all(|tree| encode(tree).len() > empty.len()));
}
