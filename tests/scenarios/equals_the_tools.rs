//! A whole installation on one disk, and on an equal disk the commands that disko runs for the
//! same layout: what the tools then say of both is equal, but for what is drawn, counted or timed
//! and for what the installation put into the file systems.

use super::{by_hand, steps};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const OURS: &str = "ours";
const THEIRS: &str = "theirs";

/// Properties of a pool that are drawn at its creation or follow from what is in it
/// (zpoolprops(7)).
const VOLATILE_POOL: &[&str] = &[
    "guid",
    "load_guid",
    "allocated",
    "free",
    "capacity",
    "fragmentation",
    "bcloneratio",
    "bcloneused",
    "bclonesaved",
];

/// Properties of datasets that are drawn at their creation or follow from what is in them
/// (zfsprops(7)).
const VOLATILE_DATASET: &[&str] = &[
    "guid",
    "creation",
    "createtxg",
    "objsetid",
    "available",
    "used",
    "usedbychildren",
    "usedbydataset",
    "usedbyrefreservation",
    "referenced",
    "logicalused",
    "logicalreferenced",
    "written",
    "compressratio",
    "refcompressratio",
    "mounted",
    "keystatus",
    "snapshots_changed",
    "longname",
];

/// What the same storage took, made by the agent's steps and by the tools.
fn compare_times(theirs: Duration, report: &Value) -> Result<()> {
    let steps = report["steps"].as_array().context("a report has steps")?;
    let until = steps.iter().position(|step| step["id"] == "closure").context("a closure came")?;
    let ours: u64 = steps[..until].iter().filter_map(|step| step["elapsed_ms"].as_u64()).sum();
    let (ours, theirs) = (ours as f64 / 1e3, theirs.as_secs_f64());
    println!(
        "    storage made and mounted: {ours:.1} s by the agent, {theirs:.1} s by sgdisk, zpool, zfs and \
         cryptsetup: a ratio of {:.2}",
        ours / theirs
    );
    Ok(())
}

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let oracle = cx.oracle()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let hardware = Hardware::new("equal").disk(Disk::blank(OURS, 24)).disk(Disk::blank(THEIRS, 24));
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &oracle)?;
    let request = steps::request(cx, &ssh, &oracle, toplevel, &layout)?;
    let named = ["--disk", "root=virtio-ours", "--unlock", "password"];
    let options = [files.outputs(), files.password(), vec!["--no-reboot".to_owned()]].concat();
    timed("install on one disk", || {
        cx.keystone()?.install(&request, &named, &steps::words(&options))?.ok()
    })?;
    let began = Instant::now();
    timed("disko's commands on the other", || by_hand::storage(&ssh, THEIRS))?;
    compare_times(began.elapsed(), &files.report()?)?;

    let theirs = Looked::at(&ssh, THEIRS)?;
    ssh.ok("umount -R /mnt; udevadm settle; zpool export rpool")?;
    ssh.ok("zpool import -N -R /mnt -d /dev/disk/by-id/virtio-ours-part2 rpool")?;
    let ours = Looked::at(&ssh, OURS)?;
    ssh.ok("udevadm settle; zpool export rpool")?;

    same("partition table", &theirs.table, &ours.table)?;
    same("pool", &theirs.pool, &ours.pool)?;
    same("datasets", &theirs.datasets, &ours.datasets)?;
    same("container", &theirs.container, &ours.container)?;
    ensure!(
        theirs.pool.len() > 60 && theirs.datasets.len() > 200,
        "only {} and {} properties were compared",
        theirs.pool.len(),
        theirs.datasets.len()
    );
    running.kill()
}

type Properties = BTreeMap<String, String>;

/// What the tools say of a disk, without what may differ.
struct Looked {
    table: Properties,
    pool: Properties,
    datasets: Properties,
    container: Properties,
}

impl Looked {
    fn at(ssh: &Ssh, serial: &str) -> Result<Looked> {
        for _ in 0..30 {
            if ssh.run("test -e /dev/zvol/rpool/credstore")?.status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        Ok(Looked {
            table: table(&ssh.ok(&format!("sfdisk --json /dev/disk/by-id/virtio-{serial}"))?)?,
            pool: properties(&ssh.ok("zpool get all -Hp rpool")?, VOLATILE_POOL)?,
            datasets: properties(&ssh.ok("zfs get all -rHp rpool")?, VOLATILE_DATASET)?,
            container: container(
                &ssh.ok("cryptsetup luksDump --dump-json-metadata /dev/zvol/rpool/credstore")?,
            )?,
        })
    }
}

fn properties(text: &str, volatile: &[&str]) -> Result<Properties> {
    let mut found = Properties::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let (Some(name), Some(property), Some(value)) =
            (fields.next(), fields.next(), fields.next())
        else {
            anyhow::bail!("not a property: {line}");
        };
        if !volatile.contains(&property) {
            // An enabled feature is active once something used it.
            let value = match property.starts_with("feature@") {
                true => value.replace("active", "enabled"),
                false => value.to_owned(),
            };
            found.insert(format!("{name} {property}"), value);
        }
    }
    Ok(found)
}

/// Every field of a table but GUIDs and nodes.
fn table(text: &str) -> Result<Properties> {
    let document: Value = serde_json::from_str(text)?;
    let table = &document["partitiontable"];
    let mut found = Properties::new();
    for key in ["label", "unit", "firstlba", "lastlba", "sectorsize"] {
        found.insert(key.to_owned(), table[key].to_string());
    }
    for (index, partition) in
        table["partitions"].as_array().context("partitions")?.iter().enumerate()
    {
        for (key, value) in partition.as_object().context("a partition")? {
            if key != "uuid" && key != "node" {
                found.insert(format!("{} {key}", index + 1), value.to_string());
            }
        }
    }
    Ok(found)
}

/// What is not drawn or measured of a LUKS2 header: cipher, sector size, offset, and of the
/// password's slot everything but its salt, its place and what was benchmarked.
fn container(text: &str) -> Result<Properties> {
    let header: Value = serde_json::from_str(text)?;
    let mut found = Properties::new();
    for key in [
        "/segments/0/type",
        "/segments/0/offset",
        "/segments/0/size",
        "/segments/0/encryption",
        "/segments/0/sector_size",
        "/config/json_size",
        "/config/keyslots_size",
        "/config/flags",
        "/digests/0/type",
        "/digests/0/hash",
    ] {
        found.insert(key.to_owned(), format!("{:?}", header.pointer(key)));
    }
    let slots = header["keyslots"].as_object().context("keyslots")?;
    let password = slots
        .values()
        .find(|slot| slot.pointer("/kdf/type") == Some(&Value::from("argon2id")))
        .context("no slot has argon2id")?;
    for key in [
        "/type",
        "/key_size",
        "/af",
        "/area/type",
        "/area/encryption",
        "/area/key_size",
        "/area/size",
    ] {
        found.insert(format!("slot {key}"), format!("{:?}", password.pointer(key)));
    }
    Ok(found)
}

fn same(what: &str, theirs: &Properties, ours: &Properties) -> Result<()> {
    let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let different: Vec<String> = keys
        .into_iter()
        .filter(|key| theirs.get(*key) != ours.get(*key))
        .map(|key| format!("{key}: {:?} / {:?}", theirs.get(key), ours.get(key)))
        .collect();
    ensure!(different.is_empty(), "{what}, by the tools / by us:\n{}", different.join("\n"));
    println!("    {what}: {} properties are equal", ours.len());
    Ok(())
}
