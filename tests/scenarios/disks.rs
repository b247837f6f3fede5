//! The disks of a machine, dealt with by `keystone disko` as an operator types it.

use super::steps;
use crate::keystone::{Ended, run as run_command};
use crate::machine::ssh::Ssh;
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};

/// Exit codes: docs/exit-codes.md.
pub(super) const TARGET_UNFIT: i32 = 66;
/// Not agreed to.
pub(super) const NOT_CONFIRMED: i32 = 67;
/// A step failed.
pub(super) const STORAGE: i32 = 73;

/// The disks of a machine, dealt with by `keystone disko`.
pub(super) struct Disks<'a> {
    pub(super) cx: &'a Context,
    pub(super) ssh: &'a Ssh,
    pub(super) key: &'a Path,
    pub(super) layout: &'a Path,
    pub(super) recovery: PathBuf,
}

/// What a mode did.
pub(super) struct Done {
    pub(super) changed: usize,
    pub(super) what: Vec<String>,
}

impl<'a> Disks<'a> {
    /// The disks of `layout`; the recovery key goes to `files`.
    pub(super) fn new(
        cx: &'a Context,
        ssh: &'a Ssh,
        key: &'a Path,
        layout: &'a Path,
        files: &steps::Files,
    ) -> Disks<'a> {
        Disks { cx, ssh, key, layout, recovery: files.path("recovery-key") }
    }

    /// Ends as it ends.
    pub(super) fn run(&self, mode: &str, more: &[&str]) -> Result<Ended> {
        let mut command = self.cx.keystone()?.on("disko", self.ssh, self.key);
        command.args(["--disko-mode", mode, "--json", "--layout"]).arg(self.layout).args(more);
        run_command(command)
    }

    /// Is refused as a plan.
    pub(super) fn refused(
        &self,
        mode: &str,
        more: &[&str],
        code: i32,
        words: &[&str],
    ) -> Result<()> {
        let ended = self.run(mode, &[more, &["--dry-run"]].concat())?;
        let error = ended.stderr.lines().find(|line| line.starts_with("error"));
        println!("    {mode} refused: {}", error.unwrap_or_default());
        ended.refused(code, words)
    }

    /// Agrees to the plan that was shown, and has it done.
    pub(super) fn agreed(&self, mode: &str, more: &[&str]) -> Result<Done> {
        let planned = self.run(mode, &[more, &["--dry-run"]].concat())?.ok()?;
        let plan = planned.plan()?;
        let hash = plan["hash"].as_str().context("a plan has a hash")?;
        let recovery = self.recovery.display().to_string();
        let mut agreed = vec!["--yes", "--plan-hash", hash];
        if !self.recovery.exists() {
            agreed.extend(["--recovery-key-file", &recovery]);
        }
        let ended = self.run(mode, &[more, &agreed].concat())?.ok().map_err(|error| {
            let kernel = self.ssh.ok("dmesg | grep -i tpm | tail -n 20").unwrap_or_default();
            error.context(format!("{mode} failed; of the TPM the kernel says:\n{kernel}"))
        })?;
        let what = ended.changed()?;
        Ok(Done { changed: what.len(), what })
    }
}

/// Nothing of Keystone's layout is open.
pub(super) fn closed(ssh: &Ssh) -> Result<()> {
    ssh.ok("! grep -q ' /mnt' /proc/mounts").context("something is mounted below /mnt")?;
    ssh.ok("! test -d /proc/spl/kstat/zfs/rpool").context("the pool is imported")?;
    ssh.ok("! grep -qsx credstore /sys/block/dm-*/dm/name").context("the credstore is open")?;
    Ok(())
}

/// A disk holds nothing.
pub(super) fn blank(ssh: &Ssh, serial: &str) -> Result<()> {
    let found = ssh.ok(&format!("wipefs -n /dev/disk/by-id/virtio-{serial}"))?;
    ensure!(found.is_empty(), "the disk is not blank: {found}");
    Ok(())
}
