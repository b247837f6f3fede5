//! Disk images.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// `/dev/vda`.
    Virtio,
    /// `/dev/nvme0n1`.
    Nvme,
    /// `/dev/sda`.
    Sata,
}

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
    /// Physical sector size, in bytes.
    pub physical_sector_size: u32,
    /// What it is attached to.
    pub bus: Bus,
    /// An image to start from, in place of zeros.
    pub from: Option<PathBuf>,
}

impl Disk {
    /// A blank disk with sectors of 512 bytes.
    pub fn blank(serial: &str, gib: u64) -> Disk {
        Disk {
            serial: serial.to_owned(),
            size: gib << 30,
            sector_size: 512,
            physical_sector_size: 512,
            bus: Bus::Virtio,
            from: None,
        }
    }

    /// With these sectors, in bytes: 4096 and 4096 (4Kn), or 512 and 4096 (512e).
    pub fn sectors(self, logical: u32, physical: u32) -> Disk {
        Disk { sector_size: logical, physical_sector_size: physical, ..self }
    }

    /// On another bus.
    pub fn on(self, bus: Bus) -> Disk {
        Disk { bus, ..self }
    }

    /// Its name below `/dev/disk/by-id`.
    pub fn by_id(&self) -> String {
        let prefix = match self.bus {
            Bus::Virtio => "virtio",
            Bus::Nvme => "nvme-QEMU_NVMe_Ctrl",
            Bus::Sata => "ata-QEMU_HARDDISK",
        };
        let joint = if self.bus == Bus::Virtio { '-' } else { '_' };
        format!("{prefix}{joint}{}", self.serial)
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
