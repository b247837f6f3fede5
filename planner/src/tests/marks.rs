//! What partitions that are there are given: those that are missing beside them, and the layout's
//! names, types, GUIDs and attributes.

use super::kept::{laid_out, of_pool, writes};
use super::*;
use crate::plan_disks;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::plan::Action;

#[test]
fn what_is_missing_on_a_kept_disk_is_added_to_its_table() {
    let options = |mode| InstallOptions { disko_mode: mode, ..InstallOptions::default() };
    let mut case = laid_out(SINGLE);
    let disk =
        case.inventory.disks.iter_mut().find(|disk| !disk.contents.is_blank() && !disk.boot_medium);
    let partitions = &mut disk.unwrap().contents.partitions;
    let gone = partitions.pop().unwrap();
    let plan = plan_disks(&case.inventory, &case.layout, &options(DiskoMode::Format)).unwrap();
    let table = plan.steps.iter().find_map(|step| match &step.action {
        Action::Partition(table) => Some(table),
        _ => None,
    });
    let table = table.expect("the table is written");
    assert!(table.keep);
    let added = table.partitions.last().unwrap();
    assert_eq!(
        (added.number, added.first_lba, &Some(added.label.clone())),
        (3, gone.first_lba, &gone.label)
    );
    // Those that are there are found where they are.
    assert_eq!(table.partitions[0].guid.as_deref(), Some("0f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55"));

    let refused =
        plan_disks(&case.inventory, &case.layout, &options(DiskoMode::Mount)).unwrap_err();
    assert!(refused.message.contains("has no partition 3"), "{refused}");

    let disk =
        case.inventory.disks.iter_mut().find(|disk| !disk.contents.is_blank() && !disk.boot_medium);
    disk.unwrap().contents.partitions.push(Partition {
        number: 4,
        label: Some("data".into()),
        ..gone
    });
    let refused =
        plan_disks(&case.inventory, &case.layout, &options(DiskoMode::Format)).unwrap_err();
    assert!(refused.message.contains("partition 4 is in its place"), "{refused}");
}

/// [`SINGLE`] with a GUID and an attribute for its ESP.
fn with_marks() -> Case {
    let mut layout: serde_json::Value = serde_json::from_str(SINGLE).unwrap();
    let esp = &mut layout["disk"]["root"]["content"]["partitions"]["esp"];
    esp["uuid"] = "11111111-2222-3333-4444-555555555555".into();
    esp["attributes"] = serde_json::json!([2]);
    laid_out(&layout.to_string())
}

/// The partitions of the disk that a case is about.
fn partitions(case: &mut Case) -> &mut Vec<Partition> {
    let mut disks = case.inventory.disks.iter_mut();
    let disk = disks.find(|disk| !disk.contents.is_blank() && !disk.boot_medium);
    &mut disk.unwrap().contents.partitions
}

/// Something that makes the partitions of a disk others.
type ChangePartitions = fn(&mut Vec<Partition>);

const OTHER_TYPE: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";

/// As `sgdisk` leaves it for disko: what is known to be the layout's gets its name, type, GUID and
/// attributes, and stays where it is.
#[test]
fn a_partition_that_is_there_gets_the_marks_of_the_layout() {
    let changes: [(&str, &[&str], ChangePartitions); 4] = [
        ("known by its name", &["the type C12A7328-", "the GUID 11111111-"], |partitions| {
            partitions[0].type_guid = Some(OTHER_TYPE.into());
            partitions[0].guid = Some("0f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a56".into());
        }),
        (
            "known by its GUID",
            &["partition 1 gets the name \"disk-root-ESP\" (now \"EFI\")"],
            |partitions| {
                partitions[0].label = Some("EFI".into());
            },
        ),
        ("known by its pool", &["partition 2 gets the name", "(now \"windows\")"], |partitions| {
            partitions[1].label = Some("windows".into());
        }),
        ("an attribute is missing", &["partition 1 gets the attributes 0x4"], |partitions| {
            partitions[0].attributes = Some(1 << 60);
        }),
    ];
    for (name, words, change) in changes {
        let mut case = with_marks();
        change(partitions(&mut case));
        for mode in [DiskoMode::Format, DiskoMode::FormatMount] {
            let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
            let plan = plan_disks(&case.inventory, &case.layout, &options);
            let plan = plan.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            let table = plan.steps.iter().find_map(|step| match &step.action {
                Action::Partition(table) => Some(table),
                _ => None,
            });
            let table = table.expect("the table is written");
            let made = &table.partitions[0];
            assert!(table.keep, "{name}");
            assert_eq!(made.label, "disk-root-ESP", "{name}");
            assert_eq!(made.type_guid, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "{name}");
            let guid = made.guid.as_deref();
            assert_eq!(guid, Some("11111111-2222-3333-4444-555555555555"), "{name}");
            let kept = if name.contains("attribute") { 1 << 60 } else { 0 };
            assert_eq!((made.first_lba, made.attributes), (2048, kept | 4), "{name}");
            let said = plan.warnings.iter().find(|said| said.contains("is made the layout's"));
            let said = said.unwrap_or_else(|| panic!("{name}: it is not said"));
            assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        }
        let options = InstallOptions { disko_mode: DiskoMode::Mount, ..InstallOptions::default() };
        let mounted = plan_disks(&case.inventory, &case.layout, &options);
        // Attributes do not matter to what is only mounted.
        assert_eq!(mounted.is_ok(), name.contains("attribute"), "{name}");
        assert!(mounted.is_err() || !mounted.unwrap().steps.iter().any(writes), "{name}");
    }
}

/// What may be somebody else's gets nothing.
#[test]
fn a_partition_that_is_not_known_gets_no_marks() {
    let changes: [(&str, &str, ChangePartitions); 5] = [
        (
            "another name and GUID",
            "(if it is the layout's: sgdisk -c '1:disk-root-ESP' ",
            |found| {
                found[0].label = Some("EFI".into());
                found[0].guid = Some("0f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a56".into());
            },
        ),
        ("something where swap of no key is to be", "of type EBD0A0A2-", |found| {
            found[2].type_guid = Some(OTHER_TYPE.into());
            found[2].signatures = vec![Signature::Filesystem {
                fstype: "ntfs".into(),
                label: None,
                uuid: None,
                used: None,
            }];
        }),
        ("another pool's", "named \"windows\"", |found| {
            found[1].label = Some("windows".into());
            found[1].signatures = of_pool("4");
        }),
        ("two of one name", "has a partition 4 named \"disk-root-ESP\"", |found| {
            let first_lba = found[2].first_lba + 2048;
            found.push(Partition { number: 4, first_lba, ..found[0].clone() });
        }),
        ("a gap in the numbers", "not numbered 1, 2, 3", |found| {
            found[0].attributes = Some(0);
            let label = Some("far".to_owned());
            found.push(Partition { number: 7, label, ..found[2].clone() });
        }),
    ];
    for (name, words, change) in changes {
        let mut case = with_marks();
        change(partitions(&mut case));
        for mode in [DiskoMode::Format, DiskoMode::FormatMount] {
            let options = InstallOptions { disko_mode: mode, ..InstallOptions::default() };
            match plan_disks(&case.inventory, &case.layout, &options) {
                Err(refusal) => assert!(refusal.message.contains(words), "{name}: {refusal}"),
                Ok(plan) => panic!("{name}: not refused: {:?}", ids(&plan)),
            }
        }
    }
}
