//! Disk images.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A disk of a machine.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its serial number: the guest has it as `/dev/disk/by-id/virtio-<serial>`. At most 20
    /// characters (virtio).
    pub serial: String,
    /// Size, in bytes.
    pub size: u64,
    /// Logical sector size, in bytes.
    pub sector_size: u32,
    /// An image to start from, in place of zeros.
    pub from: Option<PathBuf>,
}

impl Disk {
    /// A blank disk with sectors of 512 bytes.
    pub fn blank(serial: &str, gib: u64) -> Disk {
        Disk { serial: serial.to_owned(), size: gib << 30, sector_size: 512, from: None }
    }

    /// Where its image lies.
    pub fn image(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.img", self.serial))
    }

    /// Makes the image, sparse.
    pub fn create(&self, dir: &Path) -> Result<()> {
        let image = self.image(dir);
        if let Some(from) = &self.from {
            let status = std::process::Command::new("cp")
                .arg("--sparse=always")
                .args([from, &image])
                .status()
                .context("copying a disk image")?;
            anyhow::ensure!(status.success(), "cp of {} ended with {status}", from.display());
        }
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&image)
            .with_context(|| format!("making {}", image.display()))?;
        file.set_len(self.size)?;
        Ok(())
    }
}
