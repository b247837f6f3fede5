//! A file system where only root looks, for a moment.

use super::MountError;
use super::ensure::mount_now;
use super::options::Options;
use super::unmount::unmount;
use crate::block::Roots;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A mount in a directory of its own below `/run/keystone`, mode 0700, without programs, devices
/// or set-uid. [`TempMount::unmount`] ends it and tells whether it could; dropping it tries to.
#[derive(Debug)]
pub struct TempMount {
    roots: Roots,
    path: PathBuf,
    mounted: bool,
}

impl TempMount {
    /// Mounts the file system on the device node `source`.
    pub fn new(
        roots: &Roots,
        source: &Path,
        fstype: &str,
        read_only: bool,
    ) -> Result<Self, MountError> {
        Self::with_options(roots, source, fstype, read_only, &[])
    }

    /// As [`TempMount::new`], with further options for the file system.
    pub fn with_options(
        roots: &Roots,
        source: &Path,
        fstype: &str,
        read_only: bool,
        further: &[&str],
    ) -> Result<Self, MountError> {
        let parent = roots.run.join("keystone");
        let path = parent.join(format!("mount-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&parent)
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&path))
            .map_err(|source| MountError::Directory { path: path.clone(), source })?;
        let mut mount = TempMount { roots: roots.clone(), path, mounted: false };
        let options = if read_only { "ro,nosuid,nodev,noexec" } else { "nosuid,nodev,noexec" };
        let source = source.to_string_lossy();
        let options = Options::parse([options].into_iter().chain(further.iter().copied()));
        mount_now(roots, &source, &mount.path, fstype, options)?;
        mount.mounted = true;
        Ok(mount)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts, and removes the directory.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), MountError> {
        if self.mounted {
            let _ = unmount(&self.roots, &self.path)?;
            self.mounted = false;
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "left behind");
        }
        Ok(())
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if (self.mounted || self.path.exists())
            && let Err(error) = self.end()
        {
            tracing::error!(path = %self.path.display(), %error, "still mounted");
        }
    }
}
