//! The file that takes the recovery keys.

use keystone_protocol::secret::Secret;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file made for this installation: mode 0600, never an existing one. Removed again if no key
/// was written to it.
#[derive(Debug)]
pub struct RecoveryKeyFile {
    path: PathBuf,
    file: File,
    /// With several containers each line names its own.
    named: bool,
    used: bool,
}

impl RecoveryKeyFile {
    /// Makes the file, so that a place that can't be written is known before anything else is.
    ///
    /// `containers` is how many keys will come: a single one stands alone, as
    /// `cryptsetup --key-file` wants it.
    pub fn create(path: &Path, containers: usize) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(RecoveryKeyFile { path: path.to_owned(), file, named: containers > 1, used: false })
    }

    /// Appends a key, and returns once it is on the disk.
    pub fn store(&mut self, container: &str, key: &Secret) -> io::Result<()> {
        self.used = true;
        if self.named {
            write!(self.file, "{container} ")?;
        }
        self.file.write_all(key.expose())?;
        if self.named {
            self.file.write_all(b"\n")?;
        }
        self.file.sync_all()?;
        // The name too.
        File::open(crate::parent(&self.path))?.sync_all()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RecoveryKeyFile {
    fn drop(&mut self) {
        if !self.used
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("the empty file {} is left: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key() -> Secret {
        Secret::new(b"abcdefgh-ijklmnop".to_vec())
    }

    #[test]
    fn made_afresh_readable_by_nobody_else_and_gone_if_unused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        drop(RecoveryKeyFile::create(&path, 1).unwrap());
        assert!(!path.exists());
        let mut file = RecoveryKeyFile::create(&path, 1).unwrap();
        file.store("credstore", &key()).unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), key().expose());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = RecoveryKeyFile::create(&path, 1).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn several_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        let mut file = RecoveryKeyFile::create(&path, 2).unwrap();
        file.store("one", &key()).unwrap();
        file.store("two", &key()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one abcdefgh-ijklmnop\ntwo abcdefgh-ijklmnop\n");
    }
}
