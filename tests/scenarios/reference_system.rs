//! The reference system itself: installed by hand with everyone's tools, it must boot; and each
//! of its boot's checks must be seen to bite. What our installer does is not in question here.

use super::installed::ROOT;
use super::{BOOT, by_hand, steps};
use crate::{
    lab::timed,
    machine::{Hardware, Machine, disk::Disk, ssh::Ssh},
    run::run as run_command,
    runner::{Context, Live},
    system::System,
};
use anyhow::{Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PASSWORD: &str = steps::PASSWORD;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let system = cx.system()?;
    let toplevel = &system.toplevels.reference;
    let files = tempfile::tempdir_in(cx.lab().cache())?;
    let closure =
        timed("an image of the closure", || closure_image(system, toplevel, files.path()))?;
    let size = fs::metadata(&closure)?.len();
    let disk = Disk { size, from: Some(closure), ..Disk::blank("closure", 1) };
    let hardware = Hardware::new("by-hand").disk(Disk::blank("target", 24)).disk(disk);
    let oracle = cx.oracle()?;

    let Live { running, mut machine, ssh } = Live::boot(hardware, &oracle)?;
    timed("install by hand", || {
        by_hand::storage(&ssh, "target")?;
        by_hand::system(&ssh, toplevel)
    })?;
    running.kill()?;

    // The pool was not exported, and is the other system's.
    steps::boots_not(&mut machine, "a pool that was not exported", steps::NOT_EXPORTED)?;

    // A dataset with a key of its own may be a forgery.
    with_pool(
        &mut machine,
        &oracle,
        "give a dataset a key of its own",
        "zfs change-key -o keyformat=raw -o keylocation=file:///etc/credstore/other rpool/crypt/system/var",
    )?;
    steps::boots_not(
        &mut machine,
        "a dataset of another encryption root",
        "rpool/crypt/system/var has invalid encryptionroot rpool/crypt/system/var",
    )?;
    with_pool(
        &mut machine,
        &oracle,
        "give the dataset its parent's key again",
        "zfs change-key -i rpool/crypt/system/var",
    )?;

    let what = "boot with the password typed";
    let (running, ssh) = steps::boot_typing(&mut machine, &oracle, what, steps::PASSWORD)?;
    looks_right(&ssh, toplevel)?;
    running.kill()
}

fn looks_right(ssh: &Ssh, toplevel: &str) -> Result<()> {
    let is = |what: &str, command: &str, wanted: &str| -> Result<()> {
        let found = ssh.ok(command)?;
        ensure!(found == wanted, "{what}: `{command}` says {found:?}, not {wanted:?}");
        Ok(())
    };
    is(
        "start-up",
        "timeout 300 systemctl is-system-running --wait || systemctl --failed --no-legend --plain",
        "running",
    )?;
    is("the system", "readlink -f /run/current-system", toplevel)?;
    is("the system that was booted", "readlink -f /run/booted-system", toplevel)?;
    is(
        "the program of process 1",
        "readlink /proc/1/exe",
        &ssh.ok("readlink -f /usr/lib/systemd/systemd")?,
    )?;
    is("what is below /", "ls -A / | tr '\\n' ' '", ROOT)?;
    is(
        "the credstore",
        "ls /dev/mapper",
        "control\ndev-disk-byx2dpartlabel-diskx2drootx2dencryptedSwap",
    )?;
    is("swap", "swapon --noheadings --show=TYPE", "partition")?;
    is("what activation left running", "pgrep -fx 'sleep 600' || echo nothing", "nothing")?;
    is(
        "the token from the initrd",
        "cmp /run/initrd-token /var/lib/initrd-token/token && echo same",
        "same",
    )?;
    is("the store's mount", "findmnt -no OPTIONS /nix/store | cut -d, -f1", "ro")?;
    is("multicast DNS", "avahi-resolve -4n keystone-ref.local | cut -f1", "keystone-ref.local")?;
    is("the password of root", "grep ^root: /etc/shadow | cut -d: -f2", "*")?;
    ssh.ok("nix-store --verify")?;
    Ok(())
}

/// Runs `command` in the live system with the pool imported and its key at hand, and exports.
fn with_pool(
    machine: &mut Machine,
    medium: &crate::installer::Medium,
    what: &str,
    command: &str,
) -> Result<()> {
    timed(what, || {
        let mut running = machine.start(Some(&medium.image))?;
        let ssh = running.ssh(&medium.key)?;
        running.wait_ssh(&ssh, BOOT)?;
        ssh.ok(&format!(
            "set -e; zpool import -f -N rpool; udevadm settle; mkdir -p /etc/credstore; \
             for i in $(seq 300); do [ -e /dev/zvol/rpool/credstore ] && break; sleep 0.1; done; \
             printf %s '{PASSWORD}' | cryptsetup open /dev/zvol/rpool/credstore credstore --key-file -; \
             mount /dev/mapper/credstore /etc/credstore; \
             [ -e /etc/credstore/other ] || head -c 32 /dev/urandom > /etc/credstore/other; \
             zfs load-key -r rpool/crypt; {command}; sync; \
             zfs unload-key -r rpool/crypt; umount /etc/credstore; cryptsetup close credstore; \
             udevadm settle; zpool export rpool"
        ))?;
        running.kill()
    })
}

/// An ext4 image with the closure's paths in `store/`, and `registration`.
fn closure_image(system: &System, toplevel: &str, dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("store"))?;
    let paths = system.closure(toplevel)?;
    fs::write(tree.join("registration"), system.registration(&paths)? + "\n")?;
    // Hard links: the cache is on the same file system.
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--link"]);
    for path in &paths {
        copy.arg(system.root.join(&path[1..]));
    }
    run_command(copy.arg(tree.join("store")))?;
    let image = dir.join("closure.img");
    fs::File::create(&image)?.set_len(1 << 30)?;
    run_command(
        Command::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0", "-d"]).args([&tree, &image]),
    )?;
    Ok(image)
}
