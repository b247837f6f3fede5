//! OpenSSH's client configuration: `~/.ssh/config`, `/etc/ssh/ssh_config`.
//!
//! | module | job |
//! |---|---|
//! | [`words`] | a line as keyword and words |
//! | [`keywords`] | which keyword does what here |
//! | [`settings`] | what the files say about one host |
//! | [`read`] | the files, line by line: `Host`, `Match`, `Include` |
//! | [`tokens`] | `%h` and its like, `~`, `${VARIABLE}` |
//!
//! Source: ssh_config(5) of OpenSSH 9.2; what the manual leaves open was tried with `ssh -G`,
//! and the tests hold every setting against it.

mod keywords;
mod read;
pub mod settings;
pub(super) mod tokens;
mod words;

pub use settings::{AddressFamily, Proxy, Settings};

use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Which files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Files {
    /// `~/.ssh/config`, then `/etc/ssh/ssh_config`.
    #[default]
    Usual,
    /// This one, and not the system's.
    Only(PathBuf),
    /// None.
    None,
}

/// Where settings come from: options first, then files.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `Keyword=value`, each.
    pub options: Vec<String>,
    /// The files.
    pub files: Files,
}

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Line of a file, from 1.
    Line(PathBuf, usize),
    /// An option, as it was given.
    Option(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{} line {line}", file.display()),
            Place::Option(text) => write!(f, "--ssh-option {text}"),
        }
    }
}

/// The configuration can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file is not readable.
    #[error("can't read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else may have written it.
    #[error("{} can be written by others than its owner, or is another user's: chmod 600 it, or name a file with --ssh-config", file.display())]
    Writable {
        /// The file.
        file: PathBuf,
    },
    /// A line means nothing, or something that is not done here.
    #[error("{place}: {why}")]
    Line {
        /// Where.
        place: Place,
        /// A sentence.
        why: String,
    },
    /// A setting's value can't be used.
    #[error("the SSH configuration of {host}: {why}")]
    Setting {
        /// Whose.
        host: String,
        /// A sentence.
        why: String,
    },
}

/// Whom the settings are asked for.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The host as it was given.
    pub host: &'a str,
    /// The user that was given, which no file overrides.
    pub user: Option<&'a str>,
    /// The port that was given, which no file overrides.
    pub port: Option<u16>,
    /// Who logs in where neither says.
    pub default_user: &'a str,
}

impl Sources {
    /// The settings of a host.
    ///
    /// # Errors
    /// [`ConfigError`], for a line that applies to the host or means nothing.
    pub fn settings(&self, asked: &Asked<'_>) -> Result<Settings, ConfigError> {
        read::settings(self, asked)
    }
}
