//! The agent that this controller ships.

use super::UploadError;
use blake2::Blake2b512;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Name of the executable.
pub const NAME: &str = "keystone-agent";

/// An agent, read into memory.
#[derive(Debug, Clone)]
pub struct LocalAgent {
    /// Where it was read.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Bytes,
    /// Blake3 of the bytes.
    pub hash: blake3::Hash,
    /// The processor it is for, as `uname -m` names it.
    pub machine: &'static str,
}

impl LocalAgent {
    /// Reads the agent at `named`, or else the one that was installed with this program: beside
    /// it, or in `../libexec/keystone`.
    pub fn find(named: Option<&Path>) -> Result<Self, UploadError> {
        if let Some(path) = named {
            return Self::read(path);
        }
        let program = std::env::current_exe().and_then(|exe| exe.canonicalize());
        let places: Vec<PathBuf> = match program.as_deref().ok().and_then(Path::parent) {
            Some(dir) => vec![dir.join(NAME), dir.join("../libexec/keystone").join(NAME)],
            None => Vec::new(),
        };
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Self::read(path),
            None => Err(UploadError::NoAgent { places }),
        }
    }

    /// Reads the agent at `path`.
    pub fn read(path: &Path) -> Result<Self, UploadError> {
        let bytes = std::fs::read(path)
            .map_err(|source| UploadError::Read { path: path.to_owned(), source })?;
        let machine =
            elf_machine(&bytes).ok_or_else(|| UploadError::NotAnAgent { path: path.to_owned() })?;
        let hash = blake3::hash(&bytes);
        Ok(LocalAgent { path: path.to_owned(), bytes: bytes.into(), hash, machine })
    }

    /// SHA-256 of the bytes, hexadecimal.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }

    /// What the machine says of a file: `b2 SUM` or `sha256 SUM` from the program there is, or
    /// `bytes` and a line feed with the file after it (see [`TELL`](super::place::TELL)). Whether
    /// it is this agent.
    pub fn is_told(&self, said: &[u8]) -> bool {
        if let Some(bytes) = said.strip_prefix(b"bytes\n") {
            return blake3::hash(bytes) == self.hash;
        }
        let said = String::from_utf8_lossy(said);
        let mut words = said.split_whitespace();
        match (words.next(), words.next()) {
            (Some("b2"), Some(sum)) => {
                let own = <Blake2b512 as blake2::Digest>::digest(&self.bytes);
                sum == hex::encode(own)
            }
            (Some("sha256"), Some(sum)) => sum == self.sha256(),
            _ => false,
        }
    }
}

/// The processor of a little-endian ELF executable, as `uname -m` names it.
///
/// Source: elf(5): `e_type` at 16 (2 `ET_EXEC`, 3 `ET_DYN`), `e_machine` at 18.
fn elf_machine(bytes: &[u8]) -> Option<&'static str> {
    let half = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if bytes.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] || !matches!(half(16)?, 2 | 3) {
        return None;
    }
    match half(18)? {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        243 => Some("riscv64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_sum_or_by_all_of_it() {
        use std::process::Command;
        let own = LocalAgent::read(&std::env::current_exe().unwrap()).unwrap();
        for (word, program) in [("b2", "b2sum"), ("sha256", "sha256sum")] {
            let file = std::fs::File::open(&own.path).unwrap();
            let said = Command::new(program).stdin(file).output().expect("coreutils").stdout;
            let said = [word.as_bytes(), b" ", &said].concat();
            assert!(own.is_told(&said), "{program}");
            let other = String::from_utf8(said).unwrap().replacen(' ', " 0", 1);
            assert!(!own.is_told(other.as_bytes()), "{program}");
        }
        let all = [b"bytes\n", &own.bytes[..]].concat();
        assert!(own.is_told(&all) && !own.is_told(&all[..all.len() - 1]));
        // Sums count only where a program said them.
        let sum = format!("bytes\nsha256 {}", own.sha256());
        for said in [b"".as_slice(), b"b2", b"bytes\n", sum.as_bytes()] {
            assert!(!own.is_told(said));
        }
    }

    #[test]
    fn only_executables_are_agents() {
        let own = LocalAgent::read(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(own.machine, std::env::consts::ARCH);
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("agent");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let error = LocalAgent::find(Some(&script)).unwrap_err();
        assert!(error.to_string().contains("not an ELF executable"), "{error}");
        let error = LocalAgent::find(Some(Path::new("/nonexistent"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
