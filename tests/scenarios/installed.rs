//! What an installed machine must be, seen from inside.

use crate::machine::ssh::Ssh;
use crate::system::System;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// An installed machine, and what it should be.
pub struct Installed<'a> {
    /// Commands in it.
    pub ssh: &'a Ssh,
    /// What was installed.
    pub toplevel: &'a str,
    /// The controller's report.
    pub report: &'a Value,
    /// What opens its credstore: `tpm2` or `password`.
    pub unlock: &'a str,
}

/// What must be so, each by its name.
type Check = (&'static str, fn(&Installed<'_>) -> Result<()>);

const CHECKS: &[Check] = &[
    ("system", |machine| machine.system()),
    ("host name", |machine| machine.host_name()),
    ("mounts", |machine| machine.mounts()),
    ("root", |machine| machine.root()),
    ("encryption", |machine| machine.encryption()),
    ("pool", |machine| machine.pool()),
    ("credstore", |machine| machine.credstore()),
    ("units", |machine| machine.units()),
    ("slots", |machine| check_slots(machine.ssh, machine.report, machine.unlock)),
    ("firewall", |machine| check_firewall(machine.ssh)),
    ("table", |machine| check_table(machine.ssh, machine.report)),
    ("ESP", |machine| check_esp(machine.ssh, machine.toplevel)),
    ("report", |machine| machine.copy_of_the_report()),
];

impl Installed<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// Something is not as it should be.
    pub fn check(&self) -> Result<()> {
        CHECKS.iter().try_for_each(|(name, check)| check(self).with_context(|| (*name).to_owned()))
    }

    /// Looks at what has this name.
    pub(super) fn check_one(&self, name: &str) -> Result<()> {
        let (_, check) = CHECKS
            .iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("nothing that is checked has the name {name:?}"))?;
        check(self)
    }

    /// Names of all that is checked.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        CHECKS.iter().map(|(name, _)| *name)
    }

    fn is(&self, what: &str, command: &str, wanted: &str) -> Result<()> {
        let found = self.ssh.ok(command)?;
        ensure!(found == wanted, "{what}: `{command}` says {found:?}, not {wanted:?}");
        Ok(())
    }

    fn system(&self) -> Result<()> {
        self.is("the running system", "readlink -f /run/current-system", self.toplevel)
    }

    fn host_name(&self) -> Result<()> {
        self.is("the host name", "cat /proc/sys/kernel/hostname", "keystone-ref")
    }

    fn mounts(&self) -> Result<()> {
        for (target, source) in DATASETS {
            let command = format!("findmnt -no SOURCE,FSTYPE {target} | tr -s ' '");
            self.is("a mount", &command, &format!("{source} zfs"))?;
        }
        self.is("the ESP", "findmnt -no FSTYPE /boot", "vfat")
    }

    fn root(&self) -> Result<()> {
        self.is("what is below /", "ls -A / | tr '\\n' ' '", ROOT)
    }

    fn encryption(&self) -> Result<()> {
        for (_, source) in DATASETS {
            let command = format!("zfs get -Ho value encryptionroot {source}");
            self.is("encryption", &command, "rpool/crypt")?;
        }
        self.is("the cipher", "zfs get -Ho value encryption rpool/crypt", "aes-256-gcm")?;
        let keylocation = "zfs get -Ho value keylocation rpool/crypt";
        self.is(
            "where the key is said to be",
            keylocation,
            "file:///etc/credstore/zfs-sysroot.mount",
        )
    }

    fn pool(&self) -> Result<()> {
        self.is("the pool's health", "zpool list -Ho health rpool", "ONLINE")?;
        let status = self.ssh.ok("zpool status rpool")?;
        ensure!(status.contains("errors: No known data errors"), "the pool has errors:\n{status}");
        Ok(())
    }

    fn credstore(&self) -> Result<()> {
        let command = "test -e /dev/mapper/credstore && echo open || echo closed";
        self.is("the credstore in stage 2", command, "closed")
    }

    fn units(&self) -> Result<()> {
        self.is("failed units", "systemctl --failed --no-legend --plain", "")
    }

    fn copy_of_the_report(&self) -> Result<()> {
        let copy: Value =
            serde_json::from_str(&self.ssh.ok("cat /var/lib/keystone/install.json")?)?;
        ensure!(copy["ends_at"] == "before-seal", "the machine's report does not end at the seal");
        ensure!(copy["plan"] == self.report["plan"], "the machine's report is of another plan");
        Ok(())
    }
}

/// Everything below `/` of a machine that has booted: `activate`'s, and the first boot's.
pub(super) const ROOT: &str =
    "bin boot dev etc home lib lib64 mnt nix proc root run sbin srv sys tmp usr var";

/// What is mounted from the pool, and where.
const DATASETS: [(&str, &str); 3] = [
    ("/", "rpool/crypt/system"),
    ("/nix", "rpool/crypt/system/nix"),
    ("/var", "rpool/crypt/system/var"),
];

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
    ensure!(
        report.pointer("/containers/credstore/uuid") == Some(&Value::from(uuid)),
        "another LUKS UUID than reported"
    );
    Ok(())
}

/// What the firewall lets in, whole: only port 22, beside what every host answers to.
const LET_IN: [&str; 7] = [
    "type filter hook input priority filter; policy drop;",
    "iifname \"lo\" accept",
    "ct state vmap { invalid : drop, established : accept, related : accept }",
    "meta l4proto { icmp, ipv6-icmp } accept",
    "udp dport 5353 accept comment \"multicast DNS\"",
    "udp sport 547 udp dport 546 ip6 daddr fe80::/64 accept comment \"DHCPv6 client\"",
    "tcp dport 22 accept comment \"ssh\"",
];

/// Only port 22 is open.
fn check_firewall(ssh: &Ssh) -> Result<()> {
    let chain = ssh.ok("nft list chain inet firewall input")?;
    let lines = chain.lines().map(str::trim).filter(|line| !line.ends_with('{') && *line != "}");
    let lines: Vec<&str> = lines.collect();
    ensure!(lines == LET_IN, "the firewall lets in:\n{}", lines.join("\n"));
    let others = ssh.ok("nft list chains | grep -c 'hook input'")?;
    ensure!(others == "1", "{others} chains see what comes in");
    Ok(())
}

/// The partition table, field by field.
fn check_table(ssh: &Ssh, report: &Value) -> Result<()> {
    let text = ssh.ok("sfdisk --json /dev/disk/by-id/virtio-target")?;
    let table: Value = serde_json::from_str(&text)?;
    let table = &table["partitiontable"];
    ensure!(table["label"] == "gpt", "not a GPT: {text}");
    let id = table["id"].as_str().unwrap_or_default().to_lowercase();
    ensure!(
        report.pointer("/disks/root/guid") == Some(&Value::from(id)),
        "another disk GUID than reported: {text}"
    );
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
        let guid = Value::from(partition["uuid"].as_str().unwrap_or_default().to_lowercase());
        let reported = format!("/disks/root/partitions/{}", name.trim_start_matches("disk-root-"));
        ensure!(
            report.pointer(&reported) == Some(&guid),
            "{name} has another GUID than reported: {partition}"
        );
    }
    Ok(())
}

/// The ESP boots the system by files that are the store's.
fn check_esp(ssh: &Ssh, toplevel: &str) -> Result<()> {
    ssh.ok("test -s /boot/EFI/BOOT/BOOTX64.EFI && test -s /boot/EFI/systemd/systemd-bootx64.efi")?;
    let entry = ssh.ok("cat /boot/loader/entries/nixos-generation-1.conf")?;
    ensure!(
        entry.contains(&format!("init={toplevel}/init")),
        "the entry boots something else:\n{entry}"
    );
    let named = |word: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(word));
        line.map(str::trim).with_context(|| format!("the entry names no {word}:\n{entry}"))
    };
    ssh.ok(&format!("cmp /boot{} {toplevel}/kernel", named("linux ")?))?;
    // What is the machine's own is appended to it.
    let initrd = named("initrd ")?;
    ssh.ok(&format!("cmp -n $(stat -Lc %s {toplevel}/initrd) /boot{initrd} {toplevel}/initrd"))?;
    ensure!(
        ssh.ok("cat /boot/loader/loader.conf")?.contains("default nixos-generation-1"),
        "another default"
    );
    Ok(())
}

/// The store, judged by Nix on the machine itself.
pub fn check_store(ssh: &Ssh, system: &System, toplevel: &str) -> Result<()> {
    let closure = system.closure(toplevel)?;
    // Before verifying: verifying drops rows of missing paths silently.
    let dump = ssh.ok("nix-store --dump-db")?;
    let ours = records(&dump)?;
    let theirs = records(&system.registration(&closure)?)?;
    ensure!(
        ours == theirs,
        "the database differs from the source's: {} paths here, {} there",
        ours.len(),
        theirs.len()
    );
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
