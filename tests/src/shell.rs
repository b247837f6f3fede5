//! `cargo lab shell`: the live system on a machine with blank disks, to look around in.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    installer::{self, Variant},
    lab::{Lab, timed},
    machine::{Hardware, Machine, disk::Disk},
};

/// Boots the live system, runs `command` in it or gives a shell, and ends the machine.
///
/// # Errors
/// The medium could not be built or did not come up within five minutes.
pub fn shell(lab: &Lab, variant: Variant, command: &[String]) -> Result<()> {
    let medium = installer::medium(lab, variant)?;
    let hardware =
        Hardware::new("shell").disk(Disk::blank("target", 24)).disk(Disk::blank("spare", 24)).tpm();
    let mut machine = Machine::new(hardware)?;
    let mut running = machine.start(Some(&medium.image))?;
    let ssh = running.ssh(&medium.key)?;
    timed("boot to SSH", || running.wait_ssh(&ssh, Duration::from_secs(300)))?;
    if command.is_empty() {
        let status = Command::new("ssh")
            .args(["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", ssh.known_hosts().display()))
            .arg("-i")
            .arg(&medium.key)
            .args(["-p", &ssh.port().to_string(), "root@127.0.0.1"])
            .status()?;
        eprintln!("lab: the shell ended with {status}");
    } else {
        print!("{}", ssh.ok(&command.join(" "))?);
    }
    running.kill()
}
