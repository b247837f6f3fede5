//! A path of which the target holds a former version, over a wire: what is there does not come, and
//! where it is not there any more, it comes all the same.

use super::remote::{Remote, Secrets};
use super::wire::Wire;
use crate::execute::cancel::Cancel;
use crate::store::nar::dump::{dump, measure};
use crate::store::{Progress, Store};
use crate::testing::noise;
use keystone_protocol::chunks::{Cutter, Part, from_text, hash, write_parts};
use keystone_protocol::frame::{
    BlockHeader, Encoding, HEADER, encode_block_header, parse_header, parse_payload, set_number,
};
use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::message::{ToAgent, ToController, decode, encode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const FORMER: &str = "11111111111111111111111111111111-tool-1.0";
const WANTED: &str = "22222222222222222222222222222222-tool-1.1";

/// The version of a path with `inserted` in its largest file.
fn write(at: &Path, inserted: &[u8]) {
    fs::create_dir_all(at.join("lib")).unwrap();
    let mut large = noise(1, 3 << 20);
    large.splice(1_000_000..1_000_000, inserted.iter().copied());
    fs::write(at.join("lib/large"), large).unwrap();
    for n in 0..200 {
        fs::write(at.join(format!("lib/{n}")), noise(n + 2, 3000)).unwrap();
    }
}

/// The controller's end.
struct Peer {
    from: PipeReader,
    to: PipeWriter,
}

impl Peer {
    fn hear(&mut self) -> Option<ToController> {
        let mut header = [0; HEADER];
        self.from.read_exact(&mut header).ok()?;
        let header = parse_header(header).unwrap();
        let mut payload = vec![0; header.length];
        self.from.read_exact(&mut payload).ok()?;
        Some(decode(&parse_payload(&header, payload).unwrap()).unwrap())
    }

    fn say(&mut self, message: &ToAgent) {
        self.to.write_all(&encode(message).unwrap().0).unwrap();
    }

    fn block(&mut self, number: u64, header: &BlockHeader, data: &[u8]) {
        let mut encoded = encode_block_header(header, data).unwrap();
        set_number(&mut encoded, number);
        self.to.write_all(&encoded).unwrap();
        self.to.write_all(data).unwrap();
    }
}

/// What a copy took.
#[derive(Debug, Default)]
struct Took {
    /// Bytes of blocks, and how many of those were chunks.
    bytes: usize,
    chunks: usize,
    again: usize,
}

/// Sends `nar`, whatever is offered of it left out; `between` happens after the offer.
fn send(mut peer: Peer, nar: &[u8], ask: bool, between: impl FnOnce()) -> Took {
    let alike = loop {
        match peer.hear().unwrap() {
            ToController::WantPaths { alike, .. } => break alike,
            _ => continue,
        }
    };
    let mut known = HashMap::new();
    if ask {
        assert_eq!(alike, [0]);
        peer.say(&ToAgent::WantChunks { paths: alike });
        let Some(ToController::Chunks { path: 0, first: 0, hashes }) = peer.hear() else {
            panic!("no chunks")
        };
        let hashes = from_text(&hashes).unwrap();
        known.extend(hashes.into_iter().zip(0u32..));
    }
    between();
    let (mut took, mut offset, mut sent) = (Took::default(), 0, Vec::new());
    let mut cutter = Cutter::default();
    let mut each = |chunk: &[u8]| {
        let end = offset + chunk.len();
        let number = known.get(&hash(chunk));
        let header = BlockHeader {
            path: 0,
            offset: offset as u64,
            raw_len: chunk.len() as u32,
            encoding: if number.is_some() { Encoding::Chunks } else { Encoding::Raw },
            last: end == nar.len(),
        };
        let data = number.map_or(chunk.to_vec(), |&n| write_parts(&[Part::Chunk(n)], b""));
        peer.block(sent.len() as u64, &header, &data);
        took.bytes += data.len();
        took.chunks += usize::from(number.is_some());
        sent.push(header);
        offset = end;
        Ok::<(), Infallible>(())
    };
    let (Ok(()), Ok(())) = (cutter.push(nar, &mut each), cutter.end(&mut each));
    while let Some(message) = peer.hear() {
        if let ToController::SendAgain { number } = message {
            let header = BlockHeader { encoding: Encoding::Raw, ..sent[number as usize] };
            let at = header.offset as usize;
            let data = &nar[at..at + header.raw_len as usize];
            peer.block(number, &header, data);
            took.bytes += data.len();
            took.again += 1;
        }
    }
    took
}

/// Copies the wanted version into a store that holds the former one; `between` is given that one's
/// place after it was offered.
fn copy(ask: bool, between: impl FnOnce(&Path) + Send) -> Took {
    let (root, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let former = root.path().join("nix/store").join(FORMER);
    let (store, _) = Store::prepare(root.path()).unwrap();
    write(&former, b"");
    write(&source.path().join(WANTED), b"some bytes that are new");
    let dir = fs::File::open(source.path()).unwrap();
    let mut nar = Vec::new();
    dump(dir.as_fd(), WANTED, &mut nar).unwrap();
    let sha256 = measure(dir.as_fd(), WANTED).unwrap().sha256;
    let path = format!("/nix/store/{WANTED}");
    let info = PathInfo {
        path: path.clone(),
        nar_sha256: hex::encode(sha256),
        nar_size: nar.len() as u64,
        references: vec![],
        deriver: None,
        signatures: vec![],
        ca: None,
    };
    let manifest = Manifest { toplevel: path, paths: vec![info] };
    let (input, to) = pipe().unwrap();
    let (from, output) = pipe().unwrap();
    let wire = RefCell::new(Wire::start(input, output, Cancel::default()));
    std::thread::scope(|scope| {
        let peer = Peer { from, to };
        let nar = &nar;
        let sender = scope.spawn(move || send(peer, nar, ask, || between(&former)));
        let mut remote = Remote::new(&wire, Secrets::default());
        let received =
            store.receive(&manifest, &mut remote, &mut |_: Progress| {}, &AtomicBool::new(false));
        // Nothing of what is held is open any more: a file system could be unmounted.
        let held = format!("{}/", root.path().join("nix/store").join(FORMER).display());
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        assert_eq!(open.filter(|file| file.to_string_lossy().starts_with(&held)).count(), 0);
        drop(remote);
        // Ends the controller's wait.
        drop(wire.replace(Wire::start(std::io::empty(), std::io::sink(), Cancel::default())));
        let took = sender.join().unwrap();
        assert_eq!(received.unwrap().progress.bytes, nar.len() as u64);
        let dir = fs::File::open(root.path().join("nix/store")).unwrap();
        let there = measure(dir.as_fd(), WANTED).unwrap();
        assert_eq!((there.sha256, there.deviation), (sha256, None));
        took
    })
}

#[test]
fn what_is_held_does_not_come() {
    let took = copy(true, |_| ());
    assert!(took.bytes < 200_000 && took.chunks > 100 && took.again == 0, "{took:?}");
    let took = copy(false, |_| ());
    assert!(took.bytes > 3 << 20 && took.chunks == 0, "{took:?}");
}

#[test]
fn what_was_held_comes_if_it_has_changed() {
    let flip = |former: &Path| {
        let file = former.join("lib/large");
        let mut contents = fs::read(&file).unwrap();
        for at in [100_000, 2_000_000] {
            contents[at] ^= 1;
        }
        fs::write(file, contents).unwrap();
    };
    let took = copy(true, flip);
    assert_eq!(took.again, 2, "{took:?}");
    let gone = |former: &Path| fs::rename(former, former.with_extension("gone")).unwrap();
    let took = copy(true, gone);
    // More than as many damaged blocks as end a connection.
    assert!(took.again > 100, "{took:?}");
    let cut = |former: &Path| {
        fs::File::options().write(true).open(former.join("lib/large")).unwrap().set_len(9).unwrap();
    };
    assert!(copy(true, cut).again > 50);
}
