//! `--require-signatures`: which paths are trusted, decided on the manifest.
//!
//! A content-addressed path proves itself; every other one needs a signature by one of the given
//! keys. What of a content address only the contents can show is checked while they are read:
//! see [`Proving`].

use super::ClosureSource;
use super::content_address::{self, Contents, Proof, Prover};
use super::error::ClosureError;
use super::signature::{PublicKey, fingerprint, signer};
use crate::nar::{DumpError, HoldBack, Skip};
use keystone_protocol::fetch::Fetch;
use keystone_protocol::manifest::{Manifest, PathInfo};
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::sync::Arc;

/// The keys that are trusted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
}

/// What the contents of some paths have yet to show, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proofs(HashMap<String, Contents>);

impl Trust {
    /// Trusts these.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Trust { keys }
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Checks every path of a manifest.
    pub fn check(&self, manifest: &Manifest) -> Result<Proofs, ClosureError> {
        let mut proofs = Proofs::default();
        let mut untrusted =
            manifest.paths.iter().filter(|info| match content_address::proof(info) {
                Some(Proof::Manifest) => false,
                _ if self.has_signed(info) => false,
                Some(Proof::Contents(contents)) => {
                    proofs.0.insert(info.path.clone(), contents);
                    false
                }
                None => true,
            });
        let Some(first) = untrusted.next() else {
            drop(untrusted);
            return Ok(proofs);
        };
        let others = untrusted.count();
        let signers: BTreeSet<&str> = first.signatures.iter().map(|s| signer(s)).collect();
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        Err(ClosureError::Untrusted {
            path: first.path.clone(),
            signers: match signers.is_empty() {
                true => "it has no signature".to_owned(),
                false => format!("it names {}", Vec::from_iter(signers).join(", ")),
            },
            required: names.join(", "),
            others: match others {
                0 => String::new(),
                n => format!(" ({n} more paths lack one too)"),
            },
        })
    }

    fn has_signed(&self, info: &PathInfo) -> bool {
        let Some(fingerprint) = fingerprint(info) else { return false };
        let by = |key: &PublicKey, sig: &String| key.signed(fingerprint.as_bytes(), sig);
        info.signatures.iter().any(|sig| self.keys.iter().any(|key| by(key, sig)))
    }
}

/// Checks contents while they are read; the last bytes of what is not as it claims to be are not
/// given out.
pub struct Proving {
    source: Arc<dyn ClosureSource>,
    proofs: Proofs,
}

impl Proving {
    /// Reads from `source`, which comes back as it is if there is nothing to prove.
    pub fn over(source: Arc<dyn ClosureSource>, proofs: Proofs) -> Arc<dyn ClosureSource> {
        match proofs.0.is_empty() {
            true => source,
            false => Arc::new(Proving { source, proofs }),
        }
    }
}

impl ClosureSource for Proving {
    fn elsewhere(&self, paths: &[(u32, &PathInfo)]) -> Option<Fetch> {
        let is_proven = |(_, info): &&(u32, &PathInfo)| !self.proofs.0.contains_key(&info.path);
        let proven: Vec<_> = paths.iter().filter(is_proven).copied().collect();
        self.source.elsewhere(&proven)
    }

    /// What needs no proof is begun wherever its source can begin; a proof needs all from the start.
    fn dump_from(&self, path: &PathInfo, from: u64, out: &mut dyn Write) -> Result<(), DumpError> {
        match self.proofs.0.contains_key(&path.path) {
            false => self.source.dump_from(path, from, out),
            true => self.dump(path, &mut Skip::new(out, from)),
        }
    }

    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        let Some(contents) = self.proofs.0.get(&path.path) else {
            return self.source.dump(path, out);
        };
        let unproven = || DumpError::Source(ClosureError::Unproven { path: path.path.clone() });
        let mut prover = Prover::new(contents, path.nar_size);
        let mut held = HoldBack::new(out, path.nar_size);
        let mut fits = true;
        let mut both = Tee {
            first: &mut held,
            then: &mut |data| {
                fits = fits && prover.write_all(data).is_ok();
            },
        };
        match self.source.dump(path, &mut both) {
            Err(DumpError::Sink(_)) if held.overflowed() => {
                return Err(DumpError::Source(ClosureError::SizeDiffers {
                    path: path.path.clone(),
                    expected: path.nar_size,
                    found: path.nar_size + 1,
                }));
            }
            dumped => dumped?,
        }
        match fits && prover.holds() {
            true => held.release(),
            false => Err(unproven()),
        }
    }
}

/// Writes to one, and shows it to another.
struct Tee<'a> {
    first: &'a mut dyn Write,
    then: &'a mut dyn FnMut(&[u8]),
}

impl Write for Tee<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let taken = self.first.write(data)?;
        (self.then)(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.first.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// The same NAR for each path. Notes where it was begun.
    #[derive(Default)]
    struct Noted(Mutex<Vec<(String, u64)>>);

    const NAR: &[u8] = b"not much of a NAR";

    impl ClosureSource for Noted {
        fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
            self.dump_from(path, 0, out)
        }

        fn dump_from(
            &self,
            path: &PathInfo,
            from: u64,
            out: &mut dyn Write,
        ) -> Result<(), DumpError> {
            self.0.lock().unwrap().push((path.path.clone(), from));
            out.write_all(&NAR[from as usize..]).map_err(DumpError::Sink)
        }
    }

    fn info(path: &str) -> PathInfo {
        PathInfo {
            path: path.to_owned(),
            nar_sha256: String::new(),
            nar_size: NAR.len() as u64,
            references: vec![],
            deriver: None,
            signatures: vec![],
            ca: None,
        }
    }

    /// One path that has to prove itself leaves all others as their source has them.
    #[test]
    fn only_what_is_proven_is_read_from_its_beginning() {
        let source = Arc::new(Noted::default());
        let proofs = |nar: &[u8]| Proofs([("proven".to_owned(), Contents::of(nar))].into());
        let rest = |nar: &[u8], path: &str| {
            let proving = Proving::over(Arc::clone(&source) as Arc<dyn ClosureSource>, proofs(nar));
            let mut out = Vec::new();
            let dumped = proving.dump_from(&info(path), 9, &mut out);
            (dumped.is_ok(), out)
        };
        assert_eq!(rest(NAR, "signed"), (true, NAR[9..].to_vec()));
        assert_eq!(rest(NAR, "proven"), (true, NAR[9..].to_vec()));
        let begun = std::mem::take(&mut *source.0.lock().unwrap());
        assert_eq!(begun, [("signed".to_owned(), 9), ("proven".to_owned(), 0)]);
        // What proves nothing is not given out to its end, wherever it was begun.
        assert_eq!(rest(b"another", "proven"), (false, NAR[9..NAR.len() - 1].to_vec()));
    }
}
