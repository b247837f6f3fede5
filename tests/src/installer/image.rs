//! The medium's disk image: GPT, an ESP with systemd-boot, the root as squashfs.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, copy},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{LABEL, write};
use crate::{debian::Kernel, run::run};

const MIB: u64 = 1 << 20;
const ESP_START: u64 = MIB;
const ESP_SIZE: u64 = 64 * MIB;
const ROOT_START: u64 = ESP_START + ESP_SIZE;

const LOADER: &str = "timeout 0\ndefault installer.conf\n";

/// `mitigations=off`: they cost much where a processor is emulated, and guard nothing here.
/// `no_timer_check`: on a busy computer an emulated timer comes too late for that test, and the
/// kernel panics; virtualised ones it leaves out by itself.
const ENTRY: &str = "title Keystone installer\nlinux /linux\ninitrd /initrd\n\
                     options console=ttyS0,115200 loglevel=5 mitigations=off random.trust_cpu=on \
                     no_timer_check\n";

/// The kernel's command line.
pub(super) fn command_line() -> &'static str {
    ENTRY.rsplit_once("options ").map_or("", |(_, options)| options.trim_end())
}

/// What the image is made by, for the cache.
pub(super) fn recipe() -> String {
    format!("{LOADER} {ENTRY} {ESP_SIZE} {LABEL}")
}

/// Writes the image to `out`.
pub(super) fn make(kernel: &Kernel, initrd: &Path, tree: &Path, out: &Path) -> Result<()> {
    let squashfs = out.with_extension("squashfs");
    // Not compressed: the medium is a file on this machine, and unpacking would be emulated.
    run(Command::new("mksquashfs")
        .args([tree, &squashfs])
        .args(["-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet", "-no-xattrs"])
        .args(["-e", "proc/*", "sys/*", "dev/*", "run/*", "tmp/*", "-wildcards"]))
    .context("packing the root: install squashfs-tools")?;
    let size = fs::metadata(&squashfs)?.len();

    let image = File::create(out)?;
    // One MiB at the end for the second partition table.
    image.set_len(ROOT_START + size.next_multiple_of(MIB) + MIB)?;
    run(Command::new("sgdisk")
        .arg("--clear")
        .arg(format!("--new=1:{}:+{}", ESP_START / 512, ESP_SIZE / 512 - 1))
        .args(["--typecode=1:ef00", "--change-name=1:ESP"])
        .arg(format!("--new=2:{}:+{}", ROOT_START / 512, size.next_multiple_of(MIB) / 512 - 1))
        .arg("--typecode=2:8304")
        .arg(format!("--change-name=2:{LABEL}"))
        .arg(out))
    .context("partitioning the medium: install gdisk")?;

    esp(kernel, initrd, out).context("filling the medium's ESP: install mtools")?;
    let mut image = File::options().write(true).open(out)?;
    image.seek(SeekFrom::Start(ROOT_START))?;
    copy(&mut File::open(&squashfs)?, &mut image)?;
    fs::remove_file(&squashfs)?;
    Ok(())
}

fn esp(kernel: &Kernel, initrd: &Path, image: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let files = dir.path();
    write(files, "loader/loader.conf", LOADER)?;
    write(files, "loader/entries/installer.conf", ENTRY)?;
    fs::create_dir_all(files.join("EFI/BOOT"))?;
    fs::copy(&kernel.systemd_boot, files.join("EFI/BOOT/BOOTX64.EFI"))?;
    fs::copy(&kernel.image, files.join("linux"))?;
    fs::copy(initrd, files.join("initrd"))?;

    let volume = format!("{}@@{ESP_START}", image.display());
    let sectors = (ESP_SIZE / 512).to_string();
    run(
        Command::new("mformat").args(["-i", &volume, "-F", "-T", &sectors, "-v", "KEYSTONE", "::"])
    )?;
    for name in ["EFI", "loader", "linux", "initrd"] {
        run(Command::new("mcopy")
            .args(["-i", &volume, "-s", "-Q"])
            .arg(files.join(name))
            .arg("::"))?;
    }
    Ok(())
}
