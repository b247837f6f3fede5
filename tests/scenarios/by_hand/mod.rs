//! Installing by hand, with the tools everyone has: what ours is compared with.

pub(in crate::scenarios) mod plan;

use super::steps;
use crate::machine::ssh::Ssh;
use anyhow::Result;
use std::fs;

/// Makes the disk with that serial what Keystone's single-disk layout says, and mounts it below
/// `/mnt`. The credstore's password is [`steps::PASSWORD`].
pub(super) fn storage(ssh: &Ssh, serial: &str) -> Result<()> {
    let disk = format!("/dev/disk/by-id/virtio-{serial}");
    script(ssh, "storage.sh", include_str!("storage.sh"), &disk)
}

/// Installs the closure of `toplevel`, which is on the disk `closure`, below `/mnt`.
pub(super) fn system(ssh: &Ssh, toplevel: &str) -> Result<()> {
    script(ssh, "system.sh", include_str!("system.sh"), toplevel)
}

fn script(ssh: &Ssh, name: &str, text: &str, argument: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), text)?;
    ssh.put(file.path(), &format!("/run/{name}"))?;
    ssh.ok(&format!(
        "printf %s '{}' | sh /run/{name} {argument} > /run/{name}.log 2>&1 || \
         {{ tail -n 60 /run/{name}.log; exit 1; }}",
        steps::PASSWORD
    ))
    .map(drop)
}
