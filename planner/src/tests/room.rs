//! Layouts that would run out of room after the disks were wiped.

use super::kept::laid_out;
use super::layouts::machine_for;
use super::*;
use crate::plan_disks;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::message::RefusalKind;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

const MDADM: &str = include_str!("../../../tests/layouts/disko/mdadm.json");
const OS_RAIDZ1: &str = include_str!("../../../tests/layouts/keystone-derived/os-zfs-raidz1.json");

/// A layout with an ESP on a disk of its own, `contents` on the whole of others, and `more`.
fn layout(contents: &[Value], more: Value) -> String {
    let mut layout = more;
    let mut disk = |name: String, partition: Value| {
        layout["disk"][&name] = json!({"device": format!("/dev/disk/by-id/{name}"),
            "content": {"type": "gpt", "partitions": {&name: partition}}});
    };
    let esp = json!({"type": "filesystem", "format": "vfat", "mountpoint": "/boot",
        "device": "/dev/disk/by-partlabel/esp"});
    disk("esp".into(), json!({"label": "esp", "size": "1G", "type": "EF00", "content": esp}));
    for (index, content) in contents.iter().enumerate() {
        let name = format!("d{index}");
        disk(name.clone(), json!({"label": name, "size": "100%", "content": content}));
    }
    layout.to_string()
}

fn ext4(device: &str, mountpoint: &str) -> Value {
    json!({"type": "filesystem", "format": "ext4", "device": device, "mountpoint": mountpoint})
}

/// A volume group of so many disks: a root with those attributes, and other volumes.
fn group(disks: usize, root: Value, others: Value) -> String {
    let mut volumes = others;
    volumes["root"] = root;
    volumes["root"]["content"] = ext4("/dev/vg/root", "/");
    let member = json!({"type": "lvm_pv", "vg": "vg"});
    layout(&vec![member; disks], json!({"lvm_vg": {"vg": {"type": "lvm_vg", "lvs": volumes}}}))
}

/// The refusal on disks of so many GiB.
fn refused(layout: &str, gib: u64) -> String {
    let refusal = machine_for(layout, gib * GIB, 512).refusal();
    assert_eq!(refusal.kind, RefusalKind::TargetUnfit, "{refusal}");
    format!("{refusal}\n  {}", refusal.hint.clone().unwrap_or_default())
}

/// Disks of so many GiB are enough; the refusal on disks of one less.
fn needs(layout: &str, gib: u64) -> String {
    machine_for(layout, gib * GIB, 512).plan();
    refused(layout, gib - 1)
}

fn shown(rows: &[(&str, String)]) -> String {
    let rows = rows.iter().map(|(name, refusal)| format!("{name}:\n  {refusal}"));
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_share_is_of_what_other_volumes_leave() {
    let swap =
        json!({"swap": {"size": "16G", "content": {"type": "swap", "device": "/dev/vg/swap"}}});
    let beside_swap = |root: Value| group(1, root, swap.clone());
    let first = json!({"size": "100%FREE", "priority": 1});
    let refusals = shown(&[
        ("what is left", needs(&beside_swap(json!({"size": "100%FREE"})), 19)),
        ("all of the group", needs(&beside_swap(json!({"size": "100%VG"})), 19)),
        ("nothing", refused(&group(1, json!({"size": "100%"}), json!({"all": first})), 30)),
        ("swap after all", refused(&beside_swap(first), 30)),
        ("both given", needs(&beside_swap(json!({"size": "4G"})), 21)),
    ]);
    insta::assert_snapshot!(refusals);
}

/// Its extents may be smaller, and nothing is wiped: lvm says itself what it can't add.
#[test]
fn a_group_that_is_there_is_not_measured() {
    let layout = group(1, json!({"size": "16G"}), json!({"other": {"size": "49149M"}}));
    let mut case = laid_out(&group(1, json!({"size": "16G"}), json!({})));
    case.layout = layout.clone();
    case.options.disko_mode = DiskoMode::Format;
    plan_disks(&case.inventory, &case.layout, &case.options).unwrap();
    case.options.disko_mode = DiskoMode::Disko;
    case.options.erase = true;
    let refusal = plan_disks(&case.inventory, &case.layout, &case.options).unwrap_err();
    assert!(refusal.message.contains("4.0 MiB too little"), "{refusal}");
}

#[test]
fn copies_and_parity_take_room_too() {
    let of = |kind: &str, size: &str, disks: usize| {
        group(disks, json!({"size": size, "lvm_type": kind}), json!({}))
    };
    let refusals = shown(&[
        ("raid1", needs(&of("raid1", "8G", 2), 9)),
        ("mirror", needs(&of("mirror", "8G", 2), 9)),
        ("raid10", needs(&of("raid10", "16G", 4), 9)),
        ("raid5", needs(&of("raid5", "16G", 3), 9)),
        ("raid6", needs(&of("raid6", "24G", 5), 9)),
        ("all as raid1", needs(&of("raid1", "100%FREE", 2), 3)),
    ]);
    insta::assert_snapshot!(refusals);
}

#[test]
fn what_volumes_promise_is_not_there() {
    let pool = json!({"thin": {"size": "100%FREE", "lvm_type": "thin-pool", "priority": 1}});
    let thin = json!({"size": "100G", "lvm_type": "thinlv", "pool": "thin"});
    let on_thin = |content: Value, more: Value| {
        let mut more = more;
        let mut volumes = pool.clone();
        volumes["root"] = thin.clone();
        volumes["root"]["content"] = content;
        more["lvm_vg"] = json!({"vg": {"type": "lvm_vg", "lvs": volumes}});
        layout(&[json!({"type": "lvm_pv", "vg": "vg"})], more)
    };
    let luks = json!({"type": "luks", "name": "root", "settings": {"keyFile": "/tmp/key"},
        "content": {"type": "gpt", "partitions": {"root": {"label": "root", "size": "50G",
            "content": ext4("/dev/disk/by-partlabel/root", "/")}}}});
    let member = json!({"type": "zfs", "pool": "tank", "device": "/dev/vg/root"});
    let root = json!({"zpool": {"tank": {"type": "zpool", "mountpoint": "/"}}});
    let zvols = |arguments: &[&str]| {
        let volume = json!({"type": "zfs_volume", "size": "6G", "extraArgs": arguments});
        let root = json!({"type": "zfs_volume", "size": "50G", "extraArgs": ["-s"],
            "content": ext4("/dev/zvol/tank/root", "/")});
        let tank = json!({"type": "zpool", "datasets": {"other": volume, "root": root}});
        layout(
            &[json!({"type": "zfs", "pool": "tank", "device": "/dev/disk/by-partlabel/d0"})],
            json!({"zpool": {"tank": tank}}),
        )
    };
    let refusals = shown(&[
        ("a thin volume", needs(&group(1, thin.clone(), pool.clone()), 3)),
        ("in containers", needs(&on_thin(luks, json!({})), 3)),
        ("a pool on one", needs(&on_thin(member, root), 3)),
        ("a sparse volume", needs(&zvols(&["-s"]), 3)),
        ("beside another", needs(&zvols(&[]), 9)),
    ]);
    insta::assert_snapshot!(refusals);
}

#[test]
fn swap_files_are_not_the_stores() {
    let btrfs = json!({"type": "btrfs", "device": "/dev/disk/by-partlabel/d0",
        "swap": {"a": {"size": "1G"}},
        "subvolumes": {"/root": {"mountpoint": "/"},
            "/swap": {"mountpoint": "/swap", "swap": {"b": {"size": "3G"}}}}});
    let refusal = needs(&layout(&[btrfs], json!({})), 7);
    insta::assert_snapshot!(refusal);
}

/// Disks of 20 GiB, of which the ESP and swap take some, with the mode of the layout and as a
/// stripe.
#[test]
fn a_mode_of_a_pool_leaves_less_than_a_stripe() {
    let modes = [(OS_RAIDZ1, "raidz1", 25), (OS_MIRROR, "mirror", 13)];
    let mut rows = Vec::new();
    for (layout, mode, gib) in modes {
        let of_mode = machine_for(layout, 20 * GIB, 512);
        let stripe = of_mode.clone().layout(&format!("\"mode\": \"{mode}\""), "\"mode\": \"\"");
        let credstore =
            |case: Case| case.layout("\"size\": \"100M\"", &format!("\"size\": \"{gib}G\""));
        let closure = |case: Case| case.with(|case| case.closure.nar_bytes = gib * GIB);
        credstore(stripe.clone()).plan();
        closure(stripe).plan();
        for (what, case) in
            [("credstore", credstore(of_mode.clone())), ("closure", closure(of_mode))]
        {
            let refusal = case.refusal();
            assert_eq!(refusal.kind, RefusalKind::TargetUnfit, "{refusal}");
            rows.push(format!("{mode}, {what}:\n  {refusal}"));
        }
    }
    let refusals = rows.join("\n");
    insta::assert_snapshot!(refusals);
}

/// Metadata, and on RAID-Z what blocks of 16 KiB take beyond those of 128 KiB.
#[test]
fn volumes_reserve_more_than_their_size() {
    let pool = |mode: &str, disks: usize, options: Value, volume: Value| {
        let members: Vec<Value> = (0..disks)
            .map(|index| {
                let device = format!("/dev/disk/by-partlabel/d{index}");
                json!({"type": "zfs", "pool": "tank", "device": device})
            })
            .collect();
        let tank = json!({"type": "zpool", "mode": mode, "options": options, "mountpoint": "/",
            "datasets": {"volume": volume}});
        layout(&members, json!({"zpool": {"tank": tank}}))
    };
    let volume = |size: &str, arguments: &[&str]| {
        let arguments = json!(arguments);
        json!({"type": "zfs_volume", "size": size, "extraArgs": arguments})
    };
    let sectors = json!({"ashift": "12"});
    let one = |arguments: &[&str]| pool("", 1, sectors.clone(), volume("9830M", arguments));
    let raidz1 = |options: Value| pool("raidz1", 4, options, volume("26G", &[]));
    for enough in [one(&["-s"]), one(&["-o", "refreservation=1G"]), raidz1(json!({}))] {
        machine_for(&enough, 10 * GIB, 512).plan();
    }
    let refusals = shown(&[
        ("one disk", refused(&one(&[]), 10)),
        ("smaller blocks", refused(&one(&["-b", "4k"]), 10)),
        ("raidz1", refused(&raidz1(sectors), 10)),
    ]);
    insta::assert_snapshot!(refusals);
}

/// Planned on disks of so many GiB without anything that is installed.
fn made(layout: &str, gib: u64) -> Result<Plan, Refusal> {
    let case = machine_for(layout, gib * GIB, 512);
    plan_disks(&case.inventory, &case.layout, &case.options)
}

/// In containers and on RAIDs, as far as it can be known before they are there.
#[test]
fn partitions_of_inner_tables_have_to_fit() {
    // A mirror of two disks of 20 GiB.
    let on_raid = |end: &str| {
        let mut layout: Value = serde_json::from_str(MDADM).unwrap();
        let partition = layout.pointer_mut("/mdadm/raid1/content/partitions/primary").unwrap();
        partition["end"] = json!(end);
        made(&layout.to_string(), 20)
    };
    let in_container = |first: &str, second: &str, gib: u64| {
        let partition =
            |name: &str, size: &str| json!({"label": name, "size": size, "priority": 1});
        let table = json!({"type": "gpt", "partitions":
            {"a": partition("a", first), "b": partition("b", second)}});
        let luks = json!({"type": "luks", "name": "c", "settings": {"keyFile": "/tmp/key"},
            "content": table});
        made(&layout(&[luks], json!({})), gib)
    };
    for enough in [on_raid("+19G"), in_container("9G", "900M", 10)] {
        enough.unwrap_or_else(|refusal| panic!("{refusal}"));
    }
    let rows = [
        ("too large", on_raid("+20G")),
        ("too large in a container", in_container("9G", "1G", 10)),
        ("nothing is left", in_container("100%", "1G", 10)),
    ]
    .map(|(name, result)| {
        let refusal = result.expect_err(name);
        assert_eq!(refusal.kind, RefusalKind::TargetUnfit, "{refusal}");
        (name, format!("{refusal}\n  {}", refusal.hint.clone().unwrap_or_default()))
    });
    let refusals = shown(&rows);
    insta::assert_snapshot!(refusals);
}
