//! All phases by one command: from a running Debian, as somebody who is not root there, into the
//! installer by kexec, and from there to the installed system, which boots from the same disk and
//! has what the operator gave it and the host key that the machine had from the beginning.

use super::installed::Installed;
use super::{BOOT, phases, steps};
use crate::installer::running::{HOSTNAME, PASSWORD, USER};
use crate::lab::timed;
use crate::machine::{Hardware, arguments};
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;

/// The longest that what follows the boot may take: that `keystone` sees the system and ends.
const END: Duration = Duration::from_secs(600);

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.debian()?;
    let image = cx.kexec_image()?.display().to_string();
    let layout = cx.layout("single-disk-root.json");
    let keystone = cx.keystone()?;
    let files = steps::Files::new()?;
    let sudo = files.path("sudo-password");
    fs::write(&sudo, PASSWORD)?;
    let extra = files.path("extra");
    phases::operators_files(&extra)?;

    let hardware = Hardware::new("another-linux").disk(Disk::blank("target", 24)).tpm();
    let Live { mut running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let host_key = ssh.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?;

    let port = ssh.port().to_string();
    let mut words = [files.outputs(), files.password(), phases::additions(&extra)].concat();
    let more = [
        ["--kexec", &image],
        ["--post-kexec-ssh-port", &port],
        ["--sudo-password-file", &sudo.display().to_string()],
        ["--end-system", HOSTNAME],
        ["--disk-id", "virtio-target"],
    ];
    words.extend(more.concat().into_iter().map(str::to_owned));
    words.extend(["--yes", "--json", "-v"].map(str::to_owned));
    let arguments = files.path("arguments");
    let watching = arguments::watch(&ssh, fs::File::create(&arguments)?)?;
    let ended = timed("kexec, disko, install, reboot", || {
        let command = keystone.command_as(USER, "install", &request, &steps::words(&words));
        let mut started = keystone.start(command)?;
        // Without the firmware's variables the disk can't be put before the medium.
        started.wait_for(&["\"progress\"", "\"closure\""], 2 * BOOT)?;
        running.eject_medium()?;
        // What is left of firmware and TPM after a jump is not enough for `auto`: see docs/kexec.md.
        running.serial.wait_for(steps::PROMPT, &[], 4 * BOOT)?;
        std::thread::sleep(Duration::from_secs(1));
        running.serial.type_secret(steps::PASSWORD)?;
        started.end(END)?.ok()
    })?;
    drop(watching);
    let seen = String::from_utf8_lossy(&fs::read(&arguments)?).into_owned();
    ensure!(seen.contains("kexec/run"), "the image's program was not seen, so nothing was");
    ensure!(!seen.contains(PASSWORD), "sudo's password was among arguments or environments");
    for (what, text) in [("output", &ended.stdout), ("log", &ended.stderr)] {
        files.no_secret_in(what, text)?;
        ensure!(!text.contains(PASSWORD), "the password of sudo is in the {what}");
    }

    let report = files.report()?;
    ensure!(report["ends_at"] == "verified", "the report ends at {}", report["ends_at"]);
    let ssh = running.ssh(&medium.key)?;
    Installed { ssh: &ssh, toplevel, report: &report, unlock: "password" }.check()?;
    phases::additions_are_there(&ssh, &host_key)?;
    running.kill()
}
