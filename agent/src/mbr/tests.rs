//! On real devices, judged by the real tools. Needs root.

use super::*;
use crate::block::{Roots, sysfs};
use crate::ensure::Ensured;
use crate::testing::{Loop, run};
use keystone_protocol::plan::{DeviceRef, MbrKind, MbrPartition, MbrTable};
use serde_json::Value;

fn partition(number: u32, kind: MbrKind, first_lba: u64, last_lba: u64) -> MbrPartition {
    let table_lba = (kind == MbrKind::Logical).then(|| first_lba - 2048);
    let type_code = if kind == MbrKind::Extended { 0x0f } else { 0x83 };
    let bootable = number == 1;
    MbrPartition { number, kind, type_code, bootable, first_lba, last_lba, table_lba }
}

fn table() -> MbrTable {
    MbrTable {
        device: DeviceRef::Disk { disk: "main".into() },
        keep: false,
        partitions: vec![
            partition(1, MbrKind::Primary, 2048, 22527),
            partition(2, MbrKind::Extended, 22528, 131_071),
            partition(5, MbrKind::Logical, 24576, 65535),
            partition(6, MbrKind::Logical, 67584, 131_071),
        ],
    }
}

fn listed(disk: &Loop) -> Value {
    let json = run("util-linux", "sfdisk", &["--json", disk.node()]);
    serde_json::from_str::<Value>(&json).unwrap()["partitiontable"].clone()
}

#[test]
fn a_table_with_logical_partitions_is_what_the_tools_and_the_kernel_read() {
    let disk = Loop::new(64 << 20, 512);
    let roots = Roots::default();
    let (made, ids) = ensure(&roots, disk.name(), &table()).unwrap();
    assert_eq!(made, Ensured::Created);
    let (again, same) = ensure(&roots, disk.name(), &table()).unwrap();
    assert_eq!((again, &same), (Ensured::AlreadySo, &ids));
    let found = listed(&disk);
    assert_eq!(found["label"], "dos");
    assert_eq!(found["id"], format!("0x{}", ids.disk_guid));
    let partitions: Vec<(u64, u64, &str, bool)> = found["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let number = |key: &str| p[key].as_u64().unwrap();
            (number("start"), number("size"), p["type"].as_str().unwrap(), p["bootable"] == true)
        })
        .collect();
    assert_eq!(
        partitions,
        [
            (2048, 20480, "83", true),
            (22528, 108_544, "f", false),
            (24576, 40960, "83", false),
            (67584, 63488, "83", false)
        ]
    );
    let kernel: Vec<_> =
        sysfs::partitions(&roots, disk.name()).iter().map(|p| (p.number, p.start / 512)).collect();
    assert_eq!(kernel, [(1, 2048), (2, 22528), (5, 24576), (6, 67584)]);
    let verified = run("util-linux", "sfdisk", &["--verify", disk.node()]);
    assert!(verified.contains("No errors"), "{verified}");
}

#[test]
fn a_gpt_that_was_there_is_gone_and_a_kept_table_is_not_changed() {
    let disk = Loop::new(64 << 20, 512);
    run("gdisk", "sgdisk", &["--new=1:2048:40000", disk.node()]);
    let roots = Roots::default();
    let keep = MbrTable { keep: true, ..table() };
    let refused = ensure(&roots, disk.name(), &keep).unwrap_err();
    assert!(matches!(refused, MbrError::Other { .. }), "{refused}");
    assert_eq!(ensure(&roots, disk.name(), &table()).unwrap().0, Ensured::Created);
    assert_eq!(listed(&disk)["label"], "dos");
    assert_eq!(ensure(&roots, disk.name(), &keep).unwrap().0, Ensured::AlreadySo);
    let mut other = table();
    other.partitions[0].type_code = 0x07;
    other.keep = true;
    assert!(ensure(&roots, disk.name(), &other).is_err());
}

#[test]
fn what_an_mbr_cannot_say_is_refused() {
    let mut far = table();
    far.partitions[0].last_lba = 1 << 33;
    let mut alone = table();
    alone.partitions.retain(|p| p.kind != MbrKind::Extended);
    let mut number = table();
    number.partitions[0].number = 7;
    // Nobody looks for the chain but where the extended partition begins.
    let mut late = table();
    late.partitions[2].table_lba = Some(24575);
    for wrong in [far, alone, number, late] {
        assert!(matches!(ensure::lay_out(&wrong, 1), Err(MbrError::Partition { .. })));
    }
}
