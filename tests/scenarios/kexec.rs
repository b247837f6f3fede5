//! From a running Debian into the installer by kexec, as somebody who is not root there and needs a
//! password for it.

use super::steps;
use crate::installer::running::{HOSTNAME, PASSWORD, USER};
use crate::keystone;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Result, ensure};
use std::fs;

/// Exit codes: docs/exit-codes.md.
const TARGET_UNFIT: i32 = 66;
const NOT_CONFIRMED: i32 = 67;

/// What a machine is known by, and reached at.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    machine_id: String,
    host_key: String,
    addresses: String,
    route: String,
}

impl Identity {
    fn of(ssh: &Ssh) -> Result<Identity> {
        let addresses = "ip -o -4 addr show scope global | awk '{print $4}' | sort";
        Ok(Identity {
            machine_id: ssh.ok("cat /etc/machine-id")?,
            host_key: ssh.ok("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")?,
            addresses: ssh.ok(addresses)?,
            route: ssh.ok("ip route show 198.51.100.0/24 | awk '{print $1, $3}'")?,
        })
    }
}

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.debian()?;
    let image = cx.kexec_image()?.display().to_string();
    let layout = cx.layout("single-disk-root.json");
    let keystone = cx.keystone()?;
    let files = steps::Files::new()?;
    let password = files.path("sudo-password");
    fs::write(&password, PASSWORD)?;
    let password = password.display().to_string();

    let hardware = Hardware::new("kexec").disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let port = ssh.port().to_string();
    // What no DHCP server gives.
    ssh.ok("d=$(ls -d /sys/class/net/*/device | head -n 1 | cut -d/ -f5); ip addr add 192.0.2.77/24 dev $d && ip route add 198.51.100.0/24 via 192.0.2.1 dev $d")?;
    let before = Identity::of(&ssh)?;
    let boot = ssh.ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(before.addresses.contains("192.0.2.77/24"), "{before:?}");

    let kexec = |more: &[&str]| {
        let mut all = vec!["--phases", "kexec", "--sudo-password-file", &password];
        all.extend(["--post-kexec-ssh-port", &port]);
        all.extend(more);
        keystone::run(keystone.command_as(USER, "install", &request, &all))
    };
    kexec(&[])?.refused(TARGET_UNFIT, &["Debian", "--kexec FILE|URL"])?;
    kexec(&["--kexec", &image])?.refused(NOT_CONFIRMED, &[HOSTNAME, "--yes --end-system"])?;
    let other = ["--kexec", &image, "--yes", "--end-system", "web2"];
    kexec(&other)?.refused(NOT_CONFIRMED, &["web2", HOSTNAME])?;
    ensure!(ssh.ok("cat /proc/sys/kernel/random/boot_id")? == boot, "the machine was restarted");

    let ended = timed("phase kexec", || {
        let agreed = ["--kexec", &image, "--kexec-extra-flags", "--no-sync", "--yes"];
        kexec(&[&agreed[..], &["--end-system", HOSTNAME, "--json"]].concat())?.ok()
    })?;
    for text in [&ended.stdout, &ended.stderr] {
        ensure!(!text.contains(PASSWORD), "the password is in the output");
    }
    ensure!(ended.stdout.contains("machine will boot into nixos"), "{}", ended.stdout);
    // The same connection's file of known hosts: the host key is the one of before.
    ensure!(ssh.ok("cat /proc/sys/kernel/random/boot_id")? != boot, "the machine was not booted");
    ensure!(ssh.ok(". /etc/os-release; echo $VARIANT_ID")? == "installer", "no installer runs");
    ensure!(ssh.ok("hostname")? == "keystone-installer", "another system runs");
    let after = Identity::of(&ssh)?;
    ensure!(after == before, "it was {before:?}, and is {after:?}");

    // The phase is over, and says so.
    let again =
        keystone.run("install", &request, &["--phases", "kexec", "--kexec", &image])?.ok()?;
    ensure!(again.stderr.contains("nothing to do for kexec"), "{}", again.stderr);

    // The other phases can begin: the agent runs there and makes a plan. What of the firmware and
    // the TPM is left after a jump, decides what `auto` takes.
    let plan = keystone.plan(&request, &[])?;
    println!("    after a kexec: {}", plan["containers"][0]["reason"]);
    let outputs = [files.outputs(), files.password()].concat();
    timed("phase disko", || {
        keystone.install(&request, &["--phases", "disko"], &steps::words(&outputs))?.ok()
    })?;
    ensure!(files.report()?["ends_at"] == "mounted", "the report does not end with the mounts");
    let report = ["--report".to_owned(), files.path("report").display().to_string()];
    timed("phase install", || {
        keystone.install(&request, &["--phases", "install"], &steps::words(&report))?.ok()
    })?;
    ensure!(files.report()?["ends_at"] == "sealed", "the report does not end with the seal");
    ensure!(ssh.run("findmnt /mnt")?.status.code() == Some(1), "something is mounted still");
    running.kill()
}
