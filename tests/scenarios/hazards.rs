//! What others have on a machine's disks: refused with the culprit's name, and left as it is. Then
//! what is the layout's and differs from it: marks of partitions, properties, a disk to be kept.

use super::disks::{Disks, Done, NOT_CONFIRMED, TARGET_UNFIT, blank, closed};
use super::steps;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const TARGET: &str = "/dev/disk/by-id/virtio-target";
const OTHER: &str = "/dev/disk/by-id/virtio-other";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let medium = cx.oracle()?;
    let hardware = Hardware::new("hazards")
        .disk(Disk::blank("target", 24))
        .disk(Disk::blank("other", 12))
        .tpm();
    let live = Live::boot(hardware, &medium)?;
    let ssh = &live.ssh;
    let files = steps::Files::new()?;
    let layout = cx.layout("single-disk-root.json");
    let disks = Disks::new(cx, ssh, &medium.key, &layout, &files);

    timed("a file system that the kernel has not", || unmountable(cx, &disks, &files))?;
    timed("a pool of that name on another disk", || foreign_pool(&disks))?;
    timed("what lies on two disks", || shared(&disks))?;
    timed("a name that is taken", || taken(&disks))?;
    timed("what is open on the disk", || stacked(&disks))?;
    files.forget();
    timed("what is there gets the layout's marks and properties", || adopted(cx, &disks, &files))?;
    timed("a disk that is to be kept", || kept(cx, &disks, &files))?;
    live.running.kill()
}

/// A plan over everything on the target is refused.
fn refused(disks: &Disks<'_>, words: &[&str]) -> Result<()> {
    disks.refused("disko", &["--erase"], TARGET_UNFIT, words)
}

/// What can be made and not mounted is refused before it is made.
fn unmountable(cx: &Context, disks: &Disks<'_>, files: &steps::Files) -> Result<()> {
    disks.ssh.ok("! modprobe -n f2fs 2>/dev/null && command -v mkfs.f2fs > /dev/null")?;
    let other = edited(disks.layout, &files.path("f2fs.json"), |layout| {
        let esp = &mut layout["disk"]["root"]["content"]["partitions"]["esp"]["content"];
        esp["format"] = json!("f2fs");
    })?;
    let others = Disks::new(cx, disks.ssh, disks.key, &other, files);
    others.refused("disko", &[], TARGET_UNFIT, &["kernel has no file system f2fs", "/boot"])?;
    blank(disks.ssh, "target")
}

/// Another Keystone machine's disk: its pool is neither adopted nor destroyed.
fn foreign_pool(disks: &Disks<'_>) -> Result<()> {
    let ssh = disks.ssh;
    let elsewhere = ["--disk", "root=virtio-other"];
    disks.agreed("format", &elsewhere)?;
    closed(ssh)?;
    let guid =
        ssh.ok(&format!("zdb -l {OTHER}-part2 | awk '/^ *pool_guid:/ {{ print $2; exit }}'"))?;
    ensure!(guid.parse::<u64>().is_ok(), "no pool was made: {guid:?}");

    for mode in ["disko", "format,mount"] {
        let erase: &[&str] = if mode == "disko" { &["--erase"] } else { &[] };
        disks.refused(mode, erase, TARGET_UNFIT, &["rpool", &guid, "serial other"])?;
    }
    ssh.ok("zpool import -N rpool")?;
    refused(disks, &["rpool", &guid, "serial other"])?;
    let found = ssh.ok("zpool get -Ho value guid,health rpool | xargs")?;
    ensure!(found == format!("{guid} ONLINE"), "the other machine's pool is {found}");
    blank(ssh, "target")?;
    ssh.ok("zpool export rpool")?;
    std::fs::remove_file(&disks.recovery).context("the recovery key of the other disk")?;
    disks.agreed("destroy", &elsewhere)?;
    blank(ssh, "other")?;

    // A partition with the name of one of the layout's: which would be mounted is chance.
    ssh.ok(&format!("sgdisk -n 1:0:+1G -c 1:disk-root-ESP {OTHER} && udevadm settle"))?;
    for mode in ["disko", "format,mount"] {
        let erase: &[&str] = if mode == "disko" { &["--erase"] } else { &[] };
        disks.refused(mode, erase, TARGET_UNFIT, &["disk-root-ESP", "serial other"])?;
    }
    clean(ssh)
}

/// Pools, groups, RAIDs that also live on a disk that was not named.
fn shared(disks: &Disks<'_>) -> Result<()> {
    let ssh = disks.ssh;
    // On partitions of ours: zpool does not wait long enough for those it makes of a disk.
    ssh.ok(&format!(
        "for d in {TARGET} {OTHER}; do sgdisk -n 1 $d; done && udevadm settle && \
         zpool create -f tank mirror {TARGET}-part1 {OTHER}-part1"
    ))?;
    refused(disks, &["\"tank\"", "serial other", "zpool export tank"])?;
    ensure!(ssh.ok("zpool get -Ho value health tank")? == "ONLINE", "the pool was touched");
    // Nobody uses it any more: it is said, and needs consent.
    ssh.ok("zpool export tank && udevadm settle")?;
    disks.refused("disko", &[], NOT_CONFIRMED, &["tank", "--erase"])?;
    let plan = disks.run("disko", &["--erase", "--dry-run"])?.ok()?.plan()?;
    let warnings = plan["warnings"].to_string();
    ensure!(warnings.contains("also has a member on"), "not said: {warnings}");
    ssh.ok("zpool import tank && zpool destroy tank")?;
    clean(ssh)?;

    ssh.ok(&format!(
        "pvcreate -qq -ff -y {TARGET} {OTHER} && vgcreate -qq data {TARGET} {OTHER} && \
         lvcreate -qq -y -Wn -n both -i 2 -L 64M data && lvcreate -qq -y -Wn -n far -L 64M data {OTHER}"
    ))?;
    refused(disks, &["data-both", "serial other"])?;
    ssh.ok("lvremove -qq -y data/both && lvcreate -qq -y -Wn -n near -L 64M data \
            /dev/disk/by-id/virtio-target")?;
    refused(disks, &["volume group data", "data-far", "vgchange -an data"])?;
    ssh.ok("vgremove -qq -y data")?;
    clean(ssh)?;

    ssh.ok(&format!(
        "mdadm -q --create /dev/md/both --run --bitmap=none --level=1 --raid-devices=2 --metadata=1.2 \
         --assume-clean {TARGET} {OTHER} 2>&1 && udevadm settle"
    ))?;
    refused(disks, &["RAID", "serial other", "mdadm --stop"])?;
    ssh.ok("mdadm -q --stop /dev/md/both && udevadm settle")?;
    clean(ssh)
}

/// The mapper's name is in use on another disk.
fn taken(disks: &Disks<'_>) -> Result<()> {
    let ssh = disks.ssh;
    ssh.ok(&format!(
        "printf secretsecret > /run/key && cryptsetup -q luksFormat --pbkdf pbkdf2 \
         --pbkdf-force-iterations 1000 {OTHER} /run/key && \
         cryptsetup open --key-file /run/key {OTHER} credstore"
    ))?;
    refused(disks, &["/dev/mapper/credstore", "serial other", "cryptsetup close credstore"])?;
    ssh.ok("cryptsetup close credstore")?;
    clean(ssh)
}

/// Pool, volume, container and file system on the target: refused while it is mounted, else shown
/// and taken down leaf first.
fn stacked(disks: &Disks<'_>) -> Result<()> {
    let ssh = disks.ssh;
    ssh.ok(&format!(
        "printf secretsecret > /run/key && sgdisk -n 1 {TARGET} && udevadm settle && \
         zpool create -f -O mountpoint=none mine {TARGET}-part1 && zfs create -s -V 1G mine/volume && udevadm settle && \
         cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
         /dev/zvol/mine/volume /run/key && \
         cryptsetup open --key-file /run/key /dev/zvol/mine/volume secret && \
         mkfs.ext4 -q /dev/mapper/secret && mkdir -p /media/secret && \
         mount /dev/mapper/secret /media/secret"
    ))?;
    refused(disks, &["/media/secret", "umount /media/secret"])?;
    ssh.ok("umount /media/secret")?;
    disks.refused("disko", &[], NOT_CONFIRMED, &["mine", "--erase"])?;
    let plan = disks.run("disko", &["--erase", "--dry-run"])?.ok()?.plan()?;
    let steps = plan["steps"].as_array().context("a plan has steps")?;
    let released: Vec<&str> = steps
        .iter()
        .filter(|step| step["action"]["do"] == "release")
        .filter_map(|step| step["action"]["what"].as_str())
        .collect();
    ensure!(released == ["close-mapper", "destroy-pool"], "it takes down {released:?}");
    disks.agreed("destroy", &[])?;
    ssh.ok("! grep -qsx secret /sys/block/dm-*/dm/name && ! zpool list mine 2>/dev/null")?;
    blank(ssh, "target")
}

/// Partitions with other marks and a pool with other properties get the layout's, and keep what is
/// in them.
fn adopted(cx: &Context, disks: &Disks<'_>, files: &steps::Files) -> Result<()> {
    let ssh = disks.ssh;
    disks.agreed("format", &[])?;
    disks.agreed("mount", &[])?;
    ssh.ok("echo still here > /mnt/var/survivor && echo here too > /mnt/boot/survivor")?;
    disks.agreed("unmount", &[])?;
    let guids = format!("for n in 1 2 3; do sgdisk -i $n {TARGET} | grep 'unique GUID'; done");
    let before = ssh.ok(&guids)?;
    // By its name alone the ESP is known: without it, it may be anybody's.
    ssh.ok(&format!("sgdisk -c 1:EFI {TARGET} && udevadm settle"))?;
    for mode in ["mount", "format"] {
        let words = ["partition 1 named \"EFI\"", "sgdisk -c '1:disk-root-ESP'"];
        disks.refused(mode, &[], TARGET_UNFIT, &words)?;
    }
    ssh.ok(&format!(
        "sgdisk -c '1:disk-root-ESP' {TARGET} && \
         sgdisk -t 1:0700 -c 2:windows -A 2:set:60 {TARGET} && udevadm settle"
    ))?;
    disks.refused("mount", &[], TARGET_UNFIT, &["partition 1", "of type EBD0A0A2-"])?;
    // What is closed is opened for it, and closed again.
    let changed = made(disks.agreed("format", &[])?);
    ensure!(changed == ["partition:root"], "it changed {changed:?}");
    ensure!(ssh.ok(&guids)? == before, "the partitions have other GUIDs");
    let esp = ssh.ok(&format!("sgdisk -i 1 {TARGET}"))?;
    ensure!(esp.contains("(EFI system partition)") && esp.contains("'disk-root-ESP'"), "{esp}");
    let link = "/dev/disk/by-partlabel/disk-root-zfs";
    let pool = ssh.ok(&format!("test -b {link} && sgdisk -i 2 {TARGET}"))?;
    ensure!(pool.contains("'disk-root-zfs'"), "{pool}");
    ensure!(pool.contains("1000000000000000"), "an attribute was cleared: {pool}");

    // Properties that changed in the document.
    let other = edited(disks.layout, &files.path("other.json"), |layout| {
        let pool = &mut layout["zpool"]["rpool"];
        pool["rootFsOptions"]["atime"] = json!("off");
        pool["rootFsOptions"]["org.keystone:note"] = json!("changed");
    })?;
    let others = Disks::new(cx, ssh, disks.key, &other, files);
    others.agreed("mount", &[])?;
    let changed = others.agreed("format", &[])?.what;
    ensure!(changed == ["dataset:rpool"], "it changed {changed:?}");
    ensure!(others.agreed("format", &[])?.changed == 0, "a second format changed something");
    let set = ssh.ok("zfs get -Ho value atime,org.keystone:note rpool | xargs")?;
    ensure!(set == "off changed", "the root dataset has {set}");
    let read = ssh.ok("cat /mnt/var/survivor /mnt/boot/survivor")?;
    ensure!(read == "still here\nhere too", "the files hold {read:?}");
    others.agreed("unmount", &[])?;
    closed(ssh)
}

/// What was done but opening and closing.
fn made(done: Done) -> Vec<String> {
    let opens = ["pool:", "luks:", "dataset:rpool/crypt", "close:", "export:"];
    let mut steps = done.what;
    steps.retain(|step| !opens.iter().any(|word| step.starts_with(word)));
    steps
}

/// `destroy = false`: even `disko` makes only what is missing, and `destroy` leaves it.
fn kept(cx: &Context, disks: &Disks<'_>, files: &steps::Files) -> Result<()> {
    let ssh = disks.ssh;
    let keeping = edited(disks.layout, &files.path("keeping.json"), |layout| {
        layout["disk"]["root"]["destroy"] = json!(false);
    })?;
    let keeping = Disks::new(cx, ssh, disks.key, &keeping, files);
    let made = made(keeping.agreed("disko", &[])?);
    ensure!(made.iter().all(|step| step.starts_with("mount:")), "it made {made:?}");
    let read = || ssh.ok("cat /mnt/var/survivor");
    ensure!(read()? == "still here", "the file is not as it was");
    keeping.agreed("unmount", &[])?;
    ensure!(
        keeping.agreed("destroy", &[])?.changed == 0,
        "a disk that is to be kept was destroyed"
    );
    keeping.agreed("mount", &[])?;
    ensure!(read()? == "still here", "the file is not as it was");
    keeping.agreed("unmount", &[])?;
    disks.agreed("destroy", &[])?;
    blank(ssh, "target")
}

/// No signature is left on either disk.
fn clean(ssh: &Ssh) -> Result<()> {
    ssh.ok(&format!(
        "sgdisk --zap-all {TARGET} > /dev/null; sgdisk --zap-all {OTHER} > /dev/null; udevadm settle; \
         for d in {TARGET}-part* {OTHER}-part* {TARGET} {OTHER}; do \
         if test -b $d; then wipefs -qa $d; fi; done; udevadm settle"
    ))?;
    blank(ssh, "target")?;
    blank(ssh, "other")
}

/// A copy of a document with something changed.
fn edited(from: &Path, to: &Path, change: impl Fn(&mut Value)) -> Result<std::path::PathBuf> {
    let mut layout = serde_json::from_str(&fs::read_to_string(from)?)?;
    change(&mut layout);
    fs::write(to, serde_json::to_string(&layout)?)?;
    Ok(to.to_owned())
}
