//! Bundles: a closure in one file, compressed, checksummed, readable at any place, signed if
//! wanted. What an offline installation carries.
//!
//! | module | job |
//! |---|---|
//! | [`format`](mod@format) | header, index, footer |
//! | [`write`](mod@write) | a closure into a bundle |
//! | [`read`] | paths out of a bundle |
//! | [`verify`](mod@verify) | all of a bundle checked |
//!
//! The format stands in `docs/bundle-format.md`.

pub mod format;
pub mod read;
pub mod verify;
pub mod write;

pub use read::Bundle;
pub use verify::verify;
pub use write::{WriteOptions, Written, write};

use std::io;
use thiserror::Error;

/// Whether a trusted key signed a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// The one of this name.
    By(String),
    /// None of them.
    ByNobodyKnown,
}

/// What can be wrong with a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Another file.
    #[error("it is not a bundle (keystone bundle TOPLEVEL -o FILE makes one)")]
    NotABundle,
    /// Of another version.
    #[error("it has format version {0}, and only 1 is known")]
    Version(u32),
    /// Not all of it is there.
    #[error("its end is missing: copy it again")]
    Truncated,
    /// A part is not what was written.
    #[error("{0} is damaged: copy it again")]
    Damaged(String),
    /// What no bundle has.
    #[error("it has {0}")]
    Malformed(String),
    /// A NAR that is not the one the index describes.
    #[error("its NAR of {path} has SHA-256 {found}, and its index says {expected}")]
    Nar {
        /// Of which path.
        path: String,
        /// What the index says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// It has not the path.
    #[error("it does not have {0}")]
    Lacks(String),
    /// It would be written over another file.
    #[error("it exists; --force replaces it")]
    Exists,
    /// It was told to stop.
    #[error("stopped on request")]
    Stopped,
    /// It can't be read or written.
    #[error("it can't be read or written")]
    Io(#[from] io::Error),
}
