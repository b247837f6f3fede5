//! The layout of Keystone's later modules, on one disk: installed, and booted by its TPM.

use super::installed::Installed;
use super::{BOOT, steps};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result};

/// What does not depend on the names of the disk and its partitions.
const CHECKS: &[&str] = &[
    "system", "mounts", "root", "encryption", "pool", "credstore", "units", "slots", "firewall", "ESP",
    "report",
];

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.os_zfs_single;
    let medium = cx.medium()?;
    let layout = cx.layout("os-zfs-single.json");
    let files = steps::Files::new()?;
    let hardware = Hardware::new("os-zfs-single").disk(Disk::blank("a", 24)).tpm();
    let Live { running, mut machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let options = [files.outputs(), vec!["--no-reboot".to_owned()]].concat();
    timed("install", || cx.keystone()?.install(&request, &[], &steps::words(&options))?.ok())?;
    running.kill()?;
    let mut running = machine.start(None)?;
    let ssh = running.ssh(&medium.key)?;
    timed("boot, no key pressed", || running.wait_ssh(&ssh, BOOT))?;
    let report = files.report()?;
    let installed = Installed { ssh: &ssh, toplevel, report: &report, unlock: "tpm2" };
    for check in CHECKS {
        installed.check_one(check).with_context(|| (*check).to_owned())?;
    }
    running.kill()
}
