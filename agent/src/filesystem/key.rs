//! The raw key of an encrypted dataset, in a file system that is itself encrypted.
//!
//! It is drawn once and never again: a second key would make the dataset of the first unreadable.
//! It is written under another name, synced, and only then given its name, so a file of that name
//! is whole. It is read back through a second mount, from the device and not from memory.

use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use crate::mount::{MountError, TempMount};
use keystone_protocol::secret::Secret;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use thiserror::Error;

/// The key can't be made or read.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file system that keeps it.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Not the name of a file.
    #[error("{0:?} is no file name")]
    Name(String),
    /// Nothing random could be had.
    #[error("drawing a random key")]
    Random(#[source] rand::rand_core::OsError),
    /// A file operation failed.
    #[error("{action} the key file {file}")]
    File {
        /// What was tried, a gerund.
        action: &'static str,
        /// The file's name.
        file: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is there is no such key. It is left alone: a dataset may depend on it.
    #[error("{file} is there but is no key of {wanted} bytes: {found}. It was not touched")]
    NotAKey {
        /// The file's name.
        file: String,
        /// Bytes a key has.
        wanted: u32,
        /// What it is.
        found: String,
    },
    /// There is none, and a new one would open nothing.
    #[error("the key file {0} is not there, and its dataset is: a new key would not open it")]
    Missing(String),
    /// The device did not keep it.
    #[error("the key file {0} reads back differently than it was written")]
    NotKept(String),
}

/// Makes the key in the ext4 file system on `device`: `bytes` random bytes in `file` at its root,
/// mode 0400. A key that is there is returned as it is.
pub fn ensure(
    roots: &Roots,
    device: &Node,
    file: &str,
    bytes: u32,
) -> Result<(Ensured, Secret), KeyError> {
    check_name(file)?;
    let mount = TempMount::new(roots, &device.path, "ext4", false)?;
    let made = ensure_in(mount.path(), file, bytes);
    mount.unmount()?;
    let (ensured, written) = made?;

    let mount = TempMount::new(roots, &device.path, "ext4", true)?;
    let kept = read(mount.path(), file, bytes);
    mount.unmount()?;
    match kept? {
        Some(kept) if kept == written => Ok((ensured, kept)),
        _ => Err(KeyError::NotKept(file.to_owned())),
    }
}

/// Reads a key that is there; nothing is made.
///
/// # Errors
/// [`KeyError::Missing`], [`KeyError::NotAKey`].
pub fn existing(roots: &Roots, device: &Node, file: &str, bytes: u32) -> Result<Secret, KeyError> {
    check_name(file)?;
    let mount = TempMount::new(roots, &device.path, "ext4", true)?;
    let found = read(mount.path(), file, bytes);
    mount.unmount()?;
    found?.ok_or_else(|| KeyError::Missing(file.to_owned()))
}

fn check_name(file: &str) -> Result<(), KeyError> {
    match file.is_empty() || file.contains('/') || file == "." || file == ".." {
        true => Err(KeyError::Name(file.to_owned())),
        false => Ok(()),
    }
}

fn ensure_in(dir: &Path, file: &str, bytes: u32) -> Result<(Ensured, Secret), KeyError> {
    let fail = |action| {
        let file = file.to_owned();
        move |source| KeyError::File { action, file, source }
    };
    if let Some(key) = read(dir, file, bytes)? {
        return Ok((Ensured::AlreadySo, key));
    }
    let mut key = zeroize::Zeroizing::new(vec![0; bytes as usize]);
    OsRng.try_fill_bytes(&mut key).map_err(KeyError::Random)?;
    // One that was left by an interrupted run never was anyone's key.
    let unnamed = dir.join(format!(".{file}.new"));
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fail("removing the unfinished")(error));
        }
        _ => {}
    }
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&unnamed)
        .map_err(fail("making"))?;
    new.write_all(&key)
        .and_then(|()| new.set_permissions(fs::Permissions::from_mode(0o400)))
        .and_then(|()| new.sync_all())
        .map_err(fail("writing"))?;
    // Fails if the name is taken, whoever took it.
    renameat2(AT_FDCWD, &unnamed, AT_FDCWD, &dir.join(file), RenameFlags::RENAME_NOREPLACE)
        .map_err(io::Error::from)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(fail("naming"))?;
    match read(dir, file, bytes)? {
        Some(kept) if kept.expose() == key.as_slice() => Ok((Ensured::Created, kept)),
        _ => Err(KeyError::NotKept(file.to_owned())),
    }
}

/// The key in `dir`, if the file is there; an error if it is no such key.
fn read(dir: &Path, file: &str, bytes: u32) -> Result<Option<Secret>, KeyError> {
    let fail = |source| KeyError::File { action: "reading", file: file.to_owned(), source };
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(dir.join(file));
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let metadata = opened.metadata().map_err(fail)?;
    let not = |found: String| KeyError::NotAKey { file: file.to_owned(), wanted: bytes, found };
    if !metadata.is_file() {
        return Err(not("it is no regular file".to_owned()));
    }
    if metadata.len() != u64::from(bytes) {
        return Err(not(format!("it has {} bytes", metadata.len())));
    }
    if metadata.uid() != 0 || metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(not(format!("others may read it (owner {}, mode {mode:o})", metadata.uid())));
    }
    let mut key = Vec::with_capacity(bytes as usize);
    opened.read_to_end(&mut key).map_err(fail)?;
    Ok(Some(Secret::new(key)))
}
