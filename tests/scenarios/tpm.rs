//! A machine with a TPM: installed, booted with no key pressed, looked at from inside, and opened
//! by the recovery key after its TPM was replaced.

use super::installed::{Installed, check_store};
use super::verified::verified;
use super::{BOOT, broken, steps};
use crate::keystone::Request;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let hardware = Hardware::new("tpm").disk(Disk::blank("target", 24)).tpm();
    let files = tempfile::tempdir()?;
    let recovery_file = files.path().join("recovery-key");
    let report_file = files.path().join("report.json");

    let Live { running, mut machine, ssh } = Live::boot(hardware, &medium)?;
    let request = Request {
        ssh: &ssh,
        key: &medium.key,
        store: &cx.system()?.root,
        toplevel,
        layout: &cx.layout("single-disk-root.json"),
    };
    let (recovery, report) =
        (recovery_file.display().to_string(), report_file.display().to_string());
    let ended = timed("install, reboot, verify", || {
        let install = ["--recovery-key-file", &recovery, "--report", &report];
        cx.keystone()?.install(&request, &[], &install)?.ok()
    })?;

    let key = fs::read_to_string(&recovery_file).context("reading the recovery key")?;
    let key = steps::recovery_key(&key)?;
    let mode = fs::metadata(&recovery_file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "the recovery key's file has mode {mode:o}");
    let report = fs::read_to_string(&report_file).context("reading the report")?;
    for (what, text) in [("output", &ended.stdout), ("log", &ended.stderr), ("report", &report)] {
        ensure!(!text.contains(&key), "the recovery key is in the {what}");
    }
    let report: Value = serde_json::from_str(&report)?;
    print_timings(&report);

    let ssh = running.ssh(&medium.key)?;
    let installed = Installed { ssh: &ssh, toplevel, report: &report, unlock: "tpm2" };
    installed.check()?;
    check_store(&ssh, cx.system()?, toplevel)?;
    verified(cx, &ssh, &report_file, &[])?;
    timed("each check bites", || broken::each_check_bites(cx, &installed, &report_file))?;
    ssh.ok("sync")?;
    running.kill()?;

    // Each start has a port of its own.
    let mut running = machine.start(None)?;
    let ssh = running.ssh(&medium.key)?;
    timed("boot again without the medium, no key pressed", || running.wait_ssh(&ssh, BOOT))?;
    let prompts = running.serial.text().matches(steps::PROMPT).count();
    ensure!(prompts == 0, "the console asked for a passphrase {prompts} times");
    running.kill()?;

    machine.replace_tpm()?;
    let what = "with another TPM, the recovery key opens it";
    let (running, _) = steps::boot_typing(&mut machine, &medium, what, &key)?;
    running.kill()
}

fn print_timings(report: &Value) {
    let empty = Vec::new();
    for step in report.pointer("/steps").and_then(Value::as_array).unwrap_or(&empty) {
        println!("    {:>8} ms  {}", step["elapsed_ms"], step["id"].as_str().unwrap_or_default());
    }
}
