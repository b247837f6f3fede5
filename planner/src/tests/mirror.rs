//! `--mirror-esp`.

use super::layouts::{assert_uses_what_is_there, machine_for};
use super::*;
use keystone_protocol::layout::partition_type;
use keystone_protocol::plan::{Action, DeviceRef};
use serde_json::{Value, json};

const RAIDZ1: &str = include_str!("../../../tests/layouts/keystone-derived/os-zfs-raidz1.json");

fn mirrored(layout: &str, sector_size: u32) -> Case {
    machine_for(layout, 64 << 30, sector_size).with(|case| case.options.mirror_esp = true)
}

#[test]
fn every_other_member_gets_an_esp_of_the_same_size_first() {
    for (layout, others) in [(OS_MIRROR, &["disk1"][..]), (RAIDZ1, &["disk1", "disk2"])] {
        for sector_size in [512, 4096] {
            let plan = mirrored(layout, sector_size).plan();
            assert_uses_what_is_there(layout, &plan.steps);
            let mut bytes = Vec::new();
            for step in &plan.steps {
                let Action::Partition(table) = &step.action else { continue };
                let esp = table.partitions.iter().find(|p| p.type_guid == partition_type::ESP);
                let esp = esp.unwrap_or_else(|| panic!("{} has no ESP", step.id));
                bytes.push((esp.last_lba - esp.first_lba + 1) * u64::from(sector_size));
                let first = table.partitions.iter().min_by_key(|p| p.first_lba).unwrap();
                assert_eq!(first, esp, "the ESP is the first on its disk");
                assert_eq!(esp.first_lba * u64::from(sector_size), 1 << 20);
            }
            assert_eq!(bytes, vec![1 << 30; others.len() + 1]);
            let copies: Vec<_> = plan
                .steps
                .iter()
                .filter_map(|step| match &step.action {
                    Action::CopyEsp { to, mountpoint } => Some((to.clone(), mountpoint.clone())),
                    _ => None,
                })
                .collect();
            let disks: Vec<_> = copies.iter().filter_map(|(to, _)| to.disk()).collect();
            assert_eq!(disks, others);
            assert!(copies.iter().all(|(_, mountpoint)| mountpoint == "/boot"));
            let note = plan.notes.iter().find(|note| note.contains("differs from disko"));
            assert!(note.is_some(), "{:?}", plan.notes);
        }
    }
}

/// Of two ESPs the system is installed to that at `/boot`, so that one is copied.
#[test]
fn the_esp_at_boot_is_mirrored_whatever_its_disk_is_called() {
    let mut document: Value = serde_json::from_str(OS_MIRROR).unwrap();
    let esp = |label: &str, size: &str, target: &str| {
        let device = format!("/dev/disk/by-partlabel/{label}");
        json!({"label": label, "priority": 1, "size": size, "type": "EF00", "content": {
            "type": "filesystem", "format": "vfat", "device": device, "mountpoint": target}})
    };
    let disks = &mut document["disk"];
    disks["disk0"]["content"]["partitions"]["esp"] = esp("further", "1G", "/efi");
    disks["disk1"]["content"]["partitions"]["esp"] = esp("boot", "512M", "/boot");
    let layout = document.to_string();
    let plan = mirrored(&layout, 512).plan();
    assert_uses_what_is_there(&layout, &plan.steps);
    let copies = plan.steps.iter().filter_map(|step| match &step.action {
        Action::CopyEsp { to, mountpoint } => Some((to.disk(), mountpoint.as_str())),
        _ => None,
    });
    assert_eq!(copies.collect::<Vec<_>>(), [(Some("disk0"), "/boot")]);
    let copy = plan.steps.iter().find_map(|step| match &step.action {
        Action::Partition(table) => table.partitions.iter().find(|p| p.label == "disk-disk0-ESP"),
        _ => None,
    });
    let copy = copy.unwrap();
    assert_eq!((copy.last_lba - copy.first_lba + 1) * 512, 512 << 20);
}

/// The layout's own partitions keep their numbers, and the pool its members.
#[test]
fn the_layouts_partitions_keep_their_numbers() {
    let members = |case: &Case| {
        case.plan().steps.into_iter().find_map(|step| match step.action {
            Action::CreatePool(pool) => Some(pool.members()),
            _ => None,
        })
    };
    let mirrored = mirrored(OS_MIRROR, 512);
    let plain = mirrored.clone().with(|case| case.options.mirror_esp = false);
    assert_eq!(members(&mirrored), members(&plain));
    let copy = DeviceRef::Partition { disk: "disk1".into(), number: 3 };
    let made = mirrored.plan().steps.into_iter().any(|step| match step.action {
        Action::MakeVfat { device, .. } => device == copy,
        _ => false,
    });
    assert!(made, "the copy is partition 3");
}

#[test]
fn it_is_refused_where_there_is_nothing_to_mirror_to() {
    for layout in [SINGLE, OS_EXT4] {
        let refusal = mirrored(layout, 512).refusal();
        assert!(refusal.message.contains("--mirror-esp"), "{refusal}");
    }
}

/// The installed system mounts it by its name.
#[test]
fn a_copys_name_on_another_disk_is_refused() {
    let case = mirrored(OS_MIRROR, 512).with(|case| {
        let disk = case.inventory.disks.iter_mut().find(|disk| disk.kernel_name == "other");
        let partition = super::occupied::partition(1, "disk-disk1-ESP", 1 << 30);
        disk.unwrap().contents.partitions = vec![partition];
    });
    let refusal = case.refusal();
    assert!(refusal.message.contains("is named \"disk-disk1-ESP\""), "{refusal}");
    let plain = case.with(|case| case.options.mirror_esp = false);
    assert!(!ids(&plain.plan()).is_empty());
}
