//! What can't be installed is refused before the first write, with a sentence that helps.

use crate::runner::{Context, Live};
use crate::keystone::{Ended, Request, run as run_command};
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::machine::Hardware;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;

/// Exit codes of `keystone`, as its help lists them.
mod code {
    pub(super) const USAGE: i32 = 64;
}

/// Runs the scenario: one machine with a blank disk, a small one and the installer's medium.
pub(super) fn run(cx: &Context) -> Result<()> {
    let hardware = Hardware::new("refusals")
        .disk(Disk::blank("target", 24))
        .disk(Disk::blank("small", 9));
    let medium = cx.medium()?;
    let Live { running, machine, ssh } = Live::boot(hardware, &medium)?;
    let layout = cx.layout("single-disk-root.json");
    let before = fingerprint(&ssh)?;
    let system = cx.system()?;
    let toplevels = &system.toplevels;
    let request = |toplevel| Request {
        ssh: &ssh,
        key: &medium.key,
        store: &system.root,
        toplevel,
        layout: &layout,
    };
    let reference = request(&toplevels.reference);

    // Read by the controller before it connects.
    for (toplevel, words) in [
        (&toplevels.not_nixos, &["not a NixOS system"][..]),
        (&toplevels.no_switch, &["switch-to-configuration"]),
        (&toplevels.no_hostid, &["hostid"]),
        (&toplevels.outside_closure, &["boot.json", "closure"]),
        (&toplevels.other_device, &["fstab", "/boot"]),
    ] {
        expect(cx, &request(toplevel), &[], words)?;
    }
    // Read on the machine.
    expect(cx, &request(&toplevels.other_architecture), &[], &["aarch64-linux", "x86_64-linux"])?;
    expect(cx, &reference, &["--disk", "root=virtio-small"], &["is too small"])?;
    expect(cx, &reference, &["--disk", "root=virtio-nowhere"], &["virtio-nowhere", "virtio-target"])?;
    expect(cx, &reference, &["--disk", "root=virtio-keystone-installer"], &["installer"])?;
    expect(cx, &reference, &["--unlock", "tpm2"], &["TPM"])?;

    let files = tempfile::tempdir()?;
    let unknown = edited(&layout, &files.path().join("unknown.json"), "\"type\": \"gpt\"", "\"type\": \"gtp\"")?;
    expect(cx, &Request { layout: &unknown, ..reference.clone() }, &[], &["gtp", "disk.root.content"])?;

    // A password that can't be read, one that is too short, and no source at all.
    let short = files.path().join("short");
    fs::write(&short, "short\n")?;
    let recovery = files.path().join("recovery").display().to_string();
    let plan = cx.keystone()?.plan(&reference, &[])?;
    let hash = plan["hash"].as_str().context("a plan has a hash")?;
    for (password, word) in [("/nonexistent", "/nonexistent"), (short.to_str().unwrap_or_default(), "12")] {
        let arguments =
            ["--yes", "--plan-hash", hash, "--password-file", password, "--recovery-key-file", &recovery];
        refused(&cx.keystone()?.run("install", &reference, &arguments)?, &[word])?;
    }
    let arguments = ["--yes", "--plan-hash", hash, "--recovery-key-file", &recovery];
    refused(&cx.keystone()?.run("install", &reference, &arguments)?, &["password"])?;
    // A plan that is not the one of now.
    let other = "0".repeat(64);
    let long = files.path().join("long").display().to_string();
    fs::write(&long, super::steps::PASSWORD)?;
    let arguments = ["--yes", "--plan-hash", &other, "--recovery-key-file", &recovery, "--password-file", &long];
    refused(&cx.keystone()?.run("install", &reference, &arguments)?, &["plan"])?;
    // Options that are none.
    run_command(cx.keystone()?.command("install", &reference, &["--no-such-option"]))?
        .refused(code::USAGE, &["--no-such-option"])?;

    without_uefi(cx, &reference)?;
    without_zfs(cx, &reference)?;
    changed_host_key(cx, &ssh)?;
    ensure!(fingerprint(&ssh)? == before, "a refusal wrote to a disk");
    ssh.ok("test -z \"$(ls /run | grep keystone-agent)\"")?;
    running.kill()?;
    drop(machine);
    unreachable_host(cx, &ssh)
}

/// The plan is refused, with these words and without a backtrace of ours.
fn expect(cx: &Context, request: &Request<'_>, more: &[&str], words: &[&str]) -> Result<()> {
    let ended = cx.keystone()?.run("plan", request, more)?;
    refused(&ended, words).with_context(|| format!("planning {} with {more:?}", request.toplevel))
}

fn refused(ended: &Ended, words: &[&str]) -> Result<()> {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(!matches!(ended.code, Some(0) | None), "not refused: {said}");
    let missing: Vec<&&str> = words.iter().filter(|word| !said.contains(**word)).collect();
    ensure!(missing.is_empty(), "refused without a word of {missing:?}:\n{said}");
    ensure!(!said.contains("panicked"), "{said}");
    let error = ended.stderr.lines().find(|line| line.starts_with("error"));
    println!("    refused: {}", error.unwrap_or_default());
    Ok(())
}

/// As on a machine that was booted by its BIOS: the kernel shows no EFI.
fn without_uefi(cx: &Context, request: &Request<'_>) -> Result<()> {
    request.ssh.ok("mount -t tmpfs none /sys/firmware")?;
    expect(cx, request, &[], &["UEFI"])?;
    request.ssh.ok("umount /sys/firmware").map(drop)
}

/// As on an installer that was built without ZFS.
fn without_zfs(cx: &Context, request: &Request<'_>) -> Result<()> {
    request.ssh.ok(
        "set -e; mount -t tmpfs none /lib/modules; \
         for m in zfs spl; do if test -d /sys/module/$m; then rmmod $m; fi; done",
    )?;
    expect(cx, request, &[], &["ZFS", "module"])?;
    request.ssh.ok("umount /lib/modules").map(drop)
}

/// The installer answers with another key than the one that was pinned.
fn changed_host_key(cx: &Context, ssh: &Ssh) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let other = dir.path().join("other");
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&other)
        .status()
        .context("running ssh-keygen: install openssh-client")?;
    ensure!(status.success(), "ssh-keygen ended with {status}");
    let public = fs::read_to_string(other.with_extension("pub"))?;
    let pinned = fs::read_to_string(ssh.known_hosts())?;
    fs::write(ssh.known_hosts(), format!("[127.0.0.1]:{} {public}", ssh.port()))?;
    let ended = run_command(cx.keystone()?.on("inventory", ssh, &cx.medium()?.key))?;
    fs::write(ssh.known_hosts(), pinned)?;
    refused(&ended, &["host key"])
}

/// Nobody answers.
fn unreachable_host(cx: &Context, ssh: &Ssh) -> Result<()> {
    let mut command = cx.keystone()?.on("inventory", ssh, &cx.medium()?.key);
    command.args(["--connect-timeout", "5"]);
    refused(&run_command(command)?, &["127.0.0.1"])
}

/// What the first and last MiB of all disks hold.
fn fingerprint(ssh: &Ssh) -> Result<String> {
    ssh.ok(
        "for d in /dev/vd?; do s=$(blockdev --getsize64 $d); \
         { head -c 1048576 $d; tail -c 1048576 $d; } | sha256sum; echo $s; done",
    )
}

/// A copy of a document with one word changed.
fn edited(from: &Path, to: &Path, old: &str, new: &str) -> Result<std::path::PathBuf> {
    let text = fs::read_to_string(from)?;
    ensure!(text.contains(old), "{} does not say {old}", from.display());
    fs::write(to, text.replacen(old, new, 1))?;
    Ok(to.to_owned())
}
