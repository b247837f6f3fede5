//! An installation that was stopped, one whose agent was killed, and one over a system that is
//! installed: each time refused without consent, with words on what is there, and done with it.

use super::installed::Installed;
use super::steps;
use crate::keystone::{Ended, Request};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// How long an installation may take until a step in its middle, on a busy computer.
const BOUND: Duration = Duration::from_secs(600);

/// How long stopping may take.
const STOP: Duration = Duration::from_secs(120);

/// Exit codes: docs/exit-codes.md.
const NOT_CONFIRMED: i32 = 67;
const INTERRUPTED: i32 = 130;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let hardware = Hardware::new("again").disk(Disk::blank("target", 24)).tpm();
    let Live { running, mut machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;

    timed("stop an installation amid the closure", || stopped(cx, &request, &files))?;
    timed("kill the agent while pool and credstore are open", || killed(cx, &request, &files))?;
    refused(cx, &request, &["rpool", "credstore", "--erase"])?;
    files.forget();
    timed("install over what the killed agent left", || {
        cx.keystone()?.install(&request, &["--erase"], &steps::words(&files.outputs()))?.ok()
    })?;
    let installed_ssh = running.ssh(&medium.key)?;
    Installed { ssh: &installed_ssh, toplevel, report: &files.report()?, unlock: "tpm2" }
        .check()?;
    installed_ssh.ok("sync")?;
    running.kill()?;

    // The medium again, over the installed system, which was not shut down.
    let mut running = machine.start(Some(&medium.image))?;
    let ssh = running.ssh(&medium.key)?;
    timed("boot the installer again", || running.wait_ssh(&ssh, super::BOOT))?;
    let request = Request { ssh: &ssh, ..request };
    label_is_read(cx, &request)?;
    refused(cx, &request, &["rpool", "keystone-ref", "last written 20", "--erase"])?;
    files.forget();
    let options = [files.outputs(), vec!["--no-reboot".to_owned()]].concat();
    timed("install over the installed system", || {
        cx.keystone()?.install(&request, &["--erase"], &steps::words(&options))?.ok()
    })?;
    nothing_is_open(&ssh)?;
    running.kill()
}

/// Ctrl-C stops between two writes, says what is there and leaves nothing open.
fn stopped(cx: &Context, request: &Request<'_>, files: &steps::Files) -> Result<()> {
    let mut install =
        cx.keystone()?.start_install(request, &[], &steps::words(&files.outputs()))?;
    install.wait_for(&["\"progress\"", "\"closure\""], BOUND)?;
    install.interrupt()?;
    let ended = install.end(STOP)?;
    says(&ended, INTERRUPTED, &["rpool", "--erase"])?;
    nothing_is_open(request.ssh)?;
    refused(cx, request, &["rpool", "--erase"])?;
    files.forget();
    Ok(())
}

/// Kills the agent as soon as the credstore is open; the pool is imported then.
fn killed(cx: &Context, request: &Request<'_>, files: &steps::Files) -> Result<()> {
    request.ssh.ok(
        "nohup sh -c 'until grep -qsx credstore /sys/block/dm-*/dm/name; do sleep 0.1; done; \
         for p in /proc/[0-9]*; do read -r name < $p/comm; \
         if [ \"$name\" = keystone-agent ]; then kill -9 ${p#/proc/}; fi; done' \
         > /dev/null 2>&1 < /dev/null &",
    )?;
    let options = files.outputs();
    let install = cx.keystone()?.start_install(request, &["--erase"], &steps::words(&options))?;
    let ended = install.end(BOUND)?;
    ensure!(!matches!(ended.code, Some(0) | None), "an agent that was killed installed: {ended:?}");
    println!("    said: {}", ended.stderr.trim().replace('\n', "\n          "));
    request
        .ssh
        .ok("grep -qsx credstore /sys/block/dm-*/dm/name")
        .context("the credstore is not open")?;
    request.ssh.ok("test -d /proc/spl/kstat/zfs/rpool").context("the pool is not imported")?;
    // The step that was cut short is the journal's last word.
    let journal = request.ssh.ok("tail -n 1 /run/keystone/journal*")?;
    ensure!(journal.contains("started"), "the journal ends with {journal}");
    files.forget();
    Ok(())
}

/// The plan is refused without consent, with words on what is there.
fn refused(cx: &Context, request: &Request<'_>, words: &[&str]) -> Result<()> {
    says(&cx.keystone()?.run("plan", request, &[])?, NOT_CONFIRMED, words)
}

fn says(ended: &Ended, code: i32, words: &[&str]) -> Result<()> {
    println!("    said: {}", ended.stderr.trim().replace('\n', "\n          "));
    ended.refused(code, words)
}

fn nothing_is_open(ssh: &Ssh) -> Result<()> {
    ssh.ok("! grep -q ' /mnt' /proc/mounts").context("something is mounted below /mnt")?;
    ssh.ok("! test -d /proc/spl/kstat/zfs/rpool").context("the pool is imported")?;
    ssh.ok("! grep -qsx credstore /sys/block/dm-*/dm/name").context("the credstore is open")?;
    Ok(())
}

/// The inventory has the pool and the host that used it, and nothing was imported for it.
fn label_is_read(cx: &Context, request: &Request<'_>) -> Result<()> {
    let mut command = cx.keystone()?.on("inventory", request.ssh, request.key);
    command.arg("--json");
    let ended = crate::keystone::run(command)?.ok()?;
    let inventory: Value = serde_json::from_str(&ended.stdout).context("reading the inventory")?;
    let mut found = Vec::new();
    pools(&inventory, &mut found);
    let wanted = ("rpool".to_owned(), "keystone-ref".to_owned());
    ensure!(found.contains(&wanted), "the inventory has the pools {found:?}, not {wanted:?}");
    ssh_no_pool(request.ssh)
}

fn ssh_no_pool(ssh: &Ssh) -> Result<()> {
    ssh.ok("! test -d /proc/spl/kstat/zfs/rpool").context("taking stock imported the pool")?;
    Ok(())
}

/// Every pool and host name that members' labels name, anywhere in the document.
fn pools(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            if let (Some(Value::String(pool)), Some(Value::String(host))) =
                (map.get("pool"), map.get("hostname"))
            {
                found.push((pool.clone(), host.clone()));
            }
            map.values().for_each(|value| pools(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| pools(value, found)),
        _ => {}
    }
}
