//! On loop devices, against the tools that made what is wiped and those that look for it.

use super::*;
use crate::testing::{Loop, run, run_any};
use std::fs::File;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

#[test]
#[allow(clippy::single_range_in_vec_init)]
fn ends_do_not_overlap() {
    assert_eq!(ends(0..100), [0..100]);
    assert_eq!(ends(10..10 + 2 * END), [10..10 + 2 * END]);
    assert_eq!(ends(10..11 + 2 * END), [10..10 + END, 11 + END..11 + 2 * END]);
    assert!(ends(5..5).iter().all(|range| range.is_empty()));
    assert_eq!(parts(10..10 + 65 * MIB)[0], 10 + 64 * MIB..10 + 64 * MIB + COPY);
    assert_eq!(parts(0..64 * MIB).len(), 2);
}

/// What util-linux finds on a device.
fn found(node: &str) -> String {
    let wipefs = run("util-linux", "wipefs", &["--no-act", "--noheadings", node]);
    // 2: nothing was found (blkid(8)).
    let blkid = run_any("util-linux", "blkid", &["--probe", node]);
    let silent = blkid.stdout.is_empty() && blkid.status.code() == Some(2);
    let blkid = if silent { String::new() } else { format!("{blkid:?}") };
    format!("{wipefs}{blkid}").trim().to_owned()
}

/// Wipes a disk with what `make` put there, which is seen before and not afterwards.
fn is_gone(what: &str, size: u64, make: impl FnOnce(&Loop)) -> Loop {
    let disk = Loop::new(size, 512);
    make(&disk);
    assert_ne!(found(disk.node()), "", "{what} was not seen before");
    let roots = Roots::default();
    assert_eq!(super::disk(&roots, disk.name(), false).unwrap(), Ensured::Created, "{what}");
    assert_eq!(found(disk.node()), "", "{what} is still there");
    assert_eq!(super::disk(&roots, disk.name(), false).unwrap(), Ensured::AlreadySo, "{what}");
    disk
}

#[test]
fn file_systems_and_swap() {
    for (package, program, args) in [
        ("e2fsprogs", "mkfs.ext4", &["-q", "-F"][..]),
        ("dosfstools", "mkfs.vfat", &["-F", "32"]),
        ("xfsprogs", "mkfs.xfs", &["-q", "-f"]),
        ("f2fs-tools", "mkfs.f2fs", &["-q", "-f"]),
        ("util-linux", "mkswap", &["-q"]),
    ] {
        is_gone(program, 384 * MIB, |disk| {
            let args: Vec<&str> = args.iter().copied().chain([disk.node()]).collect();
            run(package, program, &args);
        });
    }
}

#[test]
fn btrfs_and_the_copies_of_its_superblock() {
    let disk = is_gone("btrfs", 384 * MIB, |disk| {
        run("btrfs-progs", "mkfs.btrfs", &["-q", "-f", disk.node()]);
    });
    // From its copy it could be brought back.
    let recovered = run_any(
        "btrfs-progs",
        "btrfs",
        &["inspect-internal", "dump-super", "-s", "1", disk.node()],
    );
    let said = String::from_utf8_lossy(&recovered.stdout).into_owned();
    assert!(!said.contains("_BHRfS_M [match]"), "{said}");
}

#[test]
fn both_headers_of_a_container_whatever_their_size() {
    for size in ["16k", "4m"] {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "only a test").unwrap();
        let key = key.to_str().unwrap();
        let disk = is_gone(&format!("LUKS2 with headers of {size}"), 96 * MIB, |disk| {
            let mut args = vec!["luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2"];
            args.extend(["--pbkdf-force-iterations", "1000", "--luks2-metadata-size", size]);
            args.extend([disk.node(), key]);
            run("cryptsetup-bin", "cryptsetup", &args);
            // The second header alone is enough to bring the first back.
            let file = File::options().write(true).open(disk.node()).unwrap();
            file.write_all_at(&[0; 4096], 0).unwrap();
            file.sync_all().unwrap();
            run("cryptsetup-bin", "cryptsetup", &["repair", "-q", disk.node()]);
        });
        let left = run_any("cryptsetup-bin", "cryptsetup", &["repair", "-q", disk.node()]);
        assert!(!left.status.success(), "headers of {size} were repaired");
    }
}

#[test]
fn a_physical_volume() {
    is_gone("LVM", 64 * MIB, |disk| {
        // Where the kernel has no device-mapper, and no udev.
        let config = "devices { use_devicesfile=0 } activation { udev_sync=0 udev_rules=0 }";
        run("lvm2", "pvcreate", &["-q", "--yes", "--config", config, disk.node()]);
    });
}

#[test]
fn raid_superblocks() {
    // mdadm makes arrays only with the kernel's driver, so the magic is written where the format
    // has it: version 1.2, 1.1 and 1.0, and 0.90.
    for (at, version) in
        [(4096, "1.2"), (0, "1.1"), (64 * MIB - 8192, "1.0"), (64 * MIB - 65536, "0.90")]
    {
        let disk = Loop::new(64 * MIB, 512);
        let file = File::options().read(true).write(true).open(disk.node()).unwrap();
        file.write_all_at(&0xa92b_4efc_u32.to_le_bytes(), at).unwrap();
        file.sync_all().unwrap();
        let roots = Roots::default();
        assert_eq!(super::disk(&roots, disk.name(), false).unwrap(), Ensured::Created, "{version}");
        let mut left = [0xff; 4];
        file.read_exact_at(&mut left, at).unwrap();
        assert_eq!(left, [0; 4], "{version}");
    }
}

#[test]
fn zfs_labels_at_both_ends_of_disk_and_partition() {
    let magic = 0x00ba_b10c_u64.to_le_bytes();
    let disk = is_gone("a table", 256 * MIB, |disk| {
        run("gdisk", "sgdisk", &["--new=1:2048:200000", "--new=2:202752:0", disk.node()]);
        let file = File::options().write(true).open(disk.node()).unwrap();
        for at in zfs_magics() {
            file.write_all_at(&magic, at).unwrap();
        }
        file.sync_all().unwrap();
        run_any("util-linux", "partx", &["--update", disk.node()]);
    });
    let file = File::open(disk.node()).unwrap();
    for at in zfs_magics() {
        let mut left = [0xff; 8];
        file.read_exact_at(&mut left, at).unwrap();
        assert_eq!(left, [0; 8], "at {at}");
    }
}

/// A place in the ring of uberblocks of each label, of the disk and of the first partition.
fn zfs_magics() -> Vec<u64> {
    let label = 256 << 10;
    let of = |start: u64, length: u64| {
        let end = start + length / label * label;
        [start, start + label, end - 2 * label, end - label].map(|at| at + label / 2 + 8192)
    };
    [of(0, 256 * MIB), of(2048 * 512, (200_000 - 2048 + 1) * 512)].concat()
}

#[test]
fn a_primary_and_a_backup_table_each_without_the_other() {
    for damaged in [512, 64 * MIB - 512] {
        is_gone("half a table", 64 * MIB, |disk| {
            run("gdisk", "sgdisk", &["--new=1:2048:0", disk.node()]);
            let file = File::options().write(true).open(disk.node()).unwrap();
            file.write_all_at(&[0; 512], damaged).unwrap();
            file.sync_all().unwrap();
        });
    }
}

#[test]
fn data_without_a_magic_are_wiped_too() {
    let disk = Loop::new(64 * MIB, 512);
    let file = File::options().read(true).write(true).open(disk.node()).unwrap();
    file.write_all_at(b"no magic at all", 4096).unwrap();
    file.sync_all().unwrap();
    let roots = Roots::default();
    assert_eq!(super::disk(&roots, disk.name(), false).unwrap(), Ensured::Created);
    let mut left = [0xff; 16];
    file.read_exact_at(&mut left, 4096).unwrap();
    assert_eq!(left, [0; 16]);
    assert_eq!(super::disk(&roots, disk.name(), false).unwrap(), Ensured::AlreadySo);
}

#[test]
fn what_the_device_did_not_keep_is_seen_though_memory_has_it() {
    let disk = Loop::new(64 * MIB, 512);
    let device = Device::open_exclusive(&Roots::default(), disk.name()).unwrap();
    let whole = 0..device.size();
    let all = std::slice::from_ref(&whole);
    zero(&device, all).unwrap();
    assert!(is_empty(&device).unwrap());
    // Both ends are in memory now. The middle is not wiped, so it is not looked at.
    let kept = File::options().write(true).open(disk.backing()).unwrap();
    kept.write_all_at(b"x", 32 * MIB).unwrap();
    is_kept(&device, all).unwrap();
    for at in [64 * MIB - 1, 4097] {
        kept.write_all_at(b"x", at).unwrap();
        let refused = is_kept(&device, all).unwrap_err();
        let BlockError::NotWiped { device, at: found } = &refused else { panic!("{refused}") };
        assert_eq!((device.as_str(), *found), (disk.name(), at));
    }
}

#[test]
fn a_full_discard_leaves_nothing_to_read() {
    let disk = Loop::new(64 * MIB, 512);
    let file = File::options().read(true).write(true).open(disk.node()).unwrap();
    // In the middle, where only a discard reaches.
    file.write_all_at(&[0xa5; 4096], 32 * MIB).unwrap();
    file.sync_all().unwrap();
    let roots = Roots::default();
    assert!(sysfs::can_discard(&roots, disk.name()), "loop devices on this file system discard");
    assert_eq!(super::disk(&roots, disk.name(), true).unwrap(), Ensured::Created);
    let mut left = vec![0xff; 4096];
    file.read_exact_at(&mut left, 32 * MIB).unwrap();
    assert_eq!(left, vec![0; 4096]);
}
