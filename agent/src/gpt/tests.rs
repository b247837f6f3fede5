//! Against real `sgdisk`, with the commands disko runs.

use super::image::{Guids, Image};
use super::*;
use crate::block::{Device, Roots, sysfs};
use crate::ensure::Ensured;
use crate::testing::{Loop, run, sparse};
use keystone_protocol::plan::{DeviceRef, PartitionTable, PlannedPartition};
use std::fs::File;
use std::os::unix::fs::FileExt;

const GIB: u64 = 1 << 30;

/// What disko runs for Keystone's layout (`lib/types/gpt.nix`).
fn sgdisk(device: &str, swap: &str) {
    run("gdisk", "sgdisk", &["--clear", device]);
    for (number, end, label, code) in [
        (1, "+1G".to_owned(), "disk-root-ESP", "EF00"),
        (2, format!("-{swap}"), "disk-root-zfs", "8300"),
        (3, "-0".to_owned(), "disk-root-encryptedSwap", "8200"),
    ] {
        let args = [
            "--align-end".to_owned(),
            format!("--new={number}:0:{end}"),
            format!("--partition-guid={number}:R"),
            format!("--change-name={number}:{label}"),
            format!("--typecode={number}:{code}"),
            format!("--attributes={number}:=:0"),
            device.to_owned(),
        ];
        run("gdisk", "sgdisk", &args.each_ref().map(String::as_str));
    }
}

fn planned(gpt: &Gpt) -> (PartitionTable, Guids) {
    let partitions = gpt.partitions.iter().map(|entry| PlannedPartition {
        number: entry.number,
        name: entry.label.clone(),
        label: entry.label.clone(),
        type_guid: entry.type_guid.clone(),
        guid: None,
        first_lba: entry.first_lba,
        last_lba: entry.last_lba,
        attributes: entry.attributes,
    });
    let table = PartitionTable {
        device: DeviceRef::Disk { disk: "root".into() },
        keep: false,
        partitions: partitions.collect(),
        hybrid: None,
    };
    let guids = Guids {
        disk: gpt.disk_guid.parse().unwrap(),
        partitions: gpt.partitions.iter().map(|e| (e.number, e.guid.parse().unwrap())).collect(),
    };
    (table, guids)
}

/// The image for the table that sgdisk made is what sgdisk wrote, to the last bit.
fn assert_equal_to_sgdisk(file: &File, size: u64, sector_size: u32) {
    let gpt = read(file, size, sector_size).expect("sgdisk's table is read");
    assert_eq!(gpt.partitions.len(), 3);
    assert_eq!(gpt.partitions[0].type_guid, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(gpt.partitions[2].label, "disk-root-encryptedSwap");
    let (table, guids) = planned(&gpt);
    let image = Image::new(size, sector_size, &table, &guids).unwrap();
    for (bytes, at) in [(&image.head, 0), (&image.tail, image.tail_at)] {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, at).unwrap();
        let differs = found.iter().zip(bytes).position(|(theirs, ours)| theirs != ours);
        assert_eq!(differs.map(|by| at + by as u64), None, "first different byte, {size} bytes");
    }
    assert_eq!(
        image.tail_at + image.tail.len() as u64,
        size / u64::from(sector_size) * u64::from(sector_size)
    );
}

#[test]
fn bytes_equal_sgdisk_with_512_byte_sectors() {
    let dir = tempfile::tempdir().unwrap();
    // Round sizes, sizes that no alignment fits, more sectors than an MBR can count.
    for size in [
        4 * GIB,
        4 * GIB + 3 * 512,
        // The last sector that cylinder, head and sector can count, and the first they can't.
        16_450_560 * 512,
        16_450_561 * 512,
        20 * GIB,
        20 * GIB + 512,
        32 * GIB - 7 * 512,
        500_107_862_016,
        1_000_204_886_016,
        3 * 1024 * GIB + 4096 + 512,
    ] {
        let path = dir.path().join("disk");
        let file = sparse(&path, size);
        sgdisk(path.to_str().unwrap(), if size < 9 * GIB { "1G" } else { "8G" });
        assert_equal_to_sgdisk(&file, size, 512);
    }
}

#[test]
fn bytes_equal_sgdisk_with_4096_byte_sectors() {
    for size in [20 * GIB, 20 * GIB + 5 * 4096, 4000 * GIB] {
        let disk = Loop::new(size, 4096);
        sgdisk(disk.node(), "8G");
        let file = File::open(disk.node()).unwrap();
        assert_equal_to_sgdisk(&file, size, 4096);
    }
}

fn table(partitions: &[(u64, u64, &str)]) -> PartitionTable {
    let partitions =
        partitions.iter().zip(1..).map(|((first_lba, last_lba, label), number)| PlannedPartition {
            number,
            name: (*label).to_owned(),
            label: (*label).to_owned(),
            type_guid: "0FC63DAF-8483-4772-8E79-3D69D8477DE4".into(),
            guid: None,
            first_lba: *first_lba,
            last_lba: *last_lba,
            attributes: 0,
        });
    PartitionTable {
        device: DeviceRef::Disk { disk: "root".into() },
        keep: false,
        partitions: partitions.collect(),
        hybrid: None,
    }
}

#[test]
fn sgdisk_verifies_what_was_written_and_reads_all_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let size = 3 * GIB;
    let file = sparse(&path, size);
    let mut wanted = table(&[(2048, 10239, "disk-root-ESP"), (10240, 20479, "größer als ß")]);
    wanted.partitions[1].attributes = 1 << 2 | 1 << 63;
    wanted.partitions[1].guid = Some("1b6a2bfa-e92b-484c-a8a7-ed0610d54821".into());
    let guids = Guids::draw(&wanted).unwrap();
    let image = Image::new(size, 512, &wanted, &guids).unwrap();
    super::ensure::write(&file, 512, &image).unwrap();
    let path = path.to_str().unwrap();
    let verified = run("gdisk", "sgdisk", &["--verify", path]);
    assert!(verified.contains("No problems found"), "{verified}");
    let info = run("gdisk", "sgdisk", &["--info=2", path]);
    assert!(info.contains("1B6A2BFA-E92B-484C-A8A7-ED0610D54821"), "{info}");
    assert!(info.contains("Attribute flags: 8000000000000004"), "{info}");
    assert!(info.contains("größer als ß"), "{info}");
    let gpt = read(&file, size, 512).unwrap();
    assert_eq!(gpt.partitions[1].label, "größer als ß");
    assert_eq!(gpt.regions()[0], (1 << 20)..(5 << 20));
}

#[test]
fn a_table_that_would_be_wrong_is_refused() {
    let size = GIB;
    let refused = |table: &PartitionTable| {
        let guids = Guids::draw(table)?;
        Image::new(size, 512, table, &guids).map(|_| ())
    };
    assert!(matches!(refused(&table(&[(33, 40, "a")])), Err(GptError::Outside { .. })));
    assert!(matches!(refused(&table(&[(2048, 2_097_150, "a")])), Err(GptError::Outside { .. })));
    assert!(matches!(refused(&table(&[(40, 39, "a")])), Err(GptError::Outside { .. })));
    assert!(matches!(
        refused(&table(&[(2048, 4096, "a"), (4096, 5000, "b")])),
        Err(GptError::Overlap { one: 1, other: 2 })
    ));
    let long = "0123456789012345678901234567890123456";
    assert!(matches!(refused(&table(&[(2048, 4096, long)])), Err(GptError::Label(_))));
    let mut gap = table(&[(2048, 4095, "a"), (4096, 5000, "b")]);
    gap.partitions[1].number = 3;
    assert!(matches!(refused(&gap), Err(GptError::Number(3))));
    let mut same = table(&[(2048, 4095, "a"), (4096, 5000, "b")]);
    for partition in &mut same.partitions {
        partition.guid = Some("1b6a2bfa-e92b-484c-a8a7-ed0610d54821".into());
    }
    assert!(matches!(refused(&same), Err(GptError::Guid(_))));
    let guids = Guids::draw(&table(&[])).unwrap();
    let tiny = Image::new(67 * 512, 512, &table(&[]), &guids);
    assert!(matches!(tiny, Err(GptError::TooSmall { .. })));
    // 34 sectors at the start, 33 at the end, one to use.
    assert!(Image::new(68 * 512, 512, &table(&[]), &guids).is_ok());
}

/// On a real block device: written, seen by the kernel, kept the second time, replaced when it
/// differs, gone after wiping.
fn lives_on_a_device(sector_size: u32) {
    let disk = Loop::new(64 << 20, sector_size);
    let roots = Roots::default();
    let per_mib = (1 << 20) / u64::from(sector_size);
    let wanted =
        table(&[(per_mib, 9 * per_mib - 1, "ESP"), (9 * per_mib, 60 * per_mib - 1, "zfs")]);
    let (first, ids) = ensure(&roots, disk.name(), &wanted).unwrap();
    assert_eq!(first, Ensured::Created);
    let known = sysfs::partitions(&roots, disk.name());
    let shape: Vec<_> = known.iter().map(|p| (p.number, p.start, p.length)).collect();
    assert_eq!(shape, [(1, 1 << 20, 8 << 20), (2, 9 << 20, 51 << 20)]);

    // A partition in use does not hinder it from staying, but does hinder it from going.
    let held = Device::open_exclusive(&roots, &known[0].name).unwrap();
    let (second, same) = ensure(&roots, disk.name(), &wanted).unwrap();
    assert_eq!((second, &same), (Ensured::AlreadySo, &ids));
    drop(held);

    let other = table(&[(2 * per_mib, 4 * per_mib - 1, "other")]);
    assert_eq!(ensure(&roots, disk.name(), &other).unwrap().0, Ensured::Created);
    assert_eq!(sysfs::partitions(&roots, disk.name()).len(), 1);

    assert_eq!(crate::block::wipe::disk(&roots, disk.name(), false).unwrap(), Ensured::Created);
    assert!(sysfs::partitions(&roots, disk.name()).is_empty());
    assert_eq!(crate::block::wipe::disk(&roots, disk.name(), false).unwrap(), Ensured::AlreadySo);
}

#[test]
fn lives_on_a_device_with_512_byte_sectors() {
    lives_on_a_device(512);
}

#[test]
fn lives_on_a_device_with_4096_byte_sectors() {
    lives_on_a_device(4096);
}

#[test]
fn old_superblocks_do_not_come_back_in_new_partitions() {
    let disk = Loop::new(64 << 20, 512);
    let roots = Roots::default();
    let wanted = table(&[(2048, 65535, "data")]);
    let _ = ensure(&roots, disk.name(), &wanted).unwrap();
    let partition = crate::block::find::partition(&roots, disk.name(), 1).unwrap();
    run("e2fsprogs", "mkfs.ext4", &["-q", partition.path.to_str().unwrap()]);
    // Someone else destroys the table only, then the same table is made again.
    run("gdisk", "sgdisk", &["--zap-all", disk.node()]);
    assert_eq!(ensure(&roots, disk.name(), &wanted).unwrap().0, Ensured::Created);
    let device = Device::open_read(&roots, &partition.name).unwrap();
    assert!(crate::block::wipe::is_blank(&device).unwrap());
}

#[test]
fn a_failed_installation_does_not_look_installed() {
    let disk = Loop::new(64 << 20, 512);
    let roots = Roots::default();
    let _ = ensure(&roots, disk.name(), &table(&[(2048, 65535, "data")])).unwrap();
    invalidate(&roots, disk.name()).unwrap();
    let device = Device::open_read(&roots, disk.name()).unwrap();
    assert!(read(device.file(), device.size(), 512).is_none());
    assert!(!is_damaged(device.file(), device.size(), 512));
}

#[test]
fn a_damaged_table_is_told_and_its_backup_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let size = 64 << 20;
    let file = sparse(&path, size);
    let wanted = table(&[(2048, 65535, "data")]);
    let image = Image::new(size, 512, &wanted, &Guids::draw(&wanted).unwrap()).unwrap();
    super::ensure::write(&file, 512, &image).unwrap();
    file.write_all_at(&[0x55], 512 + 24).unwrap();
    let from_backup = read(&file, size, 512).expect("the backup is good");
    assert_eq!(from_backup.partitions[0].label, "data");
    file.write_all_at(&[0x55], size - 512 + 24).unwrap();
    assert!(read(&file, size, 512).is_none());
    assert!(is_damaged(&file, size, 512));
    // Entries of a size that the crate would choke on.
    file.write_all_at(&256u32.to_le_bytes(), 512 + 84).unwrap();
    assert!(read(&file, size, 512).is_none());
}

#[test]
fn a_hybrid_mbr_is_what_sgdisk_writes() {
    use keystone_protocol::plan::{HybridEntry, HybridMbr};
    let size = 64 << 20;
    for (argument, protective_first) in [("1:2", true), ("1:2:EE", false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = sparse(&path, size);
        let path = path.to_str().unwrap();
        let new = ["--new=1:0:+8M", "--typecode=1:EF00", "--new=2:0:+8M", "--new=3:0:-0", path];
        run("gdisk", "sgdisk", &new);
        run("gdisk", "sgdisk", &["--hybrid", argument, path]);
        let (mut table, guids) = planned(&read(&file, size, 512).unwrap());
        let shown = |number, type_code| HybridEntry { number, type_code, bootable: false };
        table.hybrid =
            Some(HybridMbr { protective_first, entries: vec![shown(1, 0xef), shown(2, 0x83)] });
        let image = image::Image::new(size, 512, &table, &guids).unwrap();
        let mut theirs = vec![0; 512];
        file.read_exact_at(&mut theirs, 0).unwrap();
        assert_eq!(image.head[446..512], theirs[446..], "{argument}");
    }
    let mut table = table(&[(2048, 4095, "one")]);
    table.hybrid = Some(HybridMbr {
        protective_first: true,
        entries: vec![HybridEntry { number: 2, type_code: 0x83, bootable: false }],
    });
    let guids = Guids::draw(&table).unwrap();
    let refused = image::Image::new(size, 512, &table, &guids);
    assert!(matches!(refused, Err(GptError::Hybrid(_))), "{refused:?}");
}

#[test]
fn a_table_that_is_kept_gets_what_is_missing_while_it_is_in_use() {
    let disk = Loop::new(64 << 20, 512);
    run("gdisk", "sgdisk", &["--new=1:2048:20479", "--new=3:65536:81919", disk.node()]);
    let roots = Roots::default();
    // Boot code, and something that is used.
    File::options().write(true).open(disk.node()).unwrap().write_all_at(b"CODE", 0).unwrap();
    run("util-linux", "partx", &["--update", disk.node()]);
    let first = format!("{}p1", disk.node());
    run("e2fsprogs", "mkfs.ext4", &["-q", &first]);
    let mounted = tempfile::tempdir().unwrap();
    run("mount", "mount", &[&first, mounted.path().to_str().unwrap()]);
    let before = {
        let device = Device::open_read(&roots, disk.name()).unwrap();
        read(device.file(), device.size(), 512).unwrap()
    };

    let mut wanted = table(&[(2048, 20479, "renamed"), (24576, 40959, "new")]);
    wanted.keep = true;
    wanted.partitions[0].attributes = 1 << 2;
    let (made, ids) = ensure(&roots, disk.name(), &wanted).unwrap();
    assert_eq!(made, Ensured::Created);
    assert_eq!(ensure(&roots, disk.name(), &wanted).unwrap().0, Ensured::AlreadySo);
    run("mount", "umount", &[mounted.path().to_str().unwrap()]);

    let device = Device::open_read(&roots, disk.name()).unwrap();
    let after = read(device.file(), device.size(), 512).unwrap();
    let labels: Vec<(u32, &str)> =
        after.partitions.iter().map(|e| (e.number, e.label.as_str())).collect();
    assert_eq!(labels, [(1, "renamed"), (2, "new"), (3, "")]);
    assert_eq!((before.partitions[0].label.as_str(), after.partitions[0].attributes), ("", 4));
    assert_eq!(after.disk_guid, before.disk_guid);
    assert_eq!(after.partitions[0].guid, before.partitions[0].guid);
    assert_eq!(after.partitions[2], before.partitions[1]);
    assert_eq!(ids.partitions[&3], before.partitions[1].guid);
    let mut code = [0; 4];
    device.file().read_exact_at(&mut code, 0).unwrap();
    assert_eq!(&code, b"CODE");
    run("gdisk", "sgdisk", &["--verify", disk.node()]);

    wanted.partitions[0].last_lba += 1;
    let moved = ensure(&roots, disk.name(), &wanted).unwrap_err();
    assert!(matches!(moved, GptError::Moved { number: 1, .. }), "{moved}");
}
