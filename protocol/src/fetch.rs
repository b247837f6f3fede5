//! Where an agent fetches store paths itself.

use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// How a file is compressed. Names are Nix's (narinfo's `Compression`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// bzip2.
    Bzip2,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Xz,
        Compression::Zstd,
    ];

    /// Nix's name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Bzip2 => "bzip2",
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        }
    }
}

/// A web server that has wanted paths. What it gives counts as little as what anybody else sends:
/// each NAR has the manifest's SHA-256, or is not used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetch {
    /// Its address, `http(s)://HOST[/PATH]` without a slash at its end. A name and password may be
    /// in it.
    pub base: Secret,
    /// The root certificates to trust, each DER in base64; without them those of the machine.
    pub roots: Option<Vec<String>>,
    /// What it has of the wanted paths, each at most once.
    pub nars: Vec<FetchNar>,
}

/// A compressed NAR on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchNar {
    /// The path's index in the manifest.
    pub path: u32,
    /// The file, relative to the server's address.
    pub name: String,
    /// How it is compressed.
    pub compression: Compression,
    /// Its length in bytes, if known.
    pub file_size: Option<u64>,
    /// Its SHA-256, if known: 64 hex digits.
    pub file_sha256: Option<String>,
}

/// A path that could not be fetched, and is wanted from the controller after all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFetched {
    /// Its index in the manifest.
    pub path: u32,
    /// Why, a phrase; without what is secret in an address.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_not_shown_and_names_are_those_of_narinfos() {
        let base = Secret::from("https://me:secret@cache".to_owned());
        let fetch = Fetch { base, roots: None, nars: vec![] };
        assert!(!format!("{fetch:?}").contains("secret@"));
        assert!(!serde_json::to_string(&fetch).unwrap().contains("secret@"));
        for compression in Compression::ALL {
            let written = serde_json::to_value(compression).unwrap();
            assert_eq!(written, compression.name());
        }
    }
}
