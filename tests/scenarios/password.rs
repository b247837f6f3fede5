//! A machine without a TPM: `auto` falls back to a password, which the boot asks for. What the
//! installation executes is traced by the machine's kernel, and no secret is among its arguments,
//! environments and files.

use super::installed::Installed;
use super::steps;
use crate::lab::timed;
use crate::machine::disk::Disk;
use crate::machine::exec_trace::{self, Trace};
use crate::machine::{Hardware, arguments};
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let keystone = cx.keystone()?;
    let hardware = Hardware::new("password").disk(Disk::blank("target", 24));
    let Live { running, mut machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;

    let plan = keystone.plan(&request, &[])?;
    let unlock = &plan["containers"][0];
    ensure!(unlock["unlock"]["by"] == "password", "without a TPM the plan says {unlock}");
    let reason = unlock["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("TPM"), "the plan does not say why a password: {unlock}");

    arguments::start(&ssh)?;
    exec_trace::start(&ssh)?;
    let options = [files.outputs(), files.password(), vec!["--no-reboot".to_owned()]].concat();
    let hardware = files.path("hardware.json");
    // Everything is shown, and nothing of it is a secret.
    let more = ["--json", "--debug", "--hardware-report", &hardware.display().to_string()]
        .map(str::to_owned);
    let words = [options, more.to_vec()].concat();
    let ended = timed("install", || keystone.install(&request, &[], &steps::words(&words))?.ok())?;
    executed_only_what_it_may(&exec_trace::stop(&ssh)?)?;
    files.no_secret_in_arguments(&ssh)?;
    let report = files.report()?;
    ensure!(report["ends_at"] == "sealed", "the report ends at {}", report["ends_at"]);
    let journal = ssh.ok("cat /run/keystone/journal*").context("reading the journal")?;
    ensure!(
        journal.contains(report["plan"].as_str().context("plan")?),
        "the journal is of another plan"
    );
    let hardware = fs::read_to_string(hardware).context("reading the hardware's report")?;
    let described: Value = serde_json::from_str(&hardware)?;
    let boot = ssh.ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(described["system"]["boot_id"] == boot, "this is another machine: {described}");
    for (what, text) in [
        ("output", &ended.stdout),
        ("log", &ended.stderr),
        ("journal", &journal),
        ("hardware's report", &hardware),
    ] {
        ensure!(!text.is_empty(), "there is no {what}");
        files.no_secret_in(what, text)?;
    }
    files.no_secret_in("report", &report.to_string())?;
    // Activation ran in the target: the installer is no NixOS system afterwards.
    ssh.ok("! test -e /run/current-system")?;
    running.kill()?;

    let what = "boot with the password typed";
    let (running, ssh) = steps::boot_typing(&mut machine, &medium, what, steps::PASSWORD)?;
    Installed { ssh: &ssh, toplevel, report: &report, unlock: "password" }.check()?;
    timed("no secret in files", || files.no_secret_in_files(&ssh))?;
    running.kill()
}

/// Outside the target's root the agent's process tree executes only itself and `mkfs.ext4`.
fn executed_only_what_it_may(trace: &Trace) -> Result<()> {
    let below = trace.below(|program| program.ends_with("/keystone-agent"));
    let (inside, outside): (Vec<_>, Vec<_>) = below.iter().partition(|exec| exec.in_other_root);
    let may = |program: &str| {
        program.ends_with("/keystone-agent")
            || program == "/proc/self/exe"
            || program.ends_with("/mkfs.ext4")
    };
    let others: Vec<&str> =
        outside.iter().map(|exec| exec.program.as_str()).filter(|program| !may(program)).collect();
    ensure!(others.is_empty(), "the agent executed {others:?}");
    outside
        .iter()
        .find(|exec| exec.program.ends_with("/mkfs.ext4"))
        .context("the trace does not show mkfs.ext4, so it shows nothing")?;
    inside
        .iter()
        .find(|exec| exec.program.ends_with("/bin/switch-to-configuration"))
        .context("the trace does not show switch-to-configuration in the target")?;
    println!(
        "    executed: {} programs outside of the target's root, {} in it",
        outside.len(),
        inside.len()
    );
    Ok(())
}
