//! Content-addressed store paths: those that prove themselves.
//!
//! Source: Nix manual, "Store path" (complete store path calculation) and "Content-addressing
//! store objects"; src/libstore/store-dir-config.cc, src/libutil/references.cc (hash modulo).
//! A path's hash part is folded from a fingerprint of its content address, its references and its
//! name. If that is so, and the contents have the hash that the content address says, nobody but
//! who wrote those contents could have made the path.
//!
//! SHA-256 and SHA-512 are taken for that. MD5 and SHA-1 have collisions and prove nothing.

use super::nix32;
use keystone_protocol::manifest::PathInfo;
use keystone_protocol::nar::parse::{Parser, Sink};
use keystone_protocol::store_path::{self, STORE_DIR};
use sha2::{Digest, Sha256, Sha512};
use std::io::{self, Write};

/// What of a path is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// A file, as derivations and `toFile` write it; may refer.
    Text,
    /// One file's contents.
    Flat,
    /// The NAR.
    Nar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

/// What is left to show once a path's name was derived from its content address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the content address is the NAR's hash, which is checked anyway.
    Manifest,
    /// That its contents have the hash.
    Contents(Contents),
}

/// A hash of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    method: Method,
    algorithm: Algorithm,
    hash: Vec<u8>,
    /// The path's own hash part, taken as zeroes where it occurs.
    modulo: Option<[u8; 32]>,
}

#[cfg(test)]
impl Contents {
    /// That a NAR is this one.
    pub(super) fn of(nar: &[u8]) -> Contents {
        let hash = Sha256::digest(nar).to_vec();
        Contents { method: Method::Nar, algorithm: Algorithm::Sha256, hash, modulo: None }
    }
}

/// How a path proves itself; `None` if it is not content-addressed, in a way that proves nothing,
/// or has not the name that its content address gives it.
pub fn proof(info: &PathInfo) -> Option<Proof> {
    let address = info.ca.as_deref()?;
    let (method, algorithm, hash) = parse(address)?;
    let base = info.path.strip_prefix(STORE_DIR)?.strip_prefix('/')?;
    let (own, name) = store_path::parts(base)?;
    let refers_to_itself = info.references.contains(&info.path);
    let mut others: Vec<&str> =
        info.references.iter().map(String::as_str).filter(|&r| r != info.path).collect();
    others.sort_unstable();
    others.dedup();
    let made = make(method, algorithm, &hash, &others, refers_to_itself, name)?;
    if made != own {
        return None;
    }
    if (method, algorithm, refers_to_itself) == (Method::Nar, Algorithm::Sha256, false) {
        return (hex::encode(&hash) == info.nar_sha256).then_some(Proof::Manifest);
    }
    let modulo = refers_to_itself.then(|| own.as_bytes().try_into().ok()).flatten();
    Some(Proof::Contents(Contents { method, algorithm, hash, modulo }))
}

/// `text:sha256:…` or `fixed:[r:]ALGORITHM:…`.
fn parse(address: &str) -> Option<(Method, Algorithm, Vec<u8>)> {
    let (method, rest) = match address.strip_prefix("fixed:") {
        Some(rest) => match rest.strip_prefix("r:") {
            Some(rest) => (Method::Nar, rest),
            None => (Method::Flat, rest),
        },
        None => (Method::Text, address.strip_prefix("text:")?),
    };
    let (algorithm, digits) = rest.split_once(':')?;
    let (algorithm, length) = match algorithm {
        "sha256" => (Algorithm::Sha256, 32),
        "sha512" if method != Method::Text => (Algorithm::Sha512, 64),
        _ => return None,
    };
    Some((method, algorithm, nix32::decode_any(digits, length)?))
}

/// The hash part of the path; `None` for references that such a path can't have.
fn make(
    method: Method,
    algorithm: Algorithm,
    hash: &[u8],
    references: &[&str],
    itself: bool,
    name: &str,
) -> Option<String> {
    let (mut kind, inner) = match (method, algorithm) {
        (Method::Text, _) if itself => return None,
        (Method::Text, _) => ("text".to_owned(), hex::encode(hash)),
        (Method::Nar, Algorithm::Sha256) => ("source".to_owned(), hex::encode(hash)),
        _ if itself || !references.is_empty() => return None,
        _ => {
            let recursive = if method == Method::Nar { "r:" } else { "" };
            let algorithm = match algorithm {
                Algorithm::Sha256 => "sha256",
                Algorithm::Sha512 => "sha512",
            };
            let fixed = format!("fixed:out:{recursive}{algorithm}:{}:", hex::encode(hash));
            ("output:out".to_owned(), hex::encode(Sha256::digest(fixed)))
        }
    };
    for reference in references {
        kind.push(':');
        kind.push_str(reference);
    }
    if itself {
        kind.push_str(":self");
    }
    let fingerprint = format!("{kind}:sha256:{inner}:{STORE_DIR}:{name}");
    let mut folded = [0u8; 20];
    for (i, byte) in Sha256::digest(fingerprint).iter().enumerate() {
        folded[i % 20] ^= byte;
    }
    Some(nix32::encode(&folded))
}

/// Hashes a NAR that is written to it, as a content address wants it hashed.
pub struct Prover<'a> {
    wanted: &'a Contents,
    how: How,
}

enum How {
    Nar(Modulo),
    File(Box<Parser<OneFile>>),
}

impl<'a> Prover<'a> {
    /// For a NAR of `size` bytes.
    pub fn new(wanted: &'a Contents, size: u64) -> Self {
        let hash = Hash::new(wanted.algorithm);
        let how = match wanted.method {
            Method::Nar => How::Nar(Modulo::new(hash, wanted.modulo)),
            Method::Text | Method::Flat => {
                How::File(Box::new(Parser::new(OneFile { hash, fits: false }, size)))
            }
        };
        Prover { wanted, how }
    }

    /// Whether it was the NAR that the content address says.
    pub fn holds(self) -> bool {
        let found = match self.how {
            How::Nar(modulo) => modulo.finish(),
            How::File(parser) => match parser.finish() {
                Ok(file) if file.fits => file.hash.finish(),
                _ => return false,
            },
        };
        found == self.wanted.hash
    }
}

impl Write for Prover<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.how {
            How::Nar(modulo) => modulo.update(data),
            How::File(parser) => parser
                .feed(data)
                .map_err(|_| io::Error::other("it is no NAR of a single plain file"))?,
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Hash {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hash {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hash::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hash::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(data),
            Hash::Sha512(hash) => hash.update(data),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hash::Sha256(hash) => hash.finalize().to_vec(),
            Hash::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

/// A NAR's hash with the path's own hash part taken as zeroes, and then where it stood
/// (`|<offset>` for each).
struct Modulo {
    hash: Hash,
    part: Option<[u8; 32]>,
    /// Bytes that may yet turn out to be the beginning of the part.
    held: Vec<u8>,
    /// Offset of the first held byte.
    offset: u64,
    found: Vec<u64>,
}

impl Modulo {
    fn new(hash: Hash, part: Option<[u8; 32]>) -> Self {
        Modulo { hash, part, held: Vec::new(), offset: 0, found: Vec::new() }
    }

    fn update(&mut self, data: &[u8]) {
        let Some(part) = self.part else { return self.hash.update(data) };
        self.held.extend_from_slice(data);
        let mut at = 0;
        while at + part.len() <= self.held.len() {
            if self.held[at..].starts_with(&part) {
                self.held[at..at + part.len()].fill(0);
                self.found.push(self.offset + at as u64);
                at += part.len();
            } else {
                at += 1;
            }
        }
        self.hash.update(&self.held[..at]);
        self.held.drain(..at);
        self.offset += at as u64;
    }

    fn finish(mut self) -> Vec<u8> {
        self.hash.update(&self.held);
        for offset in self.found {
            self.hash.update(format!("|{offset}").as_bytes());
        }
        self.hash.finish()
    }
}

/// Hashes the contents of the only file there is.
struct OneFile {
    hash: Hash,
    fits: bool,
}

/// It is not a single plain file.
struct Misfit;

impl Sink for OneFile {
    type Error = Misfit;

    fn directory(&mut self, _: &[u8]) -> Result<(), Misfit> {
        Err(Misfit)
    }

    fn end_directory(&mut self) -> Result<(), Misfit> {
        Err(Misfit)
    }

    fn file(&mut self, _: &[u8], executable: bool, _: u64) -> Result<(), Misfit> {
        // Only the contents are hashed, so nothing else may be free to choose.
        if executable { Err(Misfit) } else { Ok(()) }
    }

    fn contents(&mut self, data: &[u8]) -> Result<(), Misfit> {
        self.hash.update(data);
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Misfit> {
        self.fits = true;
        Ok(())
    }

    fn symlink(&mut self, _: &[u8], _: &[u8]) -> Result<(), Misfit> {
        Err(Misfit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(path: &str, ca: &str, references: &[&str]) -> PathInfo {
        PathInfo {
            path: path.to_owned(),
            nar_sha256: String::new(),
            nar_size: 1,
            references: references.iter().map(|&r| r.to_owned()).collect(),
            deriver: None,
            signatures: vec![],
            ca: Some(ca.to_owned()),
        }
    }

    #[test]
    fn what_proves_nothing() {
        let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x";
        let zeros = "0".repeat(52);
        for ca in [
            &format!("fixed:r:sha256:{zeros}"),
            &format!("text:sha256:{zeros}"),
            "fixed:md5:00000000000000000000000000000000",
            "fixed:r:sha1:0000000000000000000000000000000000000000",
            "fixed:git:sha256:x",
            "text:sha256:",
            "fixed:",
            "",
        ] {
            assert_eq!(proof(&info(path, ca, &[])), None, "{ca}");
            assert_eq!(proof(&info("/nix/store", ca, &[])), None, "{ca}");
        }
    }

    /// Nix's RewritingSink, on all bytes at once.
    fn modulo_at_once(part: &[u8], data: &[u8]) -> Vec<u8> {
        let (mut bytes, mut found, mut at) = (data.to_vec(), Vec::new(), 0);
        while let Some(next) = bytes[at..].windows(32).position(|w| w == part) {
            bytes[at + next..at + next + 32].fill(0);
            found.push(at + next);
            at += next + 32;
        }
        found.iter().for_each(|offset| bytes.extend(format!("|{offset}").bytes()));
        Sha256::digest(bytes).to_vec()
    }

    proptest! {
        #[test]
        fn hash_modulo_does_not_depend_on_pieces(
            noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..6),
            piece in 1usize..70,
        ) {
            let part = *b"0123456789abcdfghijklmnpqrsvwxyz";
            let data = noise.join(&part[..]);
            let mut modulo = Modulo::new(Hash::new(Algorithm::Sha256), Some(part));
            data.chunks(piece).for_each(|chunk| modulo.update(chunk));
            prop_assert_eq!(modulo.finish(), modulo_at_once(&part, &data));
        }

        #[test]
        fn no_content_address_makes_it_panic(ca in "(text|fixed|fixed:r):(sha256|sha512|md5):[0-9a-z]{0,130}") {
            let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x";
            prop_assert_eq!(proof(&info(path, &ca, &[path])), None);
        }
    }
}
