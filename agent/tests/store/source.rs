//! A closure that Nix built, and a source that streams it.

use keystone_agent::store::{Block, ClosureSource, SourceError};
use keystone_protocol::frame::{BlockHeader, Encoding};
use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::message::Wanted;
use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

/// A file, a directory with an executable, a link and an odd name, an empty directory, a path that refers to others,
/// its derivation, and what is built from it, which refers to itself.
const EXPRESSION: &str = r#"
let
  tree = builtins.path { path = ./tree; name = "tree"; };
  lib = builtins.toFile "lib.txt" "a library";
  empty = builtins.path { path = ./empty; name = "empty"; };
  app = builtins.toFile "app.txt" "uses ${lib}, ${empty} and ${tree}";
in derivation {
  name = "system"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin";
  args = [ "-c" "mkdir $out; echo ${app} $out > $out/refs; ln -s ${tree} $out/tree" ];
}
"#;

/// A store below another root, with a closure in it.
pub(crate) struct Origin {
    dir: tempfile::TempDir,
    toplevel: String,
}

static ORIGIN: LazyLock<Origin> = LazyLock::new(Origin::build);

impl Origin {
    /// The store, built once.
    pub(crate) fn get() -> &'static Origin {
        &ORIGIN
    }

    fn build() -> Origin {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("sub/empty")).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        std::fs::write(tree.join("sub/name~nix~case~hack~1"), "").unwrap();
        std::fs::write(tree.join("data"), noise(3 << 20)).unwrap();
        std::os::unix::fs::symlink("../nowhere/é", tree.join("sub/link")).unwrap();
        std::fs::copy("/bin/busybox", tree.join("busybox"))
            .expect("needs a static /bin/busybox: apt-get install busybox-static");
        std::fs::write(dir.path().join("closure.nix"), EXPRESSION).unwrap();
        let sandbox = "/bin/sh=/bin/busybox /bin/mkdir=/bin/busybox /bin/ln=/bin/busybox";
        let output = run(Command::new("nix-build")
            .current_dir(dir.path())
            .args(["--store", &store_uri(dir.path()), "--no-out-link", "closure.nix"])
            .args(["--option", "sandbox", "true", "--option", "sandbox-paths", sandbox])
            .args(["--option", "build-users-group", "", "--option", "substituters", ""]));
        let toplevel = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Origin { dir, toplevel }
    }

    /// The root that the store lies below.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The store's whole database.
    pub(crate) fn manifest(&self) -> Manifest {
        let db = rusqlite::Connection::open(self.root().join("nix/var/nix/db/db.sqlite")).unwrap();
        let mut references = db
            .prepare("select path from Refs join ValidPaths on id = reference where referrer = ? order by path")
            .unwrap();
        let mut select = db
            .prepare(
                "select id, path, hash, narSize, deriver, sigs, ca from ValidPaths order by id",
            )
            .unwrap();
        let paths = select
            .query_map([], |row| {
                let id: i64 = row.get(0)?;
                let hash: String = row.get(2)?;
                let sigs: Option<String> = row.get(5)?;
                Ok(PathInfo {
                    path: row.get(1)?,
                    nar_sha256: hash.strip_prefix("sha256:").unwrap().to_owned(),
                    nar_size: row.get::<_, i64>(3)? as u64,
                    references: references
                        .query_map([id], |row| row.get(0))?
                        .collect::<Result<_, _>>()?,
                    deriver: row.get(4)?,
                    signatures: sigs.iter().flat_map(|s| s.split(' ')).map(String::from).collect(),
                    ca: row.get(6)?,
                })
            })
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        Manifest { toplevel: self.toplevel.clone(), paths }
    }

    /// The index of the path whose name ends so.
    pub(crate) fn index(&self, suffix: &str) -> u32 {
        let manifest = self.manifest();
        manifest.paths.iter().position(|p| p.path.ends_with(suffix)).unwrap() as u32
    }

    /// A path's NAR, as Nix writes it.
    fn nar(&self, path: &str) -> Vec<u8> {
        dump(&self.root().join(&path[1..]))
    }
}

/// The NAR of what is there, as Nix writes it.
pub(crate) fn dump(path: &Path) -> Vec<u8> {
    run(Command::new("nix-store").arg("--dump").arg(path)).stdout
}

type Change = Box<dyn Fn(&mut BlockHeader, &mut Vec<u8>)>;

/// Streams the origin's NARs in blocks of many sizes, raw and compressed.
pub(crate) struct Feed {
    origin: &'static Origin,
    pub(crate) manifest: Manifest,
    /// What was asked for.
    pub(crate) wanted: Option<Vec<u32>>,
    /// Bytes that were not asked for, since the first part of a path was there.
    pub(crate) from: u64,
    /// A byte to flip: path and offset.
    pub(crate) corrupt: Option<(u32, usize)>,
    /// Done to every block.
    pub(crate) change: Option<Change>,
    /// How many blocks come before the source fails.
    pub(crate) fail_after: Option<usize>,
    /// NAR bytes of the blocks that came.
    pub(crate) given: u64,
    blocks: VecDeque<(BlockHeader, Vec<u8>)>,
}

impl Feed {
    pub(crate) fn new(origin: &'static Origin) -> Self {
        Feed {
            origin,
            manifest: origin.manifest(),
            wanted: None,
            from: 0,
            corrupt: None,
            change: None,
            fail_after: None,
            given: 0,
            blocks: VecDeque::new(),
        }
    }

    fn cut(&mut self, wanted: Wanted) {
        let Wanted { path, from } = wanted;
        let mut nar = self.origin.nar(&self.manifest.paths[path as usize].path);
        if let Some((_, at)) = self.corrupt.filter(|(corrupt, _)| *corrupt == path) {
            nar[at] ^= 1;
        }
        let sizes = [100_000, 1, 300_000, 7, 64 << 10, 1 << 20];
        let mut offset = from as usize;
        for (i, size) in sizes.into_iter().cycle().enumerate() {
            let piece = &nar[offset..nar.len().min(offset + size)];
            let (encoding, data) = if i % 2 == 0 {
                (Encoding::Raw, piece.to_vec())
            } else {
                (Encoding::Zstd, zstd::bulk::compress(piece, 3).unwrap())
            };
            let last = offset + piece.len() == nar.len();
            let raw_len = piece.len() as u32;
            let header = BlockHeader { path, offset: offset as u64, raw_len, encoding, last };
            self.blocks.push_back((header, data));
            offset += piece.len();
            if last {
                break;
            }
        }
    }
}

impl ClosureSource for Feed {
    fn want(&mut self, wanted: &[Wanted]) -> Result<(), SourceError> {
        let paths = wanted.iter().map(|w| w.path).collect();
        assert!(self.wanted.replace(paths).is_none(), "asked twice");
        self.from = wanted.iter().map(|w| w.from).sum();
        for wanted in wanted {
            self.cut(*wanted);
        }
        Ok(())
    }

    fn next_block(&mut self) -> Result<Block, SourceError> {
        if let Some(left) = &mut self.fail_after {
            *left = left.checked_sub(1).ok_or("the line is dead")?;
        }
        let (mut header, mut data) = self.blocks.pop_front().ok_or("asked for too many blocks")?;
        if let Some(change) = &self.change {
            change(&mut header, &mut data);
        }
        self.given += u64::from(header.raw_len);
        Ok(Block { header, data: data.into() })
    }
}

/// One path of a manifest, in blocks of one size, each a zstd frame.
pub(crate) struct Single<'a> {
    nar: &'a [u8],
    block: usize,
    /// How many blocks come whole before the source fails.
    fail_after: usize,
    /// Whether one that is none comes then.
    damaged: bool,
    /// How many came whole.
    pub(crate) given: usize,
    at: usize,
}

impl<'a> Single<'a> {
    pub(crate) fn new(nar: &'a [u8], block: usize, fail_after: usize, damaged: bool) -> Self {
        Single { nar, block, fail_after, damaged, given: 0, at: 0 }
    }
}

impl ClosureSource for Single<'_> {
    fn want(&mut self, wanted: &[Wanted]) -> Result<(), SourceError> {
        let [Wanted { path: 0, from }] = wanted else {
            return Err("another path is wanted".into());
        };
        self.at = *from as usize;
        Ok(())
    }

    fn next_block(&mut self) -> Result<Block, SourceError> {
        let is_whole = self.given < self.fail_after;
        if !is_whole && !std::mem::take(&mut self.damaged) {
            return Err("the line is dead".into());
        }
        let piece = &self.nar[self.at..self.nar.len().min(self.at + self.block)];
        let offset = self.at as u64;
        self.at += piece.len();
        self.given += usize::from(is_whole);
        let last = self.at == self.nar.len();
        let encoding = Encoding::Zstd;
        let header = BlockHeader { path: 0, offset, raw_len: piece.len() as u32, encoding, last };
        let data = if is_whole { zstd::bulk::compress(piece, 1)? } else { vec![7; 1000] };
        Ok(Block { header, data: data.into() })
    }
}

fn store_uri(root: &Path) -> String {
    format!("local?root={}", root.display())
}

/// `nix-store` on the store below `root`; what it printed.
pub(crate) fn nix_store(root: &Path, args: &[&str]) -> String {
    // Opening a store as root, Nix gives it to the build group of the machine it runs on.
    let ours = ["--option", "build-users-group", ""];
    let output =
        run(Command::new("nix-store").args(["--store", &store_uri(root)]).args(ours).args(args));
    String::from_utf8(output.stdout).unwrap()
}

fn run(command: &mut Command) -> Output {
    let output = command
        .env("HOME", "/homeless-shelter")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; apt-get install nix-bin"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    output
}

/// Bytes that do not compress: a linear congruential generator's.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    })
    .take(length)
    .collect()
}
