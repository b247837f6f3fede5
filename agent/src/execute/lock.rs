//! One execution at a time.
//!
//! The lock lies in `/run/keystone` of the running installer. It goes with the agent that holds
//! it, however that ends.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Where it lies.
pub const LOCK: &str = "/run/keystone/lock";

/// How often it is looked whether it is free.
const POLL: Duration = Duration::from_millis(100);

/// The lock can't be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "another agent works on this machine, and did not end within {} s", waited.as_secs()
    )]
    Busy {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The file can't be made or locked.
    #[error("locking {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock at `path`; waits at most `bound` for who has it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(path: &Path, bound: Duration) -> Result<Lock, LockError> {
        let fail = |source| LockError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(fail)?;
        let (began, mut file) = (Instant::now(), file);
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => return Ok(Lock { _file: file }),
                Err((file, Errno::EAGAIN)) if began.elapsed() < bound => file,
                Err((_, Errno::EAGAIN)) => return Err(LockError::Busy { waited: bound }),
                Err((_, errno)) => return Err(fail(errno.into())),
            };
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let error = Lock::take(&path, Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("another agent"), "{error}");
        drop(first);
        Lock::take(&path, Duration::ZERO).unwrap();
    }
}
