//! An installation that was not sealed must not boot: the pool is still the installer's. So the
//! other scenarios' boots prove that the seal was made. And what `activate` complains of is a
//! warning, kept to the end.

use super::steps;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

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
    let ended = timed("install without the seal", || {
        cx.keystone()?.install(&request, &["--skip-seal-for-tests"], &steps::words(&options))?.ok()
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
