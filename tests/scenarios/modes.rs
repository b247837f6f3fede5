//! disko's modes on a machine: format, again with a file that survives, unmount, mount by TPM and
//! by recovery key, a system installed into what is there, rescue, destroy; and what is refused.

use super::disks::{Disks, NOT_CONFIRMED, STORAGE, TARGET_UNFIT, blank, closed};
use super::steps;
use crate::keystone::{Ended, run as run_command};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// A file that is written once, and must be there in the end.
const SURVIVOR: &str = "/mnt/var/survivor";

/// How long a rescue may take to open everything, and to close it.
const RESCUE: Duration = Duration::from_secs(180);

/// Where the firmware's TPM is for programs.
const TPM: &str = "/dev/tpmrm0";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let medium = cx.medium()?;
    let hardware =
        Hardware::new("modes").disk(Disk::blank("target", 24)).disk(Disk::blank("other", 8)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let files = steps::Files::new()?;
    let layout = cx.layout("single-disk-root.json");
    let disks = Disks::new(cx, &ssh, &medium.key, &layout, &files);

    timed("what uses the disk is refused by name", || hazards(&disks))?;
    disks.refused("mount", &[], TARGET_UNFIT, &["blank", "format,mount"])?;
    timed("format a blank disk", || {
        ensure!(disks.agreed("format", &[])?.changed > 10, "little was made");
        closed(&ssh)
    })?;
    timed("mount it, by the TPM", || {
        ensure!(disks.agreed("mount", &[])?.changed > 4, "little was mounted");
        mounted(&ssh)?;
        ssh.ok(&format!("echo still here > {SURVIVOR} && sync")).map(drop)
    })?;
    for mode in ["format", "format,mount", "mount"] {
        timed(&format!("{mode} again, which changes nothing"), || {
            let again = disks.agreed(mode, &[])?;
            ensure!(again.changed == 0, "{mode} changed {} steps: {:?}", again.changed, again.what);
            survives(&ssh)
        })?;
    }
    timed("unmount, twice", || {
        ensure!(disks.agreed("unmount", &[])?.changed > 4, "little was unmounted");
        closed(&ssh)?;
        ensure!(disks.agreed("unmount", &[])?.changed == 0, "something was open");
        Ok(())
    })?;
    timed("format what is there and closed", || {
        disks.agreed("format", &[])?;
        closed(&ssh)
    })?;
    timed("mount by the recovery key, since there is no TPM", || by_recovery_key(&disks))?;
    timed("disko is refused without consent", || {
        disks.refused("disko", &[], NOT_CONFIRMED, &["rpool", "--erase"])
    })?;
    timed("install into what is mounted, and rescue", || rescue(cx, &disks, &files))?;
    timed("destroy", || {
        disks.agreed("destroy", &[])?;
        blank(&ssh, "target")
    })?;
    running.kill()
}

/// Foreign uses of the disk, each refused by a plan that would wipe it.
fn hazards(disks: &Disks<'_>) -> Result<()> {
    let target = "/dev/disk/by-id/virtio-target";
    let refused = |words: &[&str]| disks.refused("disko", &["--erase"], TARGET_UNFIT, words);

    disks
        .ssh
        .ok(&format!("mkfs.ext4 -q {target} && mkdir -p /media/x && mount {target} /media/x"))?;
    refused(&["/media/x", "umount /media/x"])?;
    disks.ssh.ok("umount /media/x")?;

    disks.ssh.ok(&format!("mkswap -q {target} && swapon {target}"))?;
    refused(&["active swap", "swapoff"])?;
    disks.ssh.ok(&format!("swapoff {target}"))?;

    disks.ssh.ok("mkdir -p /mnt/x && mount -t tmpfs none /mnt/x")?;
    refused(&["/mnt/x"])?;
    disks.ssh.ok("umount /mnt/x && rmdir /mnt/x")?;

    for (disk, words) in [
        ("root=virtio-keystone-installer", &["booted from"][..]),
        ("root=/dev/vda", &["another disk"]),
        ("root=model:none", &["model:none", "virtio-target"]),
    ] {
        disks.refused("disko", &["--erase", "--disk", disk], TARGET_UNFIT, words)?;
    }
    disks.agreed("destroy", &[])?;
    blank(disks.ssh, "target")
}

/// Without its TPM the container asks; who has nothing to answer gets a sentence.
fn by_recovery_key(disks: &Disks<'_>) -> Result<()> {
    disks.ssh.ok(&format!("mv {TPM} /dev/hidden"))?;
    let plan = disks.run("mount", &[])?;
    ensure!(plan.code == Some(STORAGE) || plan.code == Some(NOT_CONFIRMED), "{plan:?}");
    plan.refused(plan.code.unwrap_or(0), &["credstore", "--unlock-key-file"])?;
    closed(disks.ssh)?;
    let recovery = recovery_key(&disks.recovery)?;
    let wrong = tempfile::NamedTempFile::new()?;
    std::fs::write(wrong.path(), "not the key of anything\n")?;
    let wrong = wrong.path().display().to_string();
    ensure!(
        disks.run("mount", &["--unlock-key-file", &wrong])?.code != Some(0),
        "a wrong key opened"
    );
    closed(disks.ssh)?;
    let right = tempfile::NamedTempFile::new()?;
    // As somebody may type it.
    std::fs::write(right.path(), recovery.replace('-', ""))?;
    let right = right.path().display().to_string();
    disks.run("mount", &["--unlock-key-file", &right])?.ok()?;
    mounted(disks.ssh)?;
    survives(disks.ssh)?;
    disks.agreed("unmount", &[])?;
    disks.ssh.ok(&format!("mv /dev/hidden {TPM}")).map(drop)
}

/// The key alone, of a file that says whose it is.
fn recovery_key(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).context("reading the recovery key")?;
    let key =
        text.split_whitespace().find(|word| word.len() == 71 && word.matches('-').count() == 7);
    Ok(key.with_context(|| format!("no recovery key in {}", path.display()))?.to_owned())
}

/// A system installed into what is there, with the file still there; then a command in it.
fn rescue(cx: &Context, disks: &Disks<'_>, files: &steps::Files) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let request = steps::request(cx, disks.ssh, &medium, toplevel, disks.layout)?;
    let report = files.path("report").display().to_string();
    let install = ["--no-reboot", "--report", &report];
    cx.keystone()?.install(&request, &["--disko-mode", "format,mount"], &install)?.ok()?;
    closed(disks.ssh)?;

    let rescue = |command: &[&str]| -> Result<Ended> {
        let mut keystone = cx.keystone()?.on("rescue", disks.ssh, disks.key);
        keystone.arg("--layout").arg(disks.layout).arg("--").args(command);
        run_command(keystone)
    };
    let said = rescue(&["cat", "/var/survivor", "/etc/hostname"])?.ok()?;
    ensure!(said.stdout.contains("still here"), "rescue said {said:?}");
    closed(disks.ssh)?;
    // It ends as the command did, and closes all the same, whatever was left running.
    let ended = rescue(&["sh", "-c", "sleep 1000 & exit 7"])?;
    ensure!(ended.code == Some(7), "rescue ended with {ended:?}");
    closed(disks.ssh)?;
    rescue_by_hand(cx, disks)
}

/// A person at a terminal gets a login shell in the system, and what that ends with.
fn rescue_by_hand(cx: &Context, disks: &Disks<'_>) -> Result<()> {
    let mut keystone = cx.keystone()?.on("rescue", disks.ssh, disks.key);
    keystone.arg("--layout").arg(disks.layout);
    let mut terminal = Terminal::start(&keystone)?;
    terminal.type_until("echo $((40 + 2)) is the answer", "42 is the answer", RESCUE)?;
    terminal.type_until("cat /var/survivor", "still here", RESCUE)?;
    // A terminal of its own, in the system, as a login shell.
    terminal.type_until("test -t 0 && echo a ter''minal", "a terminal", RESCUE)?;
    terminal.type_until("shopt -q login_shell && echo a lo''gin", "a login", RESCUE)?;
    terminal.type_until("cat /etc/host''name | sed s/^/host:/", "host:keystone-ref", RESCUE)?;
    let code = terminal.end("exit 5", RESCUE)?;
    ensure!(code == Some(5), "the rescue ended with {code:?}");
    closed(disks.ssh)
}

fn mounted(ssh: &Ssh) -> Result<()> {
    for (target, fstype) in
        [("/mnt", "zfs"), ("/mnt/boot", "vfat"), ("/mnt/nix", "zfs"), ("/mnt/var", "zfs")]
    {
        let found = ssh.ok(&format!("findmnt -n -o FSTYPE {target}"))?;
        ensure!(found == fstype, "{target} is {found:?}, not {fstype}");
    }
    ssh.ok("! grep -qsx credstore /sys/block/dm-*/dm/name").context("the credstore is open")?;
    Ok(())
}

fn survives(ssh: &Ssh) -> Result<()> {
    let found = ssh.ok(&format!("cat {SURVIVOR}"))?;
    ensure!(found == "still here", "the file holds {found:?}");
    Ok(())
}
