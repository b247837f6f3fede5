//! Key files of a container that the operator has, one of them in a pipe: they open it. On the
//! machine they are not at the paths that the layout names, among no arguments and environments, and
//! not in the journal; here they are not in the output, the log and the report.

use super::steps;
use crate::keystone;
use crate::lab::timed;
use crate::machine::disk::Disk;
use crate::machine::{Hardware, arguments};
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// What the layout names, and what is in it.
const KEYS: [(&str, &str); 2] = [
    ("/tmp/disk-1.key", "super-secret-of-a-file"),
    ("/tmp/disk-2.key", "another-secret-of-a-pipe"),
];

/// The container.
const PARTITION: &str = "/dev/disk/by-partlabel/disk-root-root";

/// Exit codes: docs/exit-codes.md.
const USAGE: i32 = 64;
const TARGET_UNFIT: i32 = 66;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.os_ext4_single;
    let medium = cx.oracle()?;
    let files = steps::Files::new()?;
    let document = fs::read_to_string(cx.layout("os-ext4-single.json"))?;
    let mut document: Value = serde_json::from_str(&document)?;
    let container = document
        .pointer_mut("/disk/root/content/partitions/root/content")
        .context("the layout's container")?;
    container["settings"] = json!({ "keyFile": KEYS[0].0 });
    container["additionalKeyFiles"] = json!([KEYS[1].0]);
    container["passwordFile"] = Value::Null;
    let layout = files.path("layout.json");
    fs::write(&layout, document.to_string())?;
    let file = files.path("disk-1.key");
    fs::write(&file, KEYS[0].1)?;

    let hardware = Hardware::new("disk-keys").disk(Disk::blank("a", 24));
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let report = files.path("report").display().to_string();
    let file = file.display().to_string();
    let agreed = ["--phases", "disko", "--yes", "--disk-id", "virtio-a", "--report", &report];
    let one = [&agreed[..], &["--disk-encryption-keys", KEYS[0].0, &file]].concat();

    // One that is asked for and not given, and one that is not asked for.
    cx.keystone()?.run("install", &request, &one)?.refused(TARGET_UNFIT, &[KEYS[1].0])?;
    let other = [&one[..], &["--disk-encryption-keys", "/tmp/disk-3.key", &file]].concat();
    cx.keystone()?.run("install", &request, &other)?.refused(USAGE, &["/tmp/disk-3.key"])?;

    arguments::start(&ssh)?;
    let ended = timed("phase disko, a key from a file and one from a pipe", || {
        let command = cx.keystone()?.command("install", &request, &one);
        let piped = format!(
            "exec \"$0\" \"$@\" --disk-encryption-keys {} <(printf %s {})",
            KEYS[1].0, KEYS[1].1
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &piped]).arg(command.get_program()).args(command.get_args());
        bash.env("NO_COLOR", "1").env_remove("SSH_AUTH_SOCK");
        keystone::run(bash)?.ok()
    })?;
    let secrets = KEYS.map(|(_, secret)| secret);
    arguments::stop(&ssh, &secrets, "/keystone-agent")?;
    for (name, secret) in KEYS {
        ssh.ok_given(
            &format!("cryptsetup open --test-passphrase --key-file - {PARTITION}"),
            secret,
        )
        .with_context(|| format!("the key of {name} opens nothing"))?;
        ssh.ok(&format!("test ! -e {name}")).with_context(|| format!("{name} was written"))?;
    }
    let wrong =
        ssh.ok_given(&format!("cryptsetup open --test-passphrase --key-file - {PARTITION}"), "x");
    ensure!(wrong.is_err(), "anything opens it");
    let report = fs::read_to_string(&report)?;
    let journal = ssh.ok("cat /run/keystone/journal*")?;
    for (what, text) in [
        ("output", &ended.stdout),
        ("log", &ended.stderr),
        ("report", &report),
        ("journal", &journal),
    ] {
        ensure!(!secrets.iter().any(|secret| text.contains(secret)), "a key is in the {what}");
    }
    running.kill()
}
