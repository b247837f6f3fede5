//! What can't be installed is refused before the first write, with a sentence that helps.

use crate::keystone::{Request, run as run_command};
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;

/// Exit codes of `keystone`: docs/exit-codes.md.
mod code {
    pub(super) const USAGE: i32 = 64;
    pub(super) const CLOSURE: i32 = 65;
    pub(super) const TARGET_UNFIT: i32 = 66;
    pub(super) const NOT_CONFIRMED: i32 = 67;
    pub(super) const UNREACHABLE: i32 = 68;
    pub(super) const SSH_REFUSED: i32 = 69;
}

/// Runs the scenario: one machine with a blank disk, a small one, one that somebody uses, and the
/// installer's medium.
pub(super) fn run(cx: &Context) -> Result<()> {
    let hardware = Hardware::new("refusals")
        .disk(Disk::blank("target", 24))
        .disk(Disk::blank("small", 9))
        .disk(Disk::blank("used", 24));
    let medium = cx.medium()?;
    let Live { running, machine, ssh } = Live::boot(hardware, &medium)?;
    let layout = cx.layout("single-disk-root.json");
    ssh.ok("mkfs.ext4 -q -L photos /dev/disk/by-id/virtio-used")?;
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
        expect(cx, &request(toplevel), &[], code::CLOSURE, words)?;
    }
    // Read on the machine.
    let other = request(&toplevels.other_architecture);
    expect(cx, &other, &[], code::CLOSURE, &["aarch64-linux", "x86_64-linux"])?;
    for (disk, words) in [
        ("virtio-small", &["is too small"][..]),
        ("virtio-nowhere", &["virtio-nowhere", "virtio-target"]),
        ("virtio-keystone-installer", &["was booted from"]),
    ] {
        let disk = format!("root={disk}");
        expect(cx, &reference, &["--disk", &disk], code::TARGET_UNFIT, words)?;
    }
    expect(cx, &reference, &["--unlock", "tpm2"], code::TARGET_UNFIT, &["TPM"])?;
    // Agreed to is not yet that what is there may go.
    let used = ["--yes", "--disk", "root=virtio-used", "--disk-id", "virtio-used"];
    cx.keystone()?
        .run("install", &reference, &used)?
        .refused(code::NOT_CONFIRMED, &["photos", "--erase"])?;

    let files = tempfile::tempdir()?;
    let unknown = edited(
        &layout,
        &files.path().join("unknown.json"),
        "\"type\": \"gpt\"",
        "\"type\": \"gtp\"",
    )?;
    let request = Request { layout: &unknown, ..reference.clone() };
    expect(cx, &request, &[], code::CLOSURE, &["gtp", "disk.root.content"])?;

    // A password that can't be read, one that is too short, and no source at all.
    let short = files.path().join("short");
    fs::write(&short, "short\n")?;
    let recovery = files.path().join("recovery").display().to_string();
    let plan = cx.keystone()?.plan(&reference, &[])?;
    let hash = plan["hash"].as_str().context("a plan has a hash")?;
    let install = |more: &[&str], code, words: &[&str]| {
        let fixed = ["--yes", "--recovery-key-file", &recovery, "--plan-hash"];
        cx.keystone()?
            .run("install", &reference, &[&fixed[..], more].concat())?
            .refused(code, words)
    };
    let short = short.display().to_string();
    install(&[hash, "--password-file", "/nonexistent"], code::NOT_CONFIRMED, &["/nonexistent"])?;
    install(&[hash, "--password-file", &short], code::NOT_CONFIRMED, &["it needs at least 12"])?;
    install(&[hash], code::NOT_CONFIRMED, &["no terminal to ask for it"])?;
    // A plan that is not the one of now.
    let other = "0".repeat(64);
    let long = files.path().join("long").display().to_string();
    fs::write(&long, super::steps::PASSWORD)?;
    install(
        &[&other, "--password-file", &long],
        code::NOT_CONFIRMED,
        &["the plan's hash is", &other],
    )?;
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

/// An installation that was agreed to is refused, with this exit code and an error with these
/// words. No recovery key is left on the operator's computer.
fn expect(
    cx: &Context,
    request: &Request<'_>,
    more: &[&str],
    code: i32,
    words: &[&str],
) -> Result<()> {
    let files = tempfile::tempdir()?;
    let recovery = files.path().join("recovery-key").display().to_string();
    let agreed = ["--yes", "--disk-id", "virtio-target", "--recovery-key-file", &recovery];
    let ended = cx.keystone()?.run("install", request, &[&agreed, more].concat())?;
    ended
        .refused(code, words)
        .with_context(|| format!("installing {} with {more:?}", request.toplevel))?;
    ensure!(!std::path::Path::new(&recovery).exists(), "a refusal made a recovery key's file");
    Ok(())
}

/// As on a machine that was booted by its BIOS: the kernel shows no EFI.
fn without_uefi(cx: &Context, request: &Request<'_>) -> Result<()> {
    request.ssh.ok("mount -t tmpfs none /sys/firmware")?;
    expect(cx, request, &[], code::TARGET_UNFIT, &["UEFI"])?;
    request.ssh.ok("umount /sys/firmware").map(drop)
}

/// As on an installer that was built without ZFS.
fn without_zfs(cx: &Context, request: &Request<'_>) -> Result<()> {
    request.ssh.ok("set -e; mount -t tmpfs none /lib/modules; \
         for m in zfs spl; do if test -d /sys/module/$m; then rmmod $m; fi; done")?;
    expect(cx, request, &[], code::TARGET_UNFIT, &["ZFS", "module"])?;
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
    ended.refused(code::SSH_REFUSED, &["the host key of", "has changed"])
}

/// Nobody answers.
fn unreachable_host(cx: &Context, ssh: &Ssh) -> Result<()> {
    let mut command = cx.keystone()?.on("inventory", ssh, &cx.medium()?.key);
    command.args(["--connect-timeout", "5"]);
    run_command(command)?.refused(code::UNREACHABLE, &["can't reach 127.0.0.1"])
}

/// What the first and last MiB of all disks hold, and how much was written to each since the
/// machine started (`Documentation/block/stat.rst`).
fn fingerprint(ssh: &Ssh) -> Result<String> {
    ssh.ok("for d in /dev/vd?; do s=$(blockdev --getsize64 $d); \
         { head -c 1048576 $d; tail -c 1048576 $d; } | sha256sum; echo $s; \
         awk '{ print $5, $7 }' /sys/block/${d#/dev/}/stat; done")
}

/// A copy of a document with one word changed.
fn edited(from: &Path, to: &Path, old: &str, new: &str) -> Result<std::path::PathBuf> {
    let text = fs::read_to_string(from)?;
    ensure!(text.contains(old), "{} does not say {old}", from.display());
    fs::write(to, text.replacen(old, new, 1))?;
    Ok(to.to_owned())
}
