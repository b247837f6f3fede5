//! What the lab needs of this machine: Debian packages, installed when they are missing.
//!
//! Every part of the lab says here, or in a list named here, what it runs. The
//! packages come from whatever mirror the machine's apt is set up for.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{lab::timed, native};

/// Packages for building roots and media, for running machines, and the judges that tests hold
/// our own results against.
pub const PACKAGES: &[&str] = &[
    "bsdutils",
    "btrfs-progs",
    "build-essential",
    "busybox-static",
    "ca-certificates",
    "cpio",
    "cryptsetup-bin",
    "debian-archive-keyring",
    "dosfstools",
    "e2fsprogs",
    "f2fs-tools",
    "fdisk",
    "gdisk",
    "git",
    "iproute2",
    "kmod",
    "lvm2",
    "mmdebstrap",
    "mtools",
    "nginx-light",
    "nix-bin",
    "opendoas",
    "openssh-client",
    "openssh-server",
    "openssl",
    "procps",
    "sqlite3",
    "squashfs-tools",
    "strace",
    "sudo",
    "swtpm",
    "swtpm-tools",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// Installs what is missing of everything the lab needs. Quick when nothing is.
///
/// # Errors
/// As [`ensure_packages`].
pub fn ensure_all() -> Result<()> {
    let mut packages: Vec<&str> = [PACKAGES, native::HOST_PACKAGES].concat();
    packages.sort_unstable();
    packages.dedup();
    ensure_packages(&packages)
}

/// Installs what is missing of `packages`.
///
/// # Errors
/// Not root (the error names the command to run), or apt failed.
pub fn ensure_packages(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("packages are missing; as root run: apt-get install {}", missing.join(" "));
    }
    timed(&format!("install {}", missing.join(" ")), || {
        apt_get(&["update"])?;
        apt_get(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat())
    })
}

fn missing<'p>(packages: &[&'p str]) -> Result<Vec<&'p str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("running dpkg-query: the lab runs on Debian")?;
    // It fails when it does not know one of them; what it does know is listed all the same.
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: Vec<&str> =
        known.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn apt_get(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("running apt-get")?;
    ensure!(status.success(), "apt-get {} ended with {status}", args.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        assert_eq!(
            missing(&["dpkg", "keystone-no-such-package", "apt"]).unwrap(),
            ["keystone-no-such-package"]
        );
        assert!(missing(&["dpkg"]).unwrap().is_empty());
    }
}
