//! What can be wrong with a binary cache.

use crate::closure::narinfo::NarInfoError;
use keystone_fetch::FetchError;
use thiserror::Error;

/// A cache can't be used, or not for this closure.
#[derive(Debug, Error)]
pub enum CacheError {
    /// Not the address of one.
    #[error(
        "{0} is not the address of a binary cache: expected file:///DIRECTORY, http://HOST or \
         https://HOST"
    )]
    Address(String),
    /// It does not say that it is one.
    #[error(
        "there is no binary cache at {0}: it has no nix-cache-info (nix copy --to {0} makes one)"
    )]
    NoCache(String),
    /// Its paths are not those of `/nix/store`.
    #[error("the binary cache at {cache} is for the store {found}, not for /nix/store")]
    OtherStore {
        /// The cache.
        cache: String,
        /// Its store's directory.
        found: String,
    },
    /// It lacks the path that was asked for.
    #[error("the binary cache at {cache} does not have {path}: copy it there with nix copy --to")]
    Lacks {
        /// The cache.
        cache: String,
        /// The path.
        path: String,
    },
    /// It lacks a path that another refers to.
    #[error(
        "the binary cache at {cache} lacks {path}, which {referrer} refers to: it has no whole \
         closure; nix copy --to completes it"
    )]
    Incomplete {
        /// The cache.
        cache: String,
        /// What is missing.
        path: String,
        /// What needs it.
        referrer: String,
    },
    /// A narinfo that can't be used.
    #[error("the binary cache says of {path} what can't be used ({url})")]
    NarInfo {
        /// Of which path.
        path: String,
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: NarInfoError,
    },
    /// A narinfo of another path.
    #[error("{url} describes {found} instead of {path}")]
    OtherPath {
        /// Which path was asked for.
        path: String,
        /// Where.
        url: String,
        /// Which one came.
        found: String,
    },
    /// A file can't be had, or is damaged.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A NAR that a narinfo names is not there.
    #[error("{url}, which the cache's narinfo of {path} names, is not there")]
    NoNar {
        /// Where it should be.
        url: String,
        /// Of which path.
        path: String,
    },
    /// A file is longer than it may be.
    #[error("{url} is longer than {limit} bytes")]
    TooLong {
        /// Where.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// A NAR is not the one that the narinfo describes.
    #[error(
        "{url} holds another NAR of {path} than its narinfo says: {what} {found}, not {expected}"
    )]
    Nar {
        /// Where.
        url: String,
        /// Of which path.
        path: String,
        /// Length or hash.
        what: &'static str,
        /// What was found.
        found: String,
        /// What the narinfo says.
        expected: String,
    },
    /// A program's fault.
    #[error("can't start a thread: {0}")]
    Thread(String),
}
