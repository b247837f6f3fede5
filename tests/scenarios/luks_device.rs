//! Containers on a block device, with the kernel's device-mapper, udev and TPM around them, and
//! opened by the program that opens them at boot.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::{
    machine::{Hardware, disk::Disk, ssh::Ssh},
    native,
    runner::{Context, Live},
};

/// The container's disk.
const DISK: &str = "/dev/disk/by-id/virtio-container";

/// What opens containers at boot.
const ATTACH: &str = "/usr/lib/systemd/systemd-cryptsetup attach boot";

struct Guest<'a> {
    ssh: &'a Ssh,
}

impl Guest<'_> {
    /// What the agent's side says.
    fn ours(&self, arguments: &str) -> Result<String> {
        self.ssh.ok(&format!("cd /run/luks && ./luks {arguments}"))
    }

    /// What the agent's side says to explain that it does not.
    fn refused(&self, arguments: &str) -> Result<String> {
        let output = self.ssh.run(&format!("cd /run/luks && ./luks {arguments}"))?;
        ensure!(!output.status.success(), "`luks {arguments}` was not refused");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The mappers that the kernel has.
    fn mappers(&self) -> Result<String> {
        self.ssh.ok("cat /sys/block/dm-*/dm/name 2>/dev/null; true")
    }
}

/// Formatted, opened, enrolled, closed; then opened by systemd through the TPM.
pub(super) fn run(context: &Context) -> Result<()> {
    let example = example(context)?;
    let hardware = Hardware::new("luks").memory(3072).tpm();
    let disk = Disk { size: 100 << 20, ..Disk::blank("container", 1) };
    let live = Live::boot(hardware.disk(disk), &context.oracle()?)?;
    let guest = Guest { ssh: &live.ssh };
    live.ssh.ok(
        "mkdir -m 0700 /run/luks && cd /run/luks && umask 077 && head -c 32 /dev/urandom > key \
         && printf 'correct horse battery' > password",
    )?;
    live.ssh.put(&example, "/run/luks/luks")?;
    opened_and_closed(&guest).context("opening and closing")?;
    held_open(&guest).context("closing what is in use")?;
    enrolled(&guest).context("enrolling")?;
    opened_by_systemd(&guest).context("opening by systemd")
}

fn example(context: &Context) -> Result<PathBuf> {
    native::build_example(&native::ensure(context.lab().cache())?, "luks")
}

fn opened_and_closed(guest: &Guest<'_>) -> Result<()> {
    ensure!(guest.ours(&format!("format {DISK} key"))? == "Created");
    let opened = guest.ours(&format!("open {DISK} credstore key"))?;
    ensure!(opened.starts_with("Created /dev/dm-"), "{opened}");
    let again = guest.ours(&format!("open {DISK} credstore key"))?;
    ensure!(again == opened.replace("Created", "AlreadySo"), "{again}");
    let other_name = guest.refused(&format!("open {DISK} other key"))?;
    ensure!(other_name.contains("is open as /dev/mapper/credstore"), "{other_name}");
    let wrong_key = guest.refused(&format!("open {DISK} credstore password"))?;
    ensure!(wrong_key.contains("does not open"), "{wrong_key}");
    let node = opened.trim_start_matches("Created ");
    guest.ssh.ok(&format!("mkfs.ext4 -q {node} && mkdir -p /run/m && mount {node} /run/m"))?;
    guest.ssh.ok("echo kept > /run/m/file && umount /run/m")?;
    ensure!(guest.ours("close credstore")? == "Created");
    ensure!(guest.ours("close credstore")? == "AlreadySo");
    ensure!(guest.mappers()?.is_empty());
    // udevd settles on the same: no name is left.
    guest.ssh.ok("udevadm settle --timeout=60 && ! test -e /dev/mapper/credstore")?;
    Ok(())
}

fn held_open(guest: &Guest<'_>) -> Result<()> {
    let opened = guest.ours(&format!("open {DISK} credstore key"))?;
    let node = opened.trim_start_matches("Created ");
    guest.ssh.ok(&format!("mount {node} /run/m"))?;
    let mounted = guest.refused("close credstore")?;
    ensure!(mounted.contains("by the mount at /run/m"), "{mounted}");
    // Held for a while only, as by a probe: closing waits for it.
    guest.ssh.ok(&format!(
        "umount /run/m; (sleep 5 < {node}) > /dev/null 2>&1 & sleep 1; cd /run/luks && ./luks close credstore"
    ))?;
    ensure!(guest.mappers()?.is_empty());
    Ok(())
}

fn enrolled(guest: &Guest<'_>) -> Result<()> {
    ensure!(guest.ours(&format!("enroll-tpm2 {DISK} key device 7"))? == "(Created, 0)");
    ensure!(guest.ours(&format!("enroll-recovery {DISK} key recovery"))? == "1");
    ensure!(guest.ours(&format!("enroll-password {DISK} key password"))? == "(Created, 2)");
    ensure!(guest.ours(&format!("remove-bootstrap {DISK}"))? == "Created");
    let again = guest.ours(&format!("enroll-tpm2 {DISK} password device 7"))?;
    ensure!(again == "(AlreadySo, 0)", "{again}");
    Ok(())
}

fn opened_by_systemd(guest: &Guest<'_>) -> Result<()> {
    let by_tpm = format!("{ATTACH} {DISK} - tpm2-device=auto,tpm2-measure-pcr=yes,headless=1");
    guest.ssh.ok(&by_tpm)?;
    let kept = guest.ssh.ok("mount /dev/mapper/boot /run/m && cat /run/m/file && umount /run/m")?;
    ensure!(kept == "kept", "{kept}");
    ensure!(guest.ours("close boot")? == "Created");
    for key in ["recovery", "password"] {
        guest.ssh.ok(&format!("{ATTACH} {DISK} /run/luks/{key} headless=1"))?;
        ensure!(guest.ours("close boot")? == "Created");
    }
    // With another state of the machine the TPM keeps it to itself.
    let digest = "42".repeat(32);
    guest.ssh.ok(&format!("tpm2_pcrextend -T device:/dev/tpmrm0 7:sha256={digest}"))?;
    let changed = guest.ssh.run(&by_tpm)?;
    ensure!(!changed.status.success(), "opened although PCR 7 changed");
    ensure!(guest.mappers()?.is_empty());
    Ok(())
}
