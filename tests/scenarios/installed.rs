//! What an installed machine must be, seen from inside.

use crate::machine::ssh::Ssh;
use crate::system::System;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// Looks at the machine; `unlock` is what opens its credstore (`tpm2` or `password`).
pub fn check(ssh: &Ssh, toplevel: &str, report: &Value, unlock: &str) -> Result<()> {
    let is = |what: &str, command: &str, wanted: &str| -> Result<()> {
        let found = ssh.ok(command)?;
        ensure!(found == wanted, "{what}: `{command}` says {found:?}, not {wanted:?}");
        Ok(())
    };
    is("the running system", "readlink -f /run/current-system", toplevel)?;
    is("the host name", "cat /proc/sys/kernel/hostname", "keystone-ref")?;
    for (target, source) in
        [("/", "rpool/crypt/system"), ("/nix", "rpool/crypt/system/nix"), ("/var", "rpool/crypt/system/var")]
    {
        is("a mount", &format!("findmnt -no SOURCE,FSTYPE {target} | tr -s ' '"), &format!("{source} zfs"))?;
        is("encryption", &format!("zfs get -Ho value encryptionroot {source}"), "rpool/crypt")?;
    }
    is("the ESP", "findmnt -no FSTYPE /boot", "vfat")?;
    is("the pool's health", "zpool list -Ho health rpool", "ONLINE")?;
    let status = ssh.ok("zpool status rpool")?;
    ensure!(status.contains("errors: No known data errors"), "the pool has errors:\n{status}");
    is("the cipher", "zfs get -Ho value encryption rpool/crypt", "aes-256-gcm")?;
    is("where the key is said to be", "zfs get -Ho value keylocation rpool/crypt", "file:///etc/credstore/zfs-sysroot.mount")?;
    is("the credstore in stage 2", "test -e /dev/mapper/credstore && echo open || echo closed", "closed")?;
    is("failed units", "systemctl --failed --no-legend --plain", "")?;
    check_slots(ssh, report, unlock)?;
    check_firewall(ssh)?;
    check_table(ssh, report)?;
    check_esp(ssh, toplevel)?;
    let copy: Value = serde_json::from_str(&ssh.ok("cat /var/lib/keystone/install.json")?)?;
    ensure!(copy["ends_at"] == "before-seal", "the machine's report does not end at the seal");
    ensure!(copy["plan"] == report["plan"], "the machine's report is of another plan");
    Ok(())
}

/// Slots and tokens of the credstore, by the installed cryptsetup.
fn check_slots(ssh: &Ssh, report: &Value, unlock: &str) -> Result<()> {
    let text = ssh.ok("cryptsetup luksDump --dump-json-metadata /dev/zvol/rpool/credstore")?;
    let header: Value = serde_json::from_str(&text)?;
    let slots = header["keyslots"].as_object().context("keyslots")?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut with_token = Vec::new();
    for token in header["tokens"].as_object().context("tokens")?.values() {
        *kinds.entry(token["type"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        for slot in token["keyslots"].as_array().context("a token's keyslots")? {
            with_token.push(slot.as_str().unwrap_or_default().to_owned());
        }
    }
    let mut wanted = BTreeMap::from([("systemd-recovery".to_owned(), 1)]);
    if unlock == "tpm2" {
        wanted.insert("systemd-tpm2".to_owned(), 1);
    }
    ensure!(kinds == wanted, "the credstore's tokens are {kinds:?}, not {wanted:?}");
    let without: Vec<&String> = slots.keys().filter(|slot| !with_token.contains(slot)).collect();
    let passwords = usize::from(unlock == "password");
    ensure!(slots.len() == 2 && without.len() == passwords, "the credstore's slots are {slots:?}");
    let uuid = ssh.ok("cryptsetup luksUUID /dev/zvol/rpool/credstore")?;
    ensure!(report.pointer("/containers/credstore/uuid") == Some(&Value::from(uuid)), "another LUKS UUID than reported");
    Ok(())
}

/// Only port 22 is open.
fn check_firewall(ssh: &Ssh) -> Result<()> {
    let rules = ssh.ok("nft list ruleset")?;
    ensure!(rules.contains("policy drop"), "the firewall lets everything in:\n{rules}");
    let open: Vec<&str> = rules.lines().map(str::trim).filter(|l| l.starts_with("tcp dport")).collect();
    ensure!(open.len() == 1 && open[0].contains("22"), "open ports: {open:?}");
    Ok(())
}

/// The partition table, field by field.
fn check_table(ssh: &Ssh, report: &Value) -> Result<()> {
    let text = ssh.ok("sfdisk --json /dev/disk/by-id/virtio-target")?;
    let table: Value = serde_json::from_str(&text)?;
    let table = &table["partitiontable"];
    ensure!(table["label"] == "gpt", "not a GPT: {text}");
    let id = table["id"].as_str().unwrap_or_default().to_lowercase();
    ensure!(report.pointer("/disks/root/guid") == Some(&Value::from(id)), "another disk GUID than reported: {text}");
    let sectors: u64 = ssh.ok("blockdev --getsz /dev/disk/by-id/virtio-target")?.parse()?;
    const MIB: u64 = 2048;
    // sgdisk's `-8G` counts from the last usable sector, and `--align-end` rounds down.
    let swap = (sectors - 34 - 8 * 1024 * MIB) / MIB * MIB;
    let last = (sectors - 33) / MIB * MIB - 1;
    let wanted = [
        ("disk-root-ESP", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", MIB, 1025 * MIB - 1),
        ("disk-root-zfs", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", 1025 * MIB, swap - 1),
        ("disk-root-encryptedSwap", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", swap, last),
    ];
    let partitions = table["partitions"].as_array().context("partitions")?;
    ensure!(partitions.len() == wanted.len(), "not three partitions: {text}");
    for (partition, (name, kind, first, last)) in partitions.iter().zip(wanted) {
        let start = partition["start"].as_u64().unwrap_or_default();
        let end = start + partition["size"].as_u64().unwrap_or_default() - 1;
        ensure!(
            partition["name"] == name && partition["type"] == kind && (start, end) == (first, last),
            "partition {name} should be {first}..={last} of type {kind}: {partition}"
        );
        ensure!(partition.get("attrs").is_none(), "partition {name} has attributes: {partition}");
    }
    Ok(())
}

/// The ESP boots the system by files that are the store's.
fn check_esp(ssh: &Ssh, toplevel: &str) -> Result<()> {
    ssh.ok("test -s /boot/EFI/BOOT/BOOTX64.EFI && test -s /boot/EFI/systemd/systemd-bootx64.efi")?;
    let entry = ssh.ok("cat /boot/loader/entries/nixos-generation-1.conf")?;
    ensure!(entry.contains(&format!("init={toplevel}/init")), "the entry boots something else:\n{entry}");
    let kernel = entry
        .lines()
        .find_map(|line| line.strip_prefix("linux "))
        .context("the entry names no kernel")?
        .trim();
    ssh.ok(&format!("cmp /boot{kernel} {toplevel}/kernel"))?;
    ensure!(ssh.ok("cat /boot/loader/loader.conf")?.contains("default nixos-generation-1"), "another default");
    Ok(())
}

/// The store, judged by Nix on the machine itself.
pub fn check_store(ssh: &Ssh, system: &System, toplevel: &str) -> Result<()> {
    let closure = system.closure(toplevel)?;
    // Counted before verifying: verifying drops rows of missing paths silently.
    let rows = ssh.ok("sqlite3 -readonly /nix/var/nix/db/db.sqlite 'select count(*) from ValidPaths' 2>/dev/null || nix-store --dump-db | grep -c '^/nix/store/.*' ")?;
    let dump = ssh.ok("nix-store --dump-db")?;
    let ours = records(&dump)?;
    let theirs = records(&system.registration(&closure)?)?;
    ensure!(ours == theirs, "the database differs from the source's: {} paths here, {} there; rows: {rows}", ours.len(), theirs.len());
    ssh.ok("nix-store --verify --check-contents")?;
    let after = records(&ssh.ok("nix-store --dump-db")?)?;
    ensure!(after == ours, "verifying dropped rows: {} of {} are left", after.len(), ours.len());
    let odd = ssh.ok(
        "find /nix/store -mindepth 1 -path /nix/store/.links -prune -o \\( ! -user 0 -o ! -group 0 -o \\( ! -type l ! -perm 0444 ! -perm 0555 \\) -o \\( -type d ! -perm 0555 \\) -o ! -newermt @0 -o -newermt @1 \\) -printf '%M %u %g %T@ %p\\n' | head",
    )?;
    ensure!(odd.is_empty(), "files whose metadata are not canonical:\n{odd}");
    Ok(())
}

/// A dump of Nix's database: path → its record, without the time of registration, which a dump
/// does not have.
fn records(dump: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut lines = dump.lines();
    let mut records = BTreeMap::new();
    while let Some(path) = lines.next() {
        let mut take = || lines.next().map(str::to_owned).context("a dump that ends amid a record");
        let mut record = vec![take()?, take()?, take()?];
        let references: usize = take()?.parse().context("the number of references")?;
        let mut list = Vec::new();
        for _ in 0..references {
            list.push(take()?);
        }
        list.sort();
        record.extend(list);
        records.insert(path.to_owned(), record);
    }
    Ok(records)
}
