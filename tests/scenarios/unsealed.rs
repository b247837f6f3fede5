//! An installation that was not sealed must not boot: the pool is still the installer's. So the
//! other scenarios' boots prove that the seal was made. One that fails after the boot loader was
//! installed leaves no boot loader, and running again works. And what `activate` complains of is a
//! warning, kept to the end.

use super::steps;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Exit code: docs/exit-codes.md.
const NOT_SEALED: i32 = 76;

/// Mounts a dataset a second time as soon as there is a boot loader.
const HELD: &str = "mkdir -p /media/held; nohup sh -c 'until test -d /mnt/boot/EFI; do sleep 0.2; \
                    done; mount --bind /mnt/var /media/held' > /dev/null 2>&1 < /dev/null &";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.activate_fails;
    let medium = cx.medium()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let hardware = Hardware::new("unsealed").disk(Disk::blank("target", 24)).tpm();
    let Live { running, mut machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let options = [files.outputs(), vec!["--no-reboot".to_owned()]].concat();
    let options = steps::words(&options);
    timed("install, with something that can't be closed", || {
        let entries = "ls /sys/firmware/efi/efivars | grep '^Boot[0-9]' | xargs";
        let before = ssh.ok(entries)?;
        ssh.ok(HELD)?;
        let ended = cx.keystone()?.install(&request, &[], &options)?;
        println!("    said: {}", ended.stderr.trim().replace('\n', "\n          "));
        ended.refused(NOT_SEALED, &["/media/held"])?;
        ensure!(ssh.ok("findmnt -n /media/held").is_ok(), "nothing was held");
        no_boot_loader(&ssh)?;
        ensure!(ssh.ok(entries)? == before, "the firmware has another boot entry");
        ssh.ok("umount /media/held")?;
        files.forget();
        Ok(())
    })?;
    let ended = timed("install over it, without the seal", || {
        let plan = ["--erase", "--skip-seal-for-tests"];
        cx.keystone()?.install(&request, &plan, &options)?.ok()
    })?;

    let report = files.report()?;
    ensure!(report["ends_at"] == "before-seal", "the report ends at {}", report["ends_at"]);
    let warnings = report["warnings"].as_array().context("a report has warnings")?;
    let of_activate = warnings
        .iter()
        .filter_map(Value::as_str)
        .find(|warning| warning.contains("activate"))
        .with_context(|| format!("no warning about activate: {warnings:?}"))?;
    ensure!(
        ended.stderr.contains(of_activate),
        "the warning is not said at the end:\n{}",
        ended.stderr
    );
    // Durable, as after a loss of power: nothing but the export is missing.
    ssh.ok("sync; sleep 6")?;
    running.kill()?;
    steps::boots_not(&mut machine, "a pool that was not exported", steps::NOT_EXPORTED)
}

/// The ESP has no loader and no entries.
fn no_boot_loader(ssh: &Ssh) -> Result<()> {
    let found = ssh.ok("mkdir -p /media/esp; \
         mount -t vfat -o ro /dev/disk/by-id/virtio-target-part1 /media/esp; \
         find /media/esp -iname '*.efi' -o -path '*loader/entries/*'; umount /media/esp")?;
    ensure!(found.is_empty(), "the ESP has {found}");
    Ok(())
}
