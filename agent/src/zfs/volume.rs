//! The block devices of volumes, found without udev's links in `/dev/zvol`.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    Zfs,
    error::{Error, Result},
    ffi,
};

impl Zfs {
    /// Kernel name of a volume's block device, such as `zd0`, waited for at most
    /// `timeout`: the kernel makes it a moment after the volume.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn volume_device(&self, dataset: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(device) = volume_devices()?.into_iter().find(|(_, name)| name == dataset) {
                return Ok(device.0);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: format!("the block device of volume {dataset}"),
                    seconds: timeout.as_secs(),
                });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Every volume's block device: kernel name and dataset. The kernel is asked
/// for each `zdN` that sysfs has (`BLKZNAME`, which udev's `zvol_id` asks too).
fn volume_devices() -> Result<Vec<(String, String)>> {
    let dir = Path::new("/sys/block");
    let failed = |source| Error::Device { action: "read", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("zd").is_some_and(|n| n.parse::<u32>().is_ok());
        // A device may go away while we look; it is then not the one.
        if number
            && let Ok(device) = File::open(Path::new("/dev").join(&name))
            && let Ok(dataset) = ffi::volume_name(device.as_fd())
        {
            found.push((name, dataset));
        }
    }
    Ok(found)
}
