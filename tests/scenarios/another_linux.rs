//! All phases by one command: from a running Debian that uses the disk, as somebody who is not root
//! there, into the installer by kexec, and from there to the installed system, which boots from that
//! disk and has what the operator gave it and the host key that the machine had from the beginning.
//! Without `--erase` the Debian goes on running.

use super::{phases, steps};
use crate::installer::running::{HOSTNAME, PASSWORD, USER};
use crate::keystone;
use crate::lab::timed;
use crate::machine::disk::Disk;
use crate::machine::{Hardware, arguments};
use crate::runner::{Context, Live};
use anyhow::{Result, ensure};
use std::fs;

/// Exit code: docs/exit-codes.md.
const NOT_CONFIRMED: i32 = 67;

/// What the running system does with the disk.
const USE: &str = "mkfs.ext4 -q /dev/disk/by-id/virtio-target && \
    mount /dev/disk/by-id/virtio-target /srv && echo in use > /srv/data && sync";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.debian()?;
    let image = cx.kexec_image()?.display().to_string();
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let sudo = files.path("sudo-password");
    fs::write(&sudo, PASSWORD)?;
    let extra = files.path("extra");
    phases::operators_files(&extra)?;

    let hardware = Hardware::new("another-linux").disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let host_key = ssh.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?;
    ssh.ok(USE)?;

    let port = ssh.port().to_string();
    let mut words = [files.outputs(), phases::additions(&extra)].concat();
    let more = [
        ["--kexec", &image],
        ["--post-kexec-ssh-port", &port],
        ["--sudo-password-file", &sudo.display().to_string()],
        ["--end-system", HOSTNAME],
        ["--disk-id", "virtio-target"],
    ];
    words.extend(more.concat().into_iter().map(str::to_owned));
    words.extend(["--yes", "--json", "-v"].map(str::to_owned));
    let boot_id = || ssh.ok("cat /proc/sys/kernel/random/boot_id");
    let before = boot_id()?;
    let command = cx.keystone()?.command_as(USER, "install", &request, &steps::words(&words));
    keystone::run(command)?.refused(NOT_CONFIRMED, &["virtio-target", "not blank", "--erase"])?;
    ensure!(boot_id()? == before, "what ran has ended, and nothing was agreed to");
    words.push("--erase".to_owned());

    let arguments = files.path("arguments");
    let watching = arguments::watch(&ssh, fs::File::create(&arguments)?)?;
    let ended = timed("kexec, disko, install, reboot", || {
        let command = cx.keystone()?.command_as(USER, "install", &request, &steps::words(&words));
        keystone::run(command)?.ok()
    })?;
    drop(watching);
    let seen = String::from_utf8_lossy(&fs::read(&arguments)?).into_owned();
    ensure!(seen.contains("kexec/run"), "the image's program was not seen, so nothing was");
    let report = files.report()?;
    let report_text = report.to_string();
    for (what, text) in [
        ("arguments and environments", &seen),
        ("output", &ended.stdout),
        ("log", &ended.stderr),
        ("report", &report_text),
    ] {
        files.no_secret_in(what, text)?;
        ensure!(!text.contains(PASSWORD), "the password of sudo is in the {what}");
        ensure!(!text.contains(phases::SECRET), "the operator's secret is in the {what}");
    }

    let ssh = steps::rebooted(&running, &medium, toplevel, &files)?;
    phases::additions_are_there(&ssh, &host_key)?;
    running.kill()
}
