//! Every example on disks that it was laid out on before.

use super::layouts::{assert_uses_what_is_there, documents, machine_for};
use super::*;
use crate::plan_disks;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::inventory::{
    Contents, ImportedPool, Partition, PoolState, Signature, Table, ZFS_CACHE, ZFS_SPARE,
};
use keystone_protocol::layout::{Content, Layout};
use keystone_protocol::plan::{
    Action, DeviceRef, InnerPresence, InnerTable, MbrKind, MbrTable, Release, Step,
};
use serde_json::{Value, json};

/// What a content looks like on its device.
fn signatures(layout: &Layout, content: Option<&Content>) -> Vec<Signature> {
    let filesystem = |fstype: &str| Signature::Filesystem {
        fstype: fstype.into(),
        label: None,
        uuid: None,
        used: None,
    };
    match content {
        Some(Content::Filesystem(found)) => vec![filesystem(found.format.name())],
        Some(Content::Btrfs(_)) => vec![filesystem("btrfs")],
        Some(Content::Luks(_)) => vec![Signature::Luks { version: 2, uuid: None, label: None }],
        Some(Content::Zfs(member)) if layout.is_auxiliary(member) => {
            vec![Signature::Other { name: ZFS_CACHE.into() }]
        }
        Some(Content::Zfs(member)) => vec![Signature::ZfsMember {
            pool: member.pool.clone(),
            guid: member.pool.len().to_string(),
            hostname: None,
            hostid: None,
            state: PoolState::Exported,
            txg: 1,
            written: None,
        }],
        Some(Content::PhysicalVolume(_)) => vec![Signature::Lvm],
        Some(Content::ArrayMember(_)) => vec![Signature::MdRaid],
        Some(Content::Swap(swap)) if !swap.random_encryption => vec![Signature::Swap],
        _ => Vec::new(),
    }
}

/// The machine after the layout was made on it, everything closed.
pub(super) fn laid_out(text: &str) -> Case {
    let layout = Layout::parse(text).unwrap();
    let mut case = machine_for(text, 64 << 30, 512);
    let options = InstallOptions { disko_mode: DiskoMode::Format, ..case.options.clone() };
    let made = plan_disks(&case.inventory, &case.layout, &options).unwrap();
    for disk in &layout.disks {
        let mut contents = Contents::default();
        match &disk.content {
            Some(Content::Table(legacy)) if !legacy.gpt => {
                let table = made.steps.iter().find_map(|step| match &step.action {
                    Action::PartitionMbr(table) if table.device.disk() == Some(&disk.name) => {
                        Some(table)
                    }
                    _ => None,
                });
                contents.table = Some(Table::Mbr { id: "12345678".into() });
                for (planned, wanted) in table.unwrap().partitions.iter().zip(&legacy.partitions) {
                    let sectors = match planned.kind {
                        MbrKind::Extended => 2,
                        _ => planned.last_lba + 1 - planned.first_lba,
                    };
                    contents.partitions.push(Partition {
                        number: planned.number,
                        kernel_name: format!("x{}", planned.number),
                        first_lba: planned.first_lba,
                        size: sectors * 512,
                        type_guid: None,
                        guid: None,
                        label: None,
                        attributes: None,
                        signatures: signatures(&layout, wanted.content.as_ref()),
                        nixos: None,
                        holders: Vec::new(),
                    });
                }
            }
            Some(content @ (Content::Gpt(_) | Content::Table(_))) => {
                let table = made.steps.iter().find_map(|step| match &step.action {
                    Action::Partition(table) if table.device.disk() == Some(&disk.name) => {
                        Some(table)
                    }
                    _ => None,
                });
                contents.table =
                    Some(Table::Gpt { guid: "7f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55".into() });
                let wanted: Vec<Option<&Content>> = match content {
                    Content::Gpt(gpt) => {
                        gpt.partitions.iter().map(|p| p.content.as_ref()).collect()
                    }
                    Content::Table(table) => {
                        table.partitions.iter().map(|p| p.content.as_ref()).collect()
                    }
                    _ => Vec::new(),
                };
                for (planned, wanted) in table.unwrap().partitions.iter().zip(wanted) {
                    contents.partitions.push(Partition {
                        number: planned.number,
                        kernel_name: format!("x{}", planned.number),
                        first_lba: planned.first_lba,
                        size: (planned.last_lba + 1 - planned.first_lba) * 512,
                        type_guid: Some(planned.type_guid.clone()),
                        guid: planned
                            .guid
                            .clone()
                            .or(Some("0f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55".into())),
                        label: Some(planned.label.clone()),
                        attributes: Some(planned.attributes),
                        signatures: signatures(&layout, wanted),
                        nixos: None,
                        holders: Vec::new(),
                    });
                }
            }
            content => contents.signatures = signatures(&layout, content.as_ref()),
        }
        let found =
            case.inventory.disks.iter_mut().find(|found| found.links.contains(&disk.device));
        found.unwrap().contents = contents;
    }
    case
}

/// What writes to a device that may hold something.
pub(super) fn writes(step: &Step) -> bool {
    matches!(
        step.action,
        Action::WipeDisk { .. }
            | Action::Release(_)
            | Action::Partition(_)
            | Action::PartitionMbr(MbrTable { keep: false, .. })
            | Action::FormatLuks { .. }
            | Action::CreatePool(_)
    )
}

/// What makes something where nothing is.
fn makes(step: &Step) -> bool {
    let makes_table = |table: &InnerTable| table.presence != InnerPresence::Found;
    matches!(&step.action, Action::PartitionInner(table) if makes_table(table))
        || matches!(
            step.action,
            Action::MakeVfat { .. }
                | Action::MakeFilesystem { .. }
                | Action::MakeSwap { .. }
                | Action::CreateArray(_)
                | Action::CreatePhysicalVolume { .. }
                | Action::CreateVolumeGroup { .. }
                | Action::CreateLogicalVolume(_)
                | Action::CreateDataset { .. }
                | Action::CreateVolume { .. }
                | Action::CreateKey { .. }
                | Action::CreateSubvolume { .. }
                | Action::CreateSwapFile { .. }
                | Action::CreateSnapshot { .. }
                | Action::Enroll { .. }
        )
}

#[test]
fn every_example_is_mounted_again() {
    let mut mounted = 0;
    for path in documents() {
        let layout = std::fs::read_to_string(&path).unwrap();
        let case = laid_out(&layout);
        let shown = path.display();
        for mode in [DiskoMode::Mount, DiskoMode::Format, DiskoMode::FormatMount] {
            let options = InstallOptions { disko_mode: mode, ..case.options.clone() };
            let plan = match plan_disks(&case.inventory, &case.layout, &options) {
                Ok(plan) => plan,
                // Nothing can be made in a container or a RAID before it was looked into.
                Err(refusal) if mode.formats() && refusal.message.contains("once that is open") => {
                    continue;
                }
                Err(refusal) => panic!("{shown}: {mode} refused: {refusal}"),
            };
            assert!(plan.is_consistent());
            assert_uses_what_is_there(&layout, &plan.steps);
            let wrong =
                plan.steps.iter().find(|step| writes(step) || (!mode.formats() && makes(step)));
            assert!(wrong.is_none(), "{shown}: {mode}: {wrong:?}");
            assert!(plan.basis.destroys.is_empty() && plan.containers.is_empty());
            let mounts = plan.steps.iter().any(|step| matches!(step.action, Action::Mount(_)));
            mounted += usize::from(mounts && mode == DiskoMode::Mount);
        }
    }
    assert!(mounted >= 25, "{mounted}");
}

/// A mirror with logs, mirrors for metadata and deduplication tables, a cache and a spare.
const AUXILIARY: &str = include_str!("../../../tests/layouts/written/zfs-caches-and-spares.json");

/// What is on a partition of a disk of [`AUXILIARY`].
fn on<'a>(case: &'a mut Case, disk: &str, number: u32) -> &'a mut Vec<Signature> {
    let link = format!("/dev/sd{disk}");
    let mut disks = case.inventory.disks.iter_mut();
    let disk = disks.find(|found| found.links.contains(&link)).unwrap();
    let mut partitions = disk.contents.partitions.iter_mut();
    &mut partitions.find(|partition| partition.number == number).unwrap().signatures
}

fn part(disk: &str, number: u32) -> DeviceRef {
    DeviceRef::Partition { disk: disk.into(), number }
}

/// The members of the pool of [`AUXILIARY`] that it can't do without: number 1 of disk `a` is the ESP,
/// `c` has the cache and the spare.
const DATA: [(&str, u32); 8] =
    [("a", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 1), ("b", 2), ("b", 3), ("b", 4)];

fn other(name: &str) -> Vec<Signature> {
    vec![Signature::Other { name: name.into() }]
}

pub(super) fn of_pool(guid: &str) -> Vec<Signature> {
    vec![Signature::ZfsMember {
        pool: "tank".into(),
        guid: guid.into(),
        hostname: None,
        hostid: None,
        state: PoolState::Exported,
        txg: 1,
        written: None,
    }]
}

/// The labels of caches and spares do not say which pool they are of.
#[test]
fn a_pool_is_opened_with_its_caches_and_spares_and_without() {
    let planned = |mode, change: fn(&mut Case)| {
        let case = laid_out(AUXILIARY).with(change);
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        plan_disks(&case.inventory, &case.layout, &options)
    };
    let changes: [(&str, usize, Change); 4] = [
        ("as it is made", 0, |case| *on(case, "c", 2) = other(ZFS_SPARE)),
        ("the spare is in use", 0, |case| *on(case, "c", 2) = of_pool("4")),
        ("one has no label", 1, |case| on(case, "c", 1).clear()),
        ("none has a label", 2, |case| {
            on(case, "c", 1).clear();
            on(case, "c", 2).clear();
        }),
    ];
    for (name, warnings, change) in changes {
        for mode in [DiskoMode::Mount, DiskoMode::Format, DiskoMode::FormatMount] {
            let plan = planned(mode, change).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            let import = plan.steps.iter().find_map(|step| match &step.action {
                Action::ImportPool(import) => Some(import),
                _ => None,
            });
            let import = import.unwrap();
            assert_eq!(import.guid.as_deref(), Some("4"), "{name}");
            assert_eq!(import.members, DATA.map(|(disk, number)| part(disk, number)), "{name}");
            assert_eq!(import.auxiliary, [part("c", 1), part("c", 2)], "{name}");
            let without = plan.warnings.iter().filter(|said| said.contains("without it"));
            assert_eq!(without.count(), warnings, "{name}: {:?}", plan.warnings);
        }
    }
}

#[test]
fn a_cache_is_no_data_and_data_no_cache() {
    let changes: [(&str, DiskoMode, Change); 5] = [
        ("a file system in the cache's place", DiskoMode::Mount, |case| {
            *on(case, "c", 1) = vec![Signature::Swap];
        }),
        ("another pool's member as the spare", DiskoMode::Mount, |case| {
            *on(case, "c", 2) = of_pool("77");
        }),
        ("a cache's label in a log's place", DiskoMode::Mount, |case| {
            *on(case, "a", 2) = other(ZFS_CACHE);
        }),
        ("a log without a label", DiskoMode::Format, |case| on(case, "a", 2).clear()),
        ("only a cache is there", DiskoMode::Format, |case| {
            for (disk, number) in DATA.into_iter().chain([("c", 2)]) {
                on(case, disk, number).clear();
            }
        }),
    ];
    let mut refusals = Vec::new();
    for (name, mode, change) in changes {
        let case = laid_out(AUXILIARY).with(change);
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        let refusal = match plan_disks(&case.inventory, &case.layout, &options) {
            Err(refusal) => refusal,
            Ok(plan) => panic!("{name}: not refused: {:?}", ids(&plan)),
        };
        refusals.push(format!("{name}:\n  {refusal}"));
    }
    insta::assert_snapshot!(refusals.join("\n"));
}

/// Only labels that say so can prove that a pool is exported.
#[test]
fn a_pool_is_proven_exported_by_the_labels_of_its_data() {
    let case = laid_out(AUXILIARY).with(|case| {
        case.inventory.pools = vec![ImportedPool {
            name: "tank".into(),
            guid: "4".into(),
            health: "ONLINE".into(),
            devices: vec!["x2".into()],
            volumes: Default::default(),
            mounts: Vec::new(),
        }];
    });
    let options = InstallOptions { disko_mode: DiskoMode::Unmount, ..InstallOptions::default() };
    let plan = plan_disks(&case.inventory, &case.layout, &options).unwrap();
    let exported = plan.steps.iter().find_map(|step| match &step.action {
        Action::Release(Release::ExportPool { members, .. }) => Some(members.clone()),
        _ => None,
    });
    assert_eq!(exported.unwrap(), DATA.map(|(disk, number)| part(disk, number)));
}

#[test]
fn a_blank_disk_for_a_cache_keeps_no_pool_closed() {
    let text = include_str!("more.json");
    let cache = "/dev/disk/by-id/cache".to_owned();
    let case = laid_out(text).with(|case| {
        let disk = case.inventory.disks.iter_mut().find(|disk| disk.links.contains(&cache));
        disk.unwrap().contents = Contents::default();
    });
    let options = InstallOptions { disko_mode: DiskoMode::Mount, ..InstallOptions::default() };
    let plan = plan_disks(&case.inventory, &case.layout, &options).unwrap();
    assert!(plan.warnings.iter().any(|said| said.contains("without it")), "{:?}", plan.warnings);
}

#[test]
fn programs_are_needed_by_what_the_plan_does() {
    let lacks = |case: &Case, mode| {
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        plan_disks(&case.inventory, &case.layout, &options).map(|_| ()).map_err(|r| r.message)
    };
    let document = |name: &str| {
        let path = documents().into_iter().find(|path| path.ends_with(name)).unwrap();
        let mut case = laid_out(&std::fs::read_to_string(path).unwrap());
        case.inventory.tools.clear();
        case
    };
    let mut said = Vec::new();
    for name in ["lvm-raid.json", "complex.json", "simple-efi.json", "os-zfs-single.json"] {
        for mode in [DiskoMode::Mount, DiskoMode::Unmount, DiskoMode::Destroy] {
            let lacks = lacks(&document(name), mode);
            said.push(format!("{name}, {mode}: {}", lacks.err().unwrap_or("nothing".into())));
        }
    }
    // A group that is active has to be deactivated.
    let mut active = document("lvm-raid.json");
    let of_layout = |disk: &&mut Disk| !disk.boot_medium && !disk.contents.partitions.is_empty();
    let disk = active.inventory.disks.iter_mut().find(of_layout).unwrap();
    let slaves = vec![disk.contents.partitions[1].kernel_name.clone()];
    active.inventory.mappers = vec![Mapper {
        kernel_name: "dm-0".into(),
        name: "pool-root".into(),
        uuid: "LVM-0123".into(),
        slaves,
        mounts: Vec::new(),
    }];
    for mode in [DiskoMode::Unmount, DiskoMode::Destroy] {
        said.push(format!("active, {mode}: {}", lacks(&active, mode).unwrap_err()));
    }
    insta::assert_snapshot!(said.join("\n"));
}

/// `rootFsOptions` that changed are set on a pool that is there, as disko does.
#[test]
fn the_root_dataset_of_a_pool_that_is_there_gets_the_properties_of_the_layout() {
    let case = laid_out(SINGLE);
    for (mode, sets) in [(DiskoMode::Format, true), (DiskoMode::Mount, false)] {
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        let plan = plan_disks(&case.inventory, &case.layout, &options).unwrap();
        let at = |wanted: &str| ids(&plan).iter().position(|id| *id == wanted);
        assert_eq!(at("dataset:rpool").is_some(), sets, "{mode}");
        assert!(!sets || at("pool:rpool") < at("dataset:rpool"), "{:?}", ids(&plan));
    }
}

/// A system moved to a smaller disk can still be mounted and repaired.
#[test]
fn what_is_there_is_mounted_from_a_disk_that_is_too_small_for_the_layout() {
    let mut case = laid_out(SINGLE);
    let disk =
        case.inventory.disks.iter_mut().find(|disk| !disk.contents.is_blank() && !disk.boot_medium);
    disk.unwrap().identity.size = 4 << 30;
    for mode in [DiskoMode::Mount, DiskoMode::FormatMount] {
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        let planned = plan_disks(&case.inventory, &case.layout, &options);
        assert!(planned.is_ok(), "{mode}: {:?}", planned.map(|_| ()));
    }
}

#[test]
fn swap_of_the_layout_is_ended_wherever_it_is() {
    let path = documents().into_iter().find(|path| path.ends_with("zfs-encrypted-root.json"));
    let mut case = laid_out(&std::fs::read_to_string(path.unwrap()).unwrap());
    let dataset = "zroot/root/swap".to_owned();
    case.inventory.pools = vec![ImportedPool {
        name: "zroot".into(),
        guid: "5".into(),
        health: "ONLINE".into(),
        devices: vec!["x2".into()],
        volumes: [("zd0".to_owned(), dataset.clone())].into(),
        mounts: Vec::new(),
    }];
    let options = InstallOptions { disko_mode: DiskoMode::Unmount, ..case.options.clone() };
    case.inventory.swaps = vec!["zd0".into()];
    let plan = plan_disks(&case.inventory, &case.layout, &options).unwrap();
    let volume = DeviceRef::Volume { dataset };
    let first = &plan.steps[0].action;
    assert_eq!(first, &Action::Release(Release::Swapoff { device: volume }), "{:?}", ids(&plan));
    assert!(ids(&plan).contains(&"release:pool:zroot"), "{:?}", ids(&plan));
    // A partition on the volume is not the layout's.
    case.inventory.swaps = vec!["zd0p1".into()];
    let refusal = plan_disks(&case.inventory, &case.layout, &options).unwrap_err();
    assert!(refusal.message.contains("zroot/root/swap"), "{refusal}");
}

/// Two disks with a member of a RAID each, or of a volume group, in containers or not.
fn of_two(member: &Value, in_containers: bool) -> String {
    let disk = |name: &str| {
        let content = match in_containers {
            true => json!({"type": "luks", "name": name, "passwordFile": "/tmp/key",
                "content": member}),
            false => member.clone(),
        };
        json!({"device": format!("/dev/disk/by-id/{name}"), "content": {"type": "gpt",
            "partitions": {"p": {"label": name, "size": "100%", "content": content}}}})
    };
    let ext4 = |device: &str, target: &str| json!({"type": "filesystem", "format": "ext4", "device": device, "mountpoint": target});
    let mut document = json!({"disk": {"one": disk("one"), "two": disk("two")}});
    match member["type"].as_str() {
        Some("mdraid") => {
            document["mdadm"]["md"] = json!({"level": 1, "content": ext4("/dev/md/md", "/")});
        }
        _ => {
            let lv = json!({"size": "1G", "content": ext4("/dev/vg/lv", "/")});
            document["lvm_vg"]["vg"]["lvs"]["lv"] = lv;
        }
    }
    document.to_string()
}

/// The disk `two` of [`of_two`].
fn second(case: &mut Case) -> &mut Disk {
    let link = "/dev/disk/by-id/two".to_owned();
    case.inventory.disks.iter_mut().find(|disk| disk.links.contains(&link)).unwrap()
}

/// What can be missing of the second disk, with the mode in which it is.
const PARTS: [(&str, DiskoMode, Change); 5] = [
    ("a blank disk", DiskoMode::FormatMount, |case| second(case).contents = Contents::default()),
    ("no partition", DiskoMode::FormatMount, |case| second(case).contents.partitions.clear()),
    ("an empty partition", DiskoMode::Format, |case| {
        second(case).contents.partitions[0].signatures.clear();
    }),
    ("a disk that is wiped", DiskoMode::Disko, keep_the_first),
    ("a blank disk that is wiped", DiskoMode::Disko, |case| {
        second(case).contents = Contents::default();
        keep_the_first(case);
    }),
];

/// Gives the first disk `destroy = false`.
fn keep_the_first(case: &mut Case) {
    let mut document: Value = serde_json::from_str(&case.layout).unwrap();
    document["disk"]["one"]["destroy"] = false.into();
    case.layout = document.to_string();
}

fn planned(case: &Case, mode: DiskoMode) -> Result<Plan, Refusal> {
    let options = InstallOptions { disko_mode: mode, erase: true, ..case.options.clone() };
    plan_disks(&case.inventory, &case.layout, &options)
}

/// Each of [`PARTS`] that is refused, by what is said.
fn parts_refused(text: &str, planned_step: &str) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let there = laid_out(text);
    for (name, mode, change) in PARTS {
        match planned(&there.clone().with(change), mode) {
            Err(refusal) => {
                let hint = refusal.hint.clone().unwrap();
                said.push(format!("{name}:\n  {refusal}\n  {hint}"));
            }
            Ok(plan) => assert!(ids(&plan).contains(&planned_step), "{name}: {:?}", ids(&plan)),
        }
    }
    said
}

/// With a member missing it would be refused only when other things were made already.
#[test]
fn a_raid_stays_whole_or_is_made_whole() {
    let mut refused = Vec::new();
    for in_containers in [false, true] {
        let text = of_two(&json!({"type": "mdraid", "name": "md"}), in_containers);
        let there = laid_out(&text);
        for mode in [DiskoMode::Mount, DiskoMode::Format, DiskoMode::FormatMount, DiskoMode::Disko]
        {
            planned(&there, mode).unwrap_or_else(|refusal| panic!("{mode}: {refusal}"));
            let blank = planned(&machine_for(&text, 64 << 30, 512), mode);
            assert_eq!(blank.is_ok(), mode != DiskoMode::Mount, "{mode}");
        }
        refused.extend(parts_refused(&text, "none"));
    }
    assert_eq!(refused.len(), 2 * PARTS.len());
    insta::assert_snapshot!(refused.join("\n"));
}

/// It grows by a disk that is new, and loses none.
#[test]
fn a_volume_group_grows_and_loses_nothing() {
    let mut refused = Vec::new();
    for in_containers in [false, true] {
        let text = of_two(&json!({"type": "lvm_pv", "vg": "vg"}), in_containers);
        refused.extend(parts_refused(&text, "group:vg"));
    }
    assert_eq!(refused.len(), 2);
    insta::assert_snapshot!(refused.join("\n"));
}
