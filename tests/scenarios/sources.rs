//! A closure from elsewhere than a store on the operator's computer: a binary cache that the machine
//! fetches itself, and a bundle.
//!
//! What the operator's computer knows as one port of the cache is the other one for the machine, so that
//! the cache can tell who asked.

use super::installed::check_store;
use super::steps;
use super::verified::judge;
use crate::keystone::{self, Ended};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use crate::web::Web;
use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Exit code: docs/exit-codes.md.
const NOT_VERIFIED: i32 = 77;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let system = cx.system()?;
    let toplevel = &system.toplevels.reference;
    let cache = system.binary_cache(cx.lab(), toplevel)?;
    let web = timed("serve the binary cache", || Web::serve(&cache.image))?;
    let medium = cx.medium()?;
    let files = steps::Files::new()?;
    let bundle = files.path("system.ksb");
    timed("make a bundle", || {
        let mut command = Command::new(&cx.keystone()?.controller);
        command.args(["bundle", toplevel, "--level", "3", "--store"]).arg(&system.root);
        command.arg("--output").arg(&bundle);
        keystone::run(command)?.ok()
    })?;

    let hardware = Hardware::new("sources").memory(4096).disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let layout = cx.layout("single-disk-root.json");
    let install = |from: &str, more: &[&str]| -> Result<Ended> {
        let mut command = cx.keystone()?.on("install", &ssh, &medium.key);
        command.args(["--store-path", toplevel, "--from", from, "--layout"]).arg(&layout);
        command.args(["--yes", "--disk-id", "virtio-target", "--json"]).args(files.outputs());
        command.args(more);
        keystone::run(command)
    };

    let forward = ssh.forward(web.ports[0], web.ports[1])?;
    let from = format!("http://127.0.0.1:{}", web.ports[0]);
    timed("install what the machine fetches itself", || {
        let fetch = ["--fetch", "on-target", "--no-reboot"];
        let signed = ["--require-signatures", &cache.public_key];
        install(&from, &[&fetch[..], &signed[..]].concat())?.ok()
    })?;
    let [here, there] = web.asked_for_nars()?;
    let paths = system.closure(toplevel)?.len();
    println!("    of {paths} paths {there} were fetched by the machine, {here} read here before");
    // What the plan depends on is read here: the system's own files, its kernel, its settings.
    ensure!(here * 10 < paths, "{here} paths were asked for here");
    ensure!(there >= paths, "the machine fetched {there} of {paths} paths");
    drop(forward);
    files.forget();

    let ended = timed("install over it from the bundle, reboot, verify", || {
        install(&bundle.display().to_string(), &["--erase", "--verify"])
    })?;
    let lines = ended.lines()?;
    let checks = lines.iter().find(|line| line["event"] == "checks");
    let checks = checks.and_then(|line| line["verified"]["checks"].as_array());
    let checks = checks
        .with_context(|| format!("no checks were made:\n{}{}", ended.stdout, ended.stderr))?;
    judge(checks, &[])?;
    let failed = checks.iter().any(|check| check["outcome"] == "fail" && check["required"] == true);
    let code = if failed { NOT_VERIFIED } else { 0 };
    ensure!(ended.code == Some(code), "it ended with {:?}", ended.code);

    let ssh = steps::rebooted(&running, &medium, toplevel, &files)?;
    check_store(&ssh, system, toplevel)?;
    running.kill()
}
