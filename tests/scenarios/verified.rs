//! What `keystone verify` says of an installed machine.

use crate::keystone;
use crate::machine::ssh::Ssh;
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::Path;

/// `keystone verify` finds the machine good, by its own questions; what it does not have is named in
/// `skipped`. It ends as docs/exit-codes.md says.
pub(super) fn verified(cx: &Context, ssh: &Ssh, report: &Path, skipped: &[&str]) -> Result<()> {
    judge(&checks(cx, ssh, report)?, skipped)
}

/// `keystone verify` finds fault by the check `name`; with what evidence.
pub(super) fn fails(cx: &Context, ssh: &Ssh, report: &Path, name: &str) -> Result<String> {
    let checks = checks(cx, ssh, report)?;
    let check = checks.iter().find(|check| check["check"] == name);
    let check = check.with_context(|| format!("keystone verify has no check {name}"))?;
    ensure!(is_failure(check), "keystone verify's {name} does not fail: {check}");
    Ok(format!("{name}: {}", check["evidence"]))
}

/// What `keystone verify` says; its exit code is what docs/exit-codes.md says of that.
fn checks(cx: &Context, ssh: &Ssh, report: &Path) -> Result<Vec<Value>> {
    let mut command = cx.keystone()?.on("verify", ssh, &cx.medium()?.key);
    command.arg("--json").arg("--expect").arg(report);
    let ended = keystone::run(command)?;
    let document: Value = serde_json::from_str(&ended.stdout)
        .with_context(|| format!("keystone verify said {}{}", ended.stdout, ended.stderr))?;
    let checks = document["checks"].as_array().context("checks")?.clone();
    // None is left out here: on a slow emulator it may be the times that fail.
    let failed: Vec<&Value> = checks.iter().filter(|check| is_failure(check)).collect();
    let code = i32::from(!failed.is_empty());
    ensure!(
        ended.code == Some(code),
        "keystone verify ended with {:?}, not {code}; failed: {failed:?}",
        ended.code
    );
    Ok(checks)
}

/// Whether a check is one that makes the verification fail.
fn is_failure(check: &Value) -> bool {
    check["outcome"] == "fail" && check["required"] == true
}

/// Each check passed, but for those named in `skipped`, which were left out. How fast it started is
/// shown, and not asked of a machine whose processor is emulated.
pub(super) fn judge(checks: &[Value], skipped: &[&str]) -> Result<()> {
    let mut bad = Vec::new();
    for check in checks {
        let name = check["check"].as_str().context("a check has a name")?;
        println!("    {name}: {} - {}", check["outcome"], check["evidence"]);
        let wanted = if skipped.contains(&name) { "skip" } else { "pass" };
        if check["outcome"] != wanted && !["boot-time", "ssh-time"].contains(&name) {
            bad.push(check);
        }
    }
    ensure!(checks.len() >= 15 && bad.is_empty(), "keystone verify: {bad:?}");
    Ok(())
}
