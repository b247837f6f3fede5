//! Tables of disko's older form on disks that were laid out by it before.

use super::kept::{laid_out, writes};
use super::layouts::{documents, machine_for};
use super::*;
use crate::plan_disks;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::layout::Layout;
use keystone_protocol::plan::{Action, DeviceRef, PlannedPartition, Release, Step};

/// disko's older form: partitions have no names, so that their places have to be the layout's.
#[test]
fn a_legacy_table_is_kept_where_it_is_the_layouts() {
    let filesystem = |target: &str| {
        format!(
            r#""content": {{"type": "filesystem", "format": "ext4", "device": "/dev/vdx", "mountpoint": "{target}"}}"#
        )
    };
    let layout = format!(
        r#"{{"disk": {{"old": {{"device": "/dev/disk/by-id/virtio-target", "content": {{
            "type": "table", "format": "msdos", "partitions": [
                {{"start": "1MiB", "end": "1GiB", "bootable": true, {}}},
                {{"start": "1GiB", "end": "100%", "part-type": "extended"}},
                {{"start": "1025MiB", "end": "8GB", "part-type": "logical", {}}}]}}}}}}}}"#,
        filesystem("/"),
        filesystem("/data")
    );
    let mut case = laid_out(&layout);
    let plan = |case: &Case, mode| {
        let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
        plan_disks(&case.inventory, &case.layout, &options)
    };
    for mode in [DiskoMode::Mount, DiskoMode::Format, DiskoMode::FormatMount] {
        let plan = plan(&case, mode).unwrap();
        assert!(plan.is_consistent());
        assert!(!plan.steps.iter().any(writes), "{mode}: {:?}", plan.steps);
        let kept = |step: &&Step| matches!(&step.action, Action::PartitionMbr(table) if table.keep);
        assert_eq!(plan.steps.iter().filter(kept).count(), 1, "{mode}");
    }
    let mounts = plan(&case, DiskoMode::Mount).unwrap();
    assert_eq!(
        mounts.steps.iter().filter(|step| matches!(step.action, Action::Mount(_))).count(),
        2
    );

    let refused = |case: &Case, words: &str| {
        let refusal = plan(case, DiskoMode::Mount).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    };
    let disk = |case: &mut Case| {
        let disks = case.inventory.disks.iter_mut();
        let index =
            disks.enumerate().find(|(_, disk)| !disk.contents.partitions.is_empty()).unwrap().0;
        std::mem::take(&mut case.inventory.disks[index].contents)
    };
    let there = disk(&mut case);
    let put = |case: &mut Case, change: &dyn Fn(&mut Contents)| {
        let mut contents = there.clone();
        change(&mut contents);
        let target = case
            .inventory
            .disks
            .iter_mut()
            .find(|disk| disk.links.iter().any(|link| link == "/dev/disk/by-id/virtio-target"));
        target.unwrap().contents = contents;
    };
    put(&mut case, &|contents| contents.partitions[0].first_lba += 8);
    refused(&case, "has a partition 1 at sectors 2056");
    put(&mut case, &|contents| drop(contents.partitions.pop()));
    refused(&case, "has no partition 5");
    put(&mut case, &|contents| contents.partitions[2].number = 6);
    refused(&case, "has a partition 6 that the layout does not have");
    put(&mut case, &|contents| contents.partitions[2].signatures = vec![Signature::Swap]);
    refused(&case, "holds swap, where the layout has the file system ext4");
    put(&mut case, &|contents| contents.table = Some(Table::Gpt { guid: "x".into() }));
    refused(&case, "has a GPT, and the layout an MBR");
}

#[test]
fn a_legacy_table_in_a_gpt_is_kept_too() {
    let root = documents().into_iter().next().unwrap();
    let path = root.ancestors().nth(2).unwrap().join("written/legacy-table-gpt.json");
    let text = std::fs::read_to_string(path).unwrap();
    let mut case = machine_for(&text, 64 << 30, 512);
    let options = |mode| InstallOptions { disko_mode: mode, ..InstallOptions::default() };
    let made = plan_disks(&case.inventory, &case.layout, &options(DiskoMode::Format)).unwrap();
    let table = made.steps.iter().find_map(|step| match &step.action {
        Action::Partition(table) => Some(table.clone()),
        _ => None,
    });
    let table = table.unwrap();
    let partition = |planned: &PlannedPartition, fstype: &str| Partition {
        number: planned.number,
        kernel_name: format!("x{}", planned.number),
        first_lba: planned.first_lba,
        size: (planned.last_lba + 1 - planned.first_lba) * 512,
        type_guid: Some(planned.type_guid.clone()),
        guid: Some("0f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55".into()),
        label: Some("a name of its own".into()),
        attributes: Some(0),
        signatures: vec![Signature::Filesystem {
            fstype: fstype.into(),
            label: None,
            uuid: None,
            used: None,
        }],
        nixos: None,
        holders: Vec::new(),
    };
    let there = Contents {
        table: Some(Table::Gpt { guid: "7f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55".into() }),
        partitions: vec![
            partition(&table.partitions[0], "vfat"),
            partition(&table.partitions[1], "ext4"),
        ],
        ..Contents::default()
    };
    let disk = Layout::parse(&text).unwrap().disks[0].device.clone();
    let mut plan = |change: &dyn Fn(&mut Contents)| {
        let mut contents = there.clone();
        change(&mut contents);
        let target = case.inventory.disks.iter_mut().find(|found| found.links.contains(&disk));
        target.unwrap().contents = contents;
        plan_disks(&case.inventory, &case.layout, &options(DiskoMode::Mount))
    };
    let kept = plan(&|_| ()).unwrap();
    assert!(!kept.steps.iter().any(writes), "{:?}", kept.steps);
    let found = kept.steps.iter().find_map(|step| match &step.action {
        Action::FindPartitions(table) => Some(table.clone()),
        _ => None,
    });
    assert_eq!(found.unwrap().partitions[1].label, "a name of its own");
    for (change, words) in [
        (
            &(|contents: &mut Contents| contents.partitions[1].first_lba += 1)
                as &dyn Fn(&mut Contents),
            "partition 2 at",
        ),
        (&|contents| drop(contents.partitions.pop()), "has no partition 2"),
        (
            &|contents| contents.partitions[1].number = 3,
            "a partition 3 that the layout does not have",
        ),
        (&|contents| contents.table = Some(Table::Mbr { id: "1".into() }), "the layout a GPT"),
        (&|contents| contents.table = None, "no partition table"),
    ] {
        let refusal = plan(change).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }
}

/// Swap of a legacy table is known by its number; other swap is somebody's.
#[test]
fn swap_of_a_legacy_table_is_ended() {
    let root = documents().into_iter().next().unwrap();
    let path = root.ancestors().nth(2).unwrap().join("written/legacy-table-msdos.json");
    let mut case = laid_out(&std::fs::read_to_string(path).unwrap());
    let options = InstallOptions { disko_mode: DiskoMode::Unmount, ..InstallOptions::default() };
    let mut swapped = |number: u32| {
        for disk in &mut case.inventory.disks {
            for partition in &mut disk.contents.partitions {
                partition.holders =
                    if partition.number == number { vec![Holder::Swap] } else { Vec::new() };
            }
        }
        plan_disks(&case.inventory, &case.layout, &options)
    };
    let plan = swapped(6).unwrap();
    let ended = DeviceRef::Partition { disk: "main".into(), number: 6 };
    let ends = |step: &Step| matches!(&step.action, Action::Release(Release::Swapoff { device }) if *device == ended);
    assert!(plan.steps.iter().any(ends), "{:?}", plan.steps);
    let refusal = swapped(5).unwrap_err();
    assert!(refusal.message.contains("is active swap"), "{refusal}");
}
