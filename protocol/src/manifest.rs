//! The closure: which store paths are sent, and what each must be.

use serde::{Deserialize, Serialize};

/// One store path as the source's database records it.
///
/// Source of the fields: Nix's `ValidPaths` and `Refs` tables (schema 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Full logical path, `/nix/store/<32 nix32 characters>-<name>`.
    pub path: String,
    /// SHA-256 of the NAR, 64 lower-case hex digits.
    pub nar_sha256: String,
    /// Length of the NAR, in bytes.
    pub nar_size: u64,
    /// Full paths of the references, sorted, itself included where it refers to itself.
    pub references: Vec<String>,
    /// The derivation that made it, a full path; need not be in the closure.
    pub deriver: Option<String>,
    /// Ed25519 signatures, `name:base64`.
    pub signatures: Vec<String>,
    /// Content address (`fixed:r:sha256:…`, `text:sha256:…`), if it is content-addressed.
    pub ca: Option<String>,
}

/// Everything of a closure but its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The path to install, which must be among `paths`.
    pub toplevel: String,
    /// All paths of the closure, each once. A block names its path by its index in this list.
    pub paths: Vec<PathInfo>,
}

impl Manifest {
    /// The sum of all NAR sizes, in bytes.
    pub fn nar_bytes(&self) -> u64 {
        self.paths.iter().map(|p| p.nar_size).sum()
    }
}
