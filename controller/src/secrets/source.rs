//! Reads a secret from a file, a pipe or standard input.

use keystone_protocol::secret::Secret;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest password that is read, in bytes.
const LONGEST: usize = 4096;
/// The longest key file, in bytes.
const LONGEST_KEY: usize = 64 << 10;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Standard input, to its end (`-`).
    Stdin,
    /// A file, a named pipe or `/dev/fd/N`.
    File(PathBuf),
}

/// A secret can't be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Not readable.
    #[error("can't read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Readable by everybody.
    #[error("{} lies in the Nix store, which everybody can read: keep it elsewhere", path.display())]
    InStore {
        /// Which file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{} is empty", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// It would be shown while it is typed.
    #[error(
        "standard input is a terminal, which would show it: give a file or a pipe, or leave the option out to be asked"
    )]
    Terminal,
    /// Too long to be what it should be.
    #[error("{} is longer than {longest} bytes: that is no password or key", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The longest that is taken, in bytes.
        longest: usize,
    },
}

impl FromStr for SecretSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "-" => SecretSource::Stdin,
            path => SecretSource::File(path.into()),
        })
    }
}

impl SecretSource {
    /// Reads a password: one line break at the end is dropped.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let (path, mut bytes) = self.bytes(LONGEST)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        match bytes.is_empty() {
            true => Err(SecretError::Empty { path }),
            false => Ok(Secret::new(std::mem::take(&mut *bytes))),
        }
    }

    /// Reads a key: every byte counts.
    pub fn read_file(&self) -> Result<Secret, SecretError> {
        let (path, mut bytes) = self.bytes(LONGEST_KEY)?;
        match bytes.is_empty() {
            true => Err(SecretError::Empty { path }),
            false => Ok(Secret::new(std::mem::take(&mut *bytes))),
        }
    }

    fn bytes(&self, longest: usize) -> Result<(PathBuf, Zeroizing<Vec<u8>>), SecretError> {
        let path = match self {
            SecretSource::Stdin => PathBuf::from("standard input"),
            SecretSource::File(path) => path.clone(),
        };
        let fail = |source| SecretError::Read { path: path.clone(), source };
        let bytes = match self {
            SecretSource::Stdin if io::stdin().is_terminal() => return Err(SecretError::Terminal),
            SecretSource::Stdin => read(io::stdin().lock(), longest).map_err(fail)?,
            SecretSource::File(file) => {
                let real = file.canonicalize().unwrap_or_else(|_| file.clone());
                if [real.as_path(), file].iter().any(|p| p.starts_with("/nix/store")) {
                    return Err(SecretError::InStore { path });
                }
                read(open(file).map_err(fail)?, longest).map_err(fail)?
            }
        };
        match bytes {
            Some(bytes) => Ok((path, bytes)),
            None => Err(SecretError::TooLong { path, longest }),
        }
    }
}

fn open(file: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::PermissionsExt;
    let opened = std::fs::File::open(file)?;
    let meta = opened.metadata()?;
    if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!("{} can be read by others: chmod 600 it", file.display());
    }
    Ok(opened)
}

/// Everything, or `None` if it is too long. Read into one buffer that does not grow, so that no
/// copy is left behind.
fn read(mut from: impl Read, longest: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; longest + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(length);
    Ok((length <= longest).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(contents: &[u8]) -> Result<Secret, SecretError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, contents).unwrap();
        SecretSource::File(file).read()
    }

    #[test]
    fn one_line_break_is_dropped() {
        assert_eq!(from(b"correct horse\n").unwrap().expose(), b"correct horse");
        assert_eq!(from(b"correct horse\r\n").unwrap().expose(), b"correct horse");
        assert_eq!(from(b"two\n\n").unwrap().expose(), b"two\n");
        assert!(matches!(from(b"\n"), Err(SecretError::Empty { .. })));
        assert!(matches!(from(&[b'x'; LONGEST + 1]), Err(SecretError::TooLong { .. })));
    }

    #[test]
    fn of_a_key_every_byte_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, b"\0key\r\n").unwrap();
        assert_eq!(SecretSource::File(file).read_file().unwrap().expose(), b"\0key\r\n");
    }

    #[test]
    fn not_from_the_store_nor_from_nowhere() {
        let store = SecretSource::File("/nix/store/x/password".into()).read().unwrap_err();
        assert!(store.to_string().contains("everybody can read"), "{store}");
        let none = SecretSource::File("/nonexistent/password".into()).read().unwrap_err();
        assert!(none.to_string().contains("/nonexistent/password"), "{none}");
    }

    #[test]
    fn from_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = pipe.clone();
        let thread =
            std::thread::spawn(move || std::fs::write(writer, "through a pipe\n").unwrap());
        assert_eq!(SecretSource::File(pipe).read().unwrap().expose(), b"through a pipe");
        thread.join().unwrap();
    }
}
