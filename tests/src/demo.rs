//! `cargo lab demo`: the installer's main job, from nothing, on a virtual machine.

use crate::keystone::Request;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use crate::scenarios::installed::Installed;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::io::{IsTerminal, stdin};
use std::process::Stdio;

/// Runs the demonstration. With a terminal the machine stays until the return key is pressed.
///
/// # Errors
/// Something could not be built, installed or proved.
pub fn run(cx: &Context) -> Result<()> {
    let hardware = Hardware::new("demo").disk(Disk::blank("target", 24)).tpm();
    let medium = cx.medium()?;
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let layout = cx.layout("single-disk-root.json");
    let toplevel = &cx.system()?.toplevels.reference;
    let request = Request {
        ssh: &ssh,
        key: &medium.key,
        store: &cx.system()?.root,
        toplevel,
        layout: &layout,
    };
    let files = tempfile::tempdir()?;
    let recovery = files.path().join("recovery-key").display().to_string();
    let report = files.path().join("report.json").display().to_string();
    let plan = cx.keystone()?.plan(&request, &[])?;
    let hash = plan["hash"].as_str().context("a plan has a hash")?;
    let more =
        ["--yes", "--plan-hash", hash, "--recovery-key-file", &recovery, "--report", &report];
    let mut install = cx.keystone()?.command("install", &request, &more);
    println!("\n{install:?}\n");
    let status = install.stdin(Stdio::inherit()).status()?;
    ensure!(status.success(), "keystone install ended with {status}");

    let report: Value = serde_json::from_str(&std::fs::read_to_string(&report)?)?;
    let ssh = running.ssh(&medium.key)?;
    timed("look at the installed machine from inside", || {
        Installed { ssh: &ssh, toplevel, report: &report, unlock: "tpm2" }.check()
    })?;
    println!(
        "\nThe machine booted from its own disk, unlocked itself by its TPM, and answers SSH:\n  \
         / /nix /var on ZFS below rpool/crypt, encrypted, the credstore closed again\n  \
         one TPM slot, one recovery slot, no other; only port 22 open; no failed unit\n  \
         {}\n\nLog in:\n  ssh -i {} -o UserKnownHostsFile={} -p {} root@127.0.0.1\n",
        ssh.ok("zpool list -H -o name,size,health rpool; readlink -f /run/current-system")?
            .replace('\n', "\n  "),
        medium.key.display(),
        ssh.known_hosts().display(),
        ssh.port(),
    );
    if stdin().is_terminal() {
        println!("Press return to turn the machine off.");
        stdin().read_line(&mut String::new())?;
    }
    running.kill()
}
