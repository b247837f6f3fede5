//! The plan's words, for layouts that are written down by hand.

use serde_json::{Value, json};

/// Sectors in a MiB.
const MIB: u64 = 2048;

/// A partition: its name, its type, first MiB, the MiB it ends before.
pub(super) type Part<'a> = (&'a str, &'a str, u64, u64);

pub(super) const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
pub(super) const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
pub(super) const SWAP: &str = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";
pub(super) const BIOS: &str = "21686148-6449-6E6F-744E-656564454649";

pub(super) fn disk(name: &str) -> Value {
    json!({"device": "disk", "disk": name})
}

pub(super) fn part(disk: &str, number: u32) -> Value {
    json!({"device": "partition", "disk": disk, "number": number})
}

pub(super) fn mapper(name: &str) -> Value {
    json!({"device": "mapper", "name": name})
}

pub(super) fn lv(group: &str, name: &str) -> Value {
    json!({"device": "logical-volume", "group": group, "name": name})
}

pub(super) fn array(name: &str) -> Value {
    json!({"device": "array", "name": name})
}

pub(super) fn inner(on: Value, number: u32) -> Value {
    json!({"device": "inner", "on": on, "number": number})
}

pub(super) fn zvol(dataset: &str) -> Value {
    json!({"device": "volume", "dataset": dataset})
}

pub(super) fn wipe(disk: &str) -> Value {
    json!({"do": "wipe-disk", "disk": disk})
}

/// A GPT; names are prefixed as disko does: `disk-<disk>-<name>`.
pub(super) fn gpt(device: Value, prefix: &str, parts: &[Part<'_>]) -> Value {
    gpt_with(device, prefix, parts, Value::Null)
}

pub(super) fn gpt_with(device: Value, prefix: &str, parts: &[Part<'_>], hybrid: Value) -> Value {
    let partitions: Vec<Value> = (1..)
        .zip(parts)
        .map(|(number, (name, type_guid, first, end))| {
            json!({
                "number": number, "name": name, "label": format!("{prefix}-{name}"),
                "type_guid": type_guid, "guid": null, "first_lba": first * MIB,
                "last_lba": end * MIB - 1, "attributes": 0,
            })
        })
        .collect();
    json!({"do": "partition", "device": device, "keep": false, "partitions": partitions,
        "hybrid": hybrid})
}

pub(super) fn vfat(device: Value) -> Value {
    json!({"do": "make-vfat", "device": device, "label": null})
}

pub(super) fn mkfs(device: Value, fstype: &str, args: &[&str]) -> Value {
    json!({"do": "make-filesystem", "device": device, "fstype": fstype, "extra_args": args})
}

/// A container that keys quickly, as disko's examples have it (`--iter-time 1`), with discards.
pub(super) fn luks(device: Value, name: &str) -> Value {
    json!({
        "do": "format-luks", "device": device, "name": name,
        "format": {"version": null, "cipher": null, "key_size": null, "hash": null,
            "sector_size": null, "label": null, "subsystem": null, "uuid": null,
            "pbkdf": {"kind": null, "iter_time": 1, "iterations": null, "memory": null,
                "parallel": null}},
        "open": {"allow_discards": true, "no_read_workqueue": false,
            "no_write_workqueue": false, "same_cpu_crypt": false,
            "submit_from_crypt_cpus": false},
    })
}

/// A key file: path, offset and size.
pub(super) fn key_file(path: &str, offset: u64, size: Option<u64>) -> Value {
    json!({"path": path, "trim_newline": false, "offset": offset, "size": size})
}

pub(super) fn enroll(device: Value, name: &str, key: Value, additional: &[Value]) -> Value {
    let mut unlock = key;
    unlock["by"] = json!("key-file");
    json!({"do": "enroll", "device": device, "name": name, "unlock": unlock,
        "additional": additional})
}

pub(super) fn enroll_password(device: Value, name: &str) -> Value {
    json!({"do": "enroll", "device": device, "name": name, "unlock": {"by": "password"},
        "additional": []})
}

pub(super) fn close(name: &str) -> Value {
    json!({"do": "close-luks", "name": name})
}

pub(super) fn pv(device: Value) -> Value {
    json!({"do": "create-physical-volume", "device": device})
}

pub(super) fn vg(name: &str, members: &[Value]) -> Value {
    json!({"do": "create-volume-group", "name": name, "members": members})
}

pub(super) fn lvcreate(group: &str, name: &str, mib: u64, kind: Option<&str>) -> Value {
    json!({"do": "create-logical-volume", "group": group, "name": name,
        "size": {"size": "bytes", "bytes": mib << 20}, "kind": kind, "thin_pool": null,
        "extra_args": []})
}

/// All that is left.
pub(super) fn lvcreate_rest(group: &str, name: &str) -> Value {
    json!({"do": "create-logical-volume", "group": group, "name": name,
        "size": {"size": "percent", "percent": 100, "of": "FREE"}, "kind": null,
        "thin_pool": null, "extra_args": []})
}

pub(super) fn deactivate(group: &str) -> Value {
    json!({"do": "deactivate-group", "name": group})
}

pub(super) fn raid(name: &str, level: u32, members: &[Value]) -> Value {
    json!({"do": "create-array", "name": name, "level": level, "metadata": "default",
        "members": members, "extra_args": []})
}

pub(super) fn stop(name: &str) -> Value {
    json!({"do": "stop-array", "name": name})
}

pub(super) fn swap(device: Value) -> Value {
    json!({"do": "make-swap", "device": device, "label": null, "uuid": null})
}

pub(super) fn swapon(device: Value, priority: Option<u16>, discard: Option<&str>) -> Value {
    json!({"do": "swapon", "device": device, "priority": priority, "discard": discard,
        "options": []})
}

pub(super) fn swapoff(device: Value) -> Value {
    json!({"do": "swapoff", "device": device})
}

pub(super) fn subvolume(device: Value, path: &str) -> Value {
    json!({"do": "create-subvolume", "device": device, "subvolume": path, "extra_args": []})
}

pub(super) fn swap_file(device: Value, path: &str, mib: u64) -> Value {
    json!({"do": "create-swap-file", "device": device, "path": path, "size": mib << 20})
}

/// A mount of a file system on a device.
pub(super) fn mount(device: Value, fstype: &str, target: &str, options: &[&str]) -> Value {
    json!({"do": "mount", "source": {"source": "filesystem", "device": device, "fstype": fstype},
        "target": target, "options": options})
}

pub(super) fn mount_dataset(dataset: &str, target: &str) -> Value {
    json!({"do": "mount", "source": {"source": "dataset", "dataset": dataset},
        "target": target, "options": ["zfsutil"]})
}

pub(super) fn tmpfs(target: &str, options: &[&str]) -> Value {
    json!({"do": "mount", "source": {"source": "virtual", "fstype": "tmpfs", "name": "tmpfs"},
        "target": target, "options": options})
}

pub(super) fn bind(path: &str, target: &str) -> Value {
    json!({"do": "mount", "source": {"source": "bind", "path": path, "recursive": false},
        "target": target, "options": []})
}

/// Shell that has to succeed while everything is mounted.
pub(super) fn check(script: &str) -> Value {
    json!({"do": "hook", "path": "by.hand", "hook": "post-mount",
        "variables": {"name": "by hand"}, "script": script})
}

/// A pool; `vdevs` and the others as the plan has them.
pub(super) fn pool(name: &str, vdevs: Value, further: Value) -> Value {
    let mut pool = json!({"do": "create-pool", "name": name, "vdevs": vdevs,
        "properties": {"ashift": "12"}, "root_properties": {"mountpoint": "none"},
        "features": FEATURES});
    for (key, value) in further.as_object().into_iter().flatten() {
        pool[key] = value.clone();
    }
    pool
}

/// What the datasets of these layouts need.
const FEATURES: &[&str] = &[
    "allocation_classes",
    "async_destroy",
    "bookmarks",
    "embedded_data",
    "empty_bpobj",
    "enabled_txg",
    "encryption",
    "extensible_dataset",
    "bookmark_v2",
    "hole_birth",
    "large_blocks",
    "lz4_compress",
    "spacemap_histogram",
    "zstd_compress",
];

pub(super) fn vdev(member: Value) -> Value {
    json!({"vdev": "disk", "member": member})
}

pub(super) fn mirror(members: &[Value]) -> Value {
    json!({"vdev": "mirror", "members": members})
}

pub(super) fn raidz(parity: u8, members: &[Value]) -> Value {
    json!({"vdev": "raidz", "parity": parity, "members": members})
}

pub(super) fn dataset(name: &str, properties: Value, key: Value) -> Value {
    json!({"do": "create-dataset", "dataset": name, "properties": properties, "key": key})
}

pub(super) fn volume(name: &str, mib: u64, properties: Value, key: Value) -> Value {
    json!({"do": "create-volume", "dataset": name, "size": mib << 20, "properties": properties,
        "sparse": false, "key": key})
}

pub(super) fn snapshot(name: &str) -> Value {
    json!({"do": "create-snapshot", "snapshot": name})
}

pub(super) fn export(pool: &str) -> Value {
    json!({"do": "export-pool", "pool": pool})
}

pub(super) fn unmount() -> Value {
    json!({"do": "unmount"})
}

pub(super) fn prove() -> Value {
    json!({"do": "prove-seal"})
}
