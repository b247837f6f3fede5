//! An open block device.

use super::{BlockError, Poll, Roots, holders, ioctl, sysfs, wait};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a device may stay busy: udev's probes and closing file systems take a moment.
const BUSY_BOUND: Duration = Duration::from_secs(15);
/// How long someone else may hold a disk's lock.
const LOCK_BOUND: Duration = Duration::from_secs(60);

/// A block device that nobody else uses: no mount, no holder, no other exclusive opener, neither
/// of the device nor, for a whole disk, of its partitions.
#[derive(Debug)]
pub struct Device {
    file: File,
    name: String,
    path: PathBuf,
    size: u64,
    sector_size: u32,
}

impl Device {
    /// Opens for reading and writing, exclusively (`O_EXCL`). Waits a moment while it is busy,
    /// then says by whom.
    pub fn open_exclusive(roots: &Roots, name: &str) -> Result<Self, BlockError> {
        let path = roots.node(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_EXCL);
        let what = format!("{} to be free", path.display());
        let file = wait(&what, BUSY_BOUND, || match options.open(&path) {
            Ok(file) => Ok(Poll::Ready(file)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                Ok(Poll::Pending("it is busy".to_owned()))
            }
            Err(error) => Err(BlockError::io("opening", &path)(error)),
        })
        .map_err(|error| match error {
            BlockError::Timeout(_) => {
                BlockError::Busy { device: name.to_owned(), holders: holders::phrases(roots, name) }
            }
            other => other,
        })?;
        Self::of(file, name, path)
    }

    /// Opens for reading and writing, beside anyone else: for a table whose partitions are in use.
    pub fn open_shared(roots: &Roots, name: &str) -> Result<Self, BlockError> {
        let path = roots.node(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(BlockError::io("opening", &path))?;
        Self::of(file, name, path)
    }

    /// Opens for reading, beside anyone else.
    pub fn open_read(roots: &Roots, name: &str) -> Result<Self, BlockError> {
        let path = roots.node(name);
        let file = File::open(&path).map_err(BlockError::io("opening", &path))?;
        Self::of(file, name, path)
    }

    fn of(file: File, name: &str, path: PathBuf) -> Result<Self, BlockError> {
        let size = ioctl::size(&file).map_err(BlockError::io("reading the size of", &path))?;
        let sector_size = ioctl::sector_size(&file)
            .map_err(BlockError::io("reading the sector size of", &path))?;
        if !matches!(sector_size, 512 | 4096) {
            return Err(BlockError::SectorSize { device: name.to_owned(), bytes: sector_size });
        }
        Ok(Device { file, name: name.to_owned(), path, size, sector_size })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Kernel name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Logical sector size in bytes: 512 or 4096.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), BlockError> {
        self.file.write_all_at(bytes, offset).map_err(BlockError::io("writing", &self.path))
    }

    /// Returns once everything written is on stable storage.
    pub fn sync(&self) -> Result<(), BlockError> {
        self.file.sync_all().map_err(BlockError::io("syncing", &self.path))
    }

    /// Makes the kernel forget what it holds of the device in memory, so that what is read from
    /// here on comes from the device.
    pub fn forget_read(&self) -> Result<(), BlockError> {
        ioctl::flush_buffers(&self.file)
            .map_err(BlockError::io("flushing the buffers of", &self.path))
    }
}

/// The advisory lock that keeps udev from probing a disk and rereading its table while it is
/// being written (systemd, "Locking Block Device Access": `flock` `LOCK_EX` on the whole disk).
///
/// It is taken on a descriptor of its own, opened for reading: it has to outlive the one that is
/// written through, because udev acts when a writable descriptor is closed.
#[derive(Debug)]
pub struct DiskLock(File);

impl DiskLock {
    /// Locks the disk that `name` is, or is a partition of.
    pub fn take(roots: &Roots, name: &str) -> Result<Self, BlockError> {
        let disk =
            sysfs::disk_of(roots, name).ok_or_else(|| BlockError::Missing(name.to_owned()))?;
        let path = roots.node(&disk);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(BlockError::io("opening", &path))?;
        let what = format!("the lock of {}", path.display());
        wait(&what, LOCK_BOUND, || match file.try_lock() {
            Ok(()) => Ok(Poll::Ready(())),
            Err(TryLockError::WouldBlock) => {
                Ok(Poll::Pending("udev or a partitioning program holds it".to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(BlockError::io("locking", &path)(error)),
        })?;
        Ok(DiskLock(file))
    }

    /// The locked disk, for ioctls.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}
