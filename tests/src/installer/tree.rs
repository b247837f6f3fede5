//! The files of the live system's root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{HOSTID, write};
use crate::{debian::Kernel, run::run};

/// Files put into the root: path and text.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "keystone-installer\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 keystone-installer\n"),
    // Empty, not absent: systemd then takes a transient one and this is no first boot.
    ("etc/machine-id", ""),
    ("etc/fstab", ""),
    ("etc/ssh/sshd_config.d/keystone.conf", include_str!("../../installer/sshd.conf")),
    ("etc/systemd/network/20-wired.network", include_str!("../../installer/wired.network")),
    ("etc/systemd/system/host-key.service", include_str!("../../installer/host-key.service")),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf",
        include_str!("../../installer/autologin.conf"),
    ),
    ("etc/systemd/journald.conf.d/memory.conf", "[Journal]\nStorage=volatile\n"),
];

/// Units the live system does without: they cost an emulated machine seconds.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "ldconfig.service",
    "sshd-keygen.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrlock.socket",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-update-done.service",
    // The variant with tools imports, mounts and opens nothing by itself.
    "zfs-import-cache.service",
    "zfs-import-scan.service",
    "zfs-mount.service",
    "zfs-share.service",
    "zfs-volume-wait.service",
    "zfs-zed.service",
    "zfs-load-module.service",
    "nix-daemon.service",
    "nix-daemon.socket",
];

const ENABLED: &[&str] = &["host-key.service", "ssh.service", "systemd-networkd.service"];

/// What the tree is made by, for the cache.
pub(super) fn recipe() -> String {
    format!("{FILES:?} {MASKED:?} {ENABLED:?} {HOSTID:x} 1")
}

/// Makes the tree at `tree` from the Debian root `root`.
pub(super) fn make(root: &Path, kernel: &Kernel, public_key: &str, tree: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).args([root, tree]))?;
    let modules = tree.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    run(Command::new("cp").arg("-a").args([&kernel.modules, &modules]))?;

    for directory in ["var/cache/apt", "var/lib/apt", "var/cache/debconf", "boot"] {
        run(Command::new("rm").arg("-rf").arg(tree.join(directory)))?;
    }
    for entry in fs::read_dir(tree.join("etc/ssh"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
            fs::remove_file(path)?;
        }
    }
    fs::create_dir_all(tree.join("medium"))?;

    for (path, text) in FILES {
        write(tree, path, text)?;
    }
    // As `zgenhostid` writes it: the number as the machine stores it.
    write(tree, "etc/hostid", HOSTID.to_le_bytes())?;
    let os_release = tree.join("usr/lib/os-release");
    let text = fs::read_to_string(&os_release).context("reading os-release")?;
    fs::write(&os_release, format!("{text}VARIANT=\"Installer\"\nVARIANT_ID=installer\n"))?;

    write(tree, "root/.ssh/authorized_keys", public_key)?;
    fs::set_permissions(tree.join("root/.ssh"), fs::Permissions::from_mode(0o700))?;
    fs::set_permissions(tree.join("root/.ssh/authorized_keys"), fs::Permissions::from_mode(0o600))?;

    let units = tree.join("etc/systemd/system");
    for unit in MASKED {
        let link = units.join(unit);
        let _ = fs::remove_file(&link);
        symlink("/dev/null", &link)?;
    }
    let mut systemctl = Command::new("systemctl");
    run(systemctl.arg("--root").arg(tree).arg("enable").args(ENABLED)).context("enabling units")?;
    Ok(())
}
