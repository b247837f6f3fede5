//! The layouts of Keystone's later modules: installed, and booted by the TPM.

use super::installed::Installed;
use super::verified::verified;
use super::{BOOT, steps};
use crate::installer::Medium;
use crate::lab::timed;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::machine::{Hardware, Machine, Running};
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What does not depend on the names of the disk and its partitions.
const ON_ZFS: &[&str] = &[
    "system",
    "host name",
    "mounts",
    "root",
    "encryption",
    "pool",
    "credstore",
    "units",
    "slots",
    "firewall",
    "ESP",
    "report",
];

/// What does not depend on ZFS either.
const ON_EXT4: &[&str] = &["system", "host name", "units", "firewall", "ESP", "report"];

/// NixOS's name for the swap of `os-ext4-single.json`, open under a key of the boot.
const SWAP: &str = "dev-disk-byx2dpartlabel-diskx2drootx2dswap";

/// The copy of the ESP, on the second disk.
const COPY: &str = "/dev/disk/by-partlabel/disk-disk1-ESP";

/// One disk with a pool.
pub(super) fn zfs_single(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.os_zfs_single;
    let hardware = Hardware::new("os-zfs-single").disk(Disk::blank("a", 24)).tpm();
    let machine = installed(cx, hardware, "os-zfs-single.json", toplevel, &[])?;
    machine.booted()?.looked_at(ON_ZFS)?.running.kill()
}

/// ext4 in a container: no pool, no credstore.
pub(super) fn ext4_single(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.os_ext4_single;
    let hardware = Hardware::new("os-ext4-single").disk(Disk::blank("a", 24)).tpm();
    let machine = installed(cx, hardware, "os-ext4-single.json", toplevel, &[])?;
    let booted = machine.booted()?.looked_at(ON_EXT4)?;
    let ssh = &booted.ssh;
    let root = ssh.ok("findmnt -no SOURCE,FSTYPE / | tr -s ' '")?;
    ensure!(root == "/dev/mapper/cryptroot ext4", "/ is {root}");
    let status = ssh.ok("cryptsetup status cryptroot")?;
    ensure!(status.contains("LUKS2"), "what / is on:\n{status}");
    let dump = ssh.ok("cryptsetup luksDump /dev/disk/by-partlabel/disk-root-root")?;
    for token in ["systemd-tpm2", "systemd-recovery"] {
        ensure!(dump.contains(token), "no token {token}:\n{dump}");
    }
    let swapped_to = ssh.ok("swapon --show=NAME --noheadings | xargs readlink -f")?;
    let encrypted = ssh.ok(&format!("readlink -f /dev/mapper/{SWAP}; dmsetup table {SWAP}"))?;
    let (device, table) = encrypted.split_once('\n').context("the swap's mapper")?;
    ensure!(swapped_to == device, "it is swapped to {swapped_to}, not to {device}");
    ensure!(table.contains(" crypt "), "the swap is not encrypted: {table}");
    let report = tempfile::NamedTempFile::new()?;
    std::fs::write(report.path(), booted.machine.report.to_string())?;
    verified(cx, ssh, report.path(), &["pool", "credstore"])?;
    booted.running.kill()
}

/// Two disks in a mirror with `--mirror-esp`; after a second generation the first disk is taken
/// away, and the machine still boots, into that generation.
pub(super) fn zfs_mirror(cx: &Context) -> Result<()> {
    let toplevels = &cx.system()?.toplevels;
    let hardware =
        Hardware::new("os-zfs-mirror").disk(Disk::blank("a", 24)).disk(Disk::blank("b", 24)).tpm();
    let machine =
        installed(cx, hardware, "os-zfs-mirror.json", &toplevels.os_zfs_mirror, &["--mirror-esp"])?;
    let mut booted = machine.booted()?.looked_at(ON_ZFS)?;
    booted.copy_is_current()?;

    timed("a second generation", || {
        let next = toplevels.os_zfs_mirror_next.as_str();
        let mut copy = cx.keystone()?.on("copy", &booted.ssh, &booted.machine.medium.key);
        copy.arg("--store").arg(&cx.system()?.root).args(["--store-path", next, "--root", "/"]);
        crate::keystone::run(copy)?.ok()?;
        booted.ssh.ok(&format!(
            "nix-env -p /nix/var/nix/profiles/system --set {next} && {next}/bin/switch-to-configuration boot"
        ))?;
        booted.copy_is_current()
    })?;
    timed("turned off", || {
        let _ = booted.ssh.run("systemctl poweroff");
        booted.running.wait_exit(BOOT)
    })?;

    booted.machine.machine.remove_disk("a");
    booted.machine.toplevel = toplevels.os_zfs_mirror_next.clone();
    let booted = booted.machine.booted()?;
    booted.looked("system")?;
    let status = booted.ssh.ok("zpool status rpool")?;
    ensure!(
        status.contains("DEGRADED") && status.contains("errors: No known data errors"),
        "{status}"
    );
    println!("    without its first disk: {}", status.lines().nth(1).unwrap_or_default().trim());
    booted.running.kill()
}

/// A machine that was installed and is turned off.
struct Machined {
    machine: Machine,
    medium: Medium,
    toplevel: String,
    report: Value,
}

/// The machine, booted from its own disks.
struct Booted {
    machine: Machined,
    running: Running,
    ssh: Ssh,
}

fn installed(
    cx: &Context,
    hardware: Hardware,
    layout: &str,
    toplevel: &str,
    more: &[&str],
) -> Result<Machined> {
    let medium = cx.medium()?;
    let layout = cx.layout(layout);
    let files = steps::Files::new()?;
    let Live { running, machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let options = [files.outputs(), vec!["--no-reboot".to_owned()]].concat();
    timed("install", || cx.keystone()?.install(&request, more, &steps::words(&options))?.ok())?;
    running.kill()?;
    Ok(Machined { machine, medium, toplevel: toplevel.to_owned(), report: files.report()? })
}

impl Machined {
    fn booted(mut self) -> Result<Booted> {
        let mut running = self.machine.start(None)?;
        let ssh = running.ssh(&self.medium.key)?;
        timed("boot, no key pressed", || running.wait_ssh(&ssh, BOOT))?;
        // What is mounted with `nofail` may come after SSH.
        ssh.run("timeout 300 systemctl is-system-running --wait")?;
        Ok(Booted { machine: self, running, ssh })
    }
}

impl Booted {
    fn looked(&self, check: &str) -> Result<()> {
        let Machined { toplevel, report, .. } = &self.machine;
        let installed = Installed { ssh: &self.ssh, toplevel, report, unlock: "tpm2" };
        installed.check_one(check).with_context(|| check.to_owned())
    }

    fn looked_at(self, checks: &[&str]) -> Result<Self> {
        checks.iter().try_for_each(|check| self.looked(check))?;
        Ok(self)
    }

    /// The copy of the ESP on the second disk has what is on the mounted one, byte for byte.
    fn copy_is_current(&self) -> Result<()> {
        let command = format!(
            "mkdir -p /run/copy && mount -o ro {COPY} /run/copy && diff -r --exclude=random-seed /boot /run/copy; \
             code=$?; umount /run/copy; exit $code"
        );
        let differs = self.ssh.run(&command)?;
        let said = String::from_utf8_lossy(&differs.stdout);
        ensure!(differs.status.success(), "the copy of the ESP is not as the ESP:\n{said}");
        Ok(())
    }
}
