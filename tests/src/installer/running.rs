//! A Debian that is no installer: what a machine runs before an installer is booted by kexec. Root
//! is had by `sudo` and a password, by who logs in with the lab's key.

use super::write;
use crate::debian::Root;
use crate::run::run;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Who logs in.
pub const USER: &str = "alice";
/// The password that `sudo` asks for.
pub const PASSWORD: &str = "wren under ivy";
/// What the machine calls itself.
pub const HOSTNAME: &str = "web1";

/// The root: that of the live system, with what a Debian has besides.
pub(super) fn root(root: Root) -> Root {
    let script = format!(
        "set -eu\nchroot \"$1\" useradd --create-home --shell /bin/sh --groups sudo {USER}\n\
         echo '{USER}:{PASSWORD}' | chroot \"$1\" chpasswd\n"
    );
    root.customize(&script)
}

/// What is changed by [`change`], for the cache.
pub(super) fn recipe() -> String {
    format!("{USER} {HOSTNAME} 1")
}

/// Makes the tree of the live system one that is no installer.
pub(super) fn change(tree: &Path, public_key: &str) -> Result<()> {
    let os_release = tree.join("usr/lib/os-release");
    let text = fs::read_to_string(&os_release).context("reading os-release")?;
    let kept: String =
        text.lines().filter(|l| !l.starts_with("VARIANT")).map(|l| format!("{l}\n")).collect();
    fs::write(&os_release, kept)?;
    write(tree, "etc/hostname", format!("{HOSTNAME}\n"))?;
    write(tree, "etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n"))?;
    write(tree, &format!("home/{USER}/.ssh/authorized_keys"), public_key)?;
    let own = format!("chown -R {USER}:{USER} /home/{USER} && chmod 700 /home/{USER}/.ssh");
    run(Command::new("chroot").arg(tree).args(["/bin/sh", "-c", &own]))?;
    Ok(())
}
