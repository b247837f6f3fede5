//! What can go wrong with a file of a web server.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A file can't be had, or is not what it has to be. Addresses are as they may be shown.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The server did not give a file.
    #[error("{url} can't be fetched: the server answers {status}")]
    Status {
        /// Where.
        url: String,
        /// HTTP's status code.
        status: u16,
    },
    /// The server can't be asked.
    #[error("{url} can't be fetched")]
    Fetch {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A file can't be read, or its transfer broke off again and again.
    #[error("{url} can't be read")]
    Read {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server has no such file.
    #[error("{url} is not there")]
    NotThere {
        /// Where.
        url: String,
    },
    /// A file is not the one that was told of.
    #[error("{url} is damaged: it has {what} {found}, and its narinfo says {expected}")]
    File {
        /// Where.
        url: String,
        /// Length or hash.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was told.
        expected: String,
    },
    /// It is not compressed as it was told to be, or needs more memory for that than it gets.
    #[error("{url} can't be decompressed")]
    Decompress {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What comes out of a file is not as long as it was told to be.
    #[error("{url} is not the NAR that its narinfo describes: it is {how}")]
    Length {
        /// Where.
        url: String,
        /// Longer or shorter.
        how: &'static str,
    },
    /// Certificates of the machine that can't be read.
    #[error("can't read certificates from {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FetchError {
    /// Whether nobody could be asked, as opposed to an answer that is of no use.
    pub fn is_of_the_line(&self) -> bool {
        matches!(self, FetchError::Fetch { .. })
    }

    /// Whether the next try may do better.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            FetchError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            FetchError::Fetch { source, .. } => matches!(
                **source,
                ureq::Error::Io(_)
                    | ureq::Error::Timeout(_)
                    | ureq::Error::ConnectionFailed
                    | ureq::Error::HostNotFound
                    | ureq::Error::Protocol(_)
            ),
            _ => false,
        }
    }
}
