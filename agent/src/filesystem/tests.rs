//! On real devices, judged by the real tools. Needs root.

use super::*;
use crate::block::{Roots, find};
use crate::ensure::Ensured;
use crate::testing::{Loop, run};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};

const MIB: u64 = 1 << 20;

fn ext4(roots: &Roots, name: &str, extra: &[String]) -> Result<Ensured, FilesystemError> {
    mkfs::ensure(roots, name, "ext4", extra, &mut |_| {})
}

/// Fields of a FAT32 boot sector that are the same whoever makes it; not among them: jump, OEM
/// name, reserved sectors, geometry and the number of sectors, which `mkfs.vfat` rounds down to
/// whole tracks, FAT length, volume id, boot code.
fn boot_sector(node: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut sector = vec![0; 512];
    File::open(node).unwrap().read_exact_at(&mut sector, 0).unwrap();
    [
        ("bytes per sector", 11..13),
        ("sectors per cluster", 13..14),
        ("FATs", 16..17),
        ("root entries", 17..19),
        ("16-bit sectors and media", 19..22),
        ("16-bit FAT length", 22..24),
        ("flags, version, root cluster", 40..48),
        ("FSInfo and backup sector", 48..52),
        ("drive", 64..65),
        ("label and type", 66..67),
        ("no name, FAT32", 71..90),
        ("magic", 510..512),
    ]
    .map(|(name, range)| (name, sector[range].to_vec()))
    .into()
}

#[test]
fn fat32_is_what_mkfs_vfat_makes_and_fsck_finds_nothing() {
    for (size, sector_size) in [
        (1024 * MIB, 512),
        (1024 * MIB, 4096),
        (34 * MIB, 512),
        (260 * MIB, 512),
        (300 * MIB, 4096),
        (9000 * MIB, 512),
    ] {
        let disk = Loop::new(size, sector_size);
        let roots = Roots::default();
        assert_eq!(vfat::ensure(&roots, disk.name(), None).unwrap(), Ensured::Created);
        assert_eq!(vfat::ensure(&roots, disk.name(), None).unwrap(), Ensured::AlreadySo);
        let checked = run("dosfstools", "fsck.fat", &["-n", "-v", disk.node()]);
        for complaint in ["uninitialized", "wrong", "differ", "irty"] {
            assert!(!checked.contains(complaint), "{checked}");
        }
        let ours = boot_sector(disk.node());
        let sector = sector_size.to_string();
        run("dosfstools", "mkfs.vfat", &["-I", "-F", "32", "-S", &sector, disk.node()]);
        assert_eq!(ours, boot_sector(disk.node()), "{size} bytes, sectors of {sector_size}");
    }
}

#[test]
fn fat32_ids_are_random() {
    let ids: Vec<_> = (0..2)
        .map(|_| {
            let disk = Loop::new(34 * MIB, 512);
            let _ = vfat::ensure(&Roots::default(), disk.name(), None).unwrap();
            let mut id = [0; 4];
            File::open(disk.node()).unwrap().read_exact_at(&mut id, 67).unwrap();
            id
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn the_least_size_of_fat32_is_enough_and_less_is_refused() {
    for sector_size in [512, 4096] {
        let least = vfat::least_size(sector_size).next_multiple_of(4096);
        let roots = Roots::default();
        let disk = Loop::new(least, sector_size);
        assert_eq!(vfat::ensure(&roots, disk.name(), None).unwrap(), Ensured::Created);
        run("dosfstools", "fsck.fat", &["-n", disk.node()]);
        let less = Loop::new(least - 4096, sector_size);
        let refused = vfat::ensure(&roots, less.name(), None).unwrap_err();
        assert!(matches!(refused, FilesystemError::TooSmall { .. }), "{refused}");
    }
}

#[test]
fn something_else_is_never_overwritten() {
    let disk = Loop::new(64 * MIB, 512);
    run("util-linux", "mkswap", &[disk.node()]);
    let roots = Roots::default();
    for refused in [
        vfat::ensure(&roots, disk.name(), None).unwrap_err(),
        ext4(&roots, disk.name(), &[]).unwrap_err(),
    ] {
        assert_eq!(refused.to_string(), format!("{} is not empty: it has swap", disk.name()));
    }
}

#[test]
fn ext4_is_made_once_with_the_layouts_arguments() {
    let disk = Loop::new(32 * MIB, 512);
    let roots = Roots::default();
    let extra = ["-L".to_owned(), "credstore".to_owned()];
    assert_eq!(ext4(&roots, disk.name(), &extra).unwrap(), Ensured::Created);
    assert_eq!(ext4(&roots, disk.name(), &extra).unwrap(), Ensured::AlreadySo);
    let listed = run("e2fsprogs", "dumpe2fs", &["-h", disk.node()]);
    assert!(listed.contains("Filesystem volume name:   credstore"), "{listed}");
    run("e2fsprogs", "fsck.ext4", &["-f", "-n", disk.node()]);
    let wrong = Loop::new(32 * MIB, 512);
    let error = ext4(&roots, wrong.name(), &["--no-such".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("mkfs.ext4 failed"), "{error}");
}

#[test]
fn the_key_is_made_once_and_never_again() {
    let disk = Loop::new(32 * MIB, 512);
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
    let _ = ext4(&roots, disk.name(), &[]).unwrap();
    let node = find::node(&roots, disk.name()).unwrap();
    let (made, key) = key::ensure(&roots, &node, "zfs-sysroot.mount", 32).unwrap();
    assert_eq!((made, key.len()), (Ensured::Created, 32));
    assert_ne!(key.expose(), [0; 32]);
    let (kept, again) = key::ensure(&roots, &node, "zfs-sysroot.mount", 32).unwrap();
    assert_eq!(kept, Ensured::AlreadySo);
    assert!(again == key);

    let mount = crate::mount::TempMount::new(&roots, &node.path, "ext4", false).unwrap();
    let path = mount.path().join("zfs-sysroot.mount");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
    let mut names: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lost+found", "zfs-sysroot.mount"]);
    // A key that was cut short is not replaced: something may depend on what is left of it.
    File::options().write(true).open(&path).unwrap().set_len(31).unwrap();
    mount.unmount().unwrap();
    let refused = key::ensure(&roots, &node, "zfs-sysroot.mount", 32).unwrap_err();
    assert!(refused.to_string().contains("it has 31 bytes"), "{refused}");
    assert!(matches!(key::ensure(&roots, &node, "../x", 32), Err(key::KeyError::Name(_))));
    assert_eq!(fs::read_dir(dir.path().join("keystone")).unwrap().count(), 0);
}

#[test]
fn an_unfinished_key_is_made_anew() {
    let disk = Loop::new(32 * MIB, 512);
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
    let _ = ext4(&roots, disk.name(), &[]).unwrap();
    let node = find::node(&roots, disk.name()).unwrap();
    let mount = crate::mount::TempMount::new(&roots, &node.path, "ext4", false).unwrap();
    fs::write(mount.path().join(".k.new"), "half").unwrap();
    mount.unmount().unwrap();
    let (made, key) = key::ensure(&roots, &node, "k", 32).unwrap();
    assert_eq!((made, key.len()), (Ensured::Created, 32));
}

#[test]
fn a_label_of_fat32_is_what_the_tools_read() {
    let disk = Loop::new(64 * MIB, 512);
    let roots = Roots::default();
    assert_eq!(vfat::ensure(&roots, disk.name(), Some("BOOT")).unwrap(), Ensured::Created);
    let labelled = run("util-linux", "blkid", &["-p", "-o", "value", "-s", "LABEL", disk.node()]);
    assert_eq!(labelled.trim(), "BOOT");
    run("dosfstools", "fsck.fat", &["-n", disk.node()]);
    let refused = vfat::ensure(&roots, disk.name(), Some("TWELVE CHARS")).unwrap_err();
    assert!(matches!(refused, FilesystemError::Label { .. }), "{refused}");
}

#[test]
fn file_systems_by_the_tools_are_made_once_and_recognised() {
    for (fstype, package, size, args) in [
        ("xfs", "xfsprogs", 320 * MIB, vec!["-L", "data"]),
        ("btrfs", "btrfs-progs", 160 * MIB, vec!["-L", "data"]),
        ("f2fs", "f2fs-tools", 128 * MIB, vec![]),
    ] {
        assert!(crate::tool::find(&mkfs::program(fstype)).is_some(), "apt-get install {package}");
        let disk = Loop::new(size, 512);
        let roots = Roots::default();
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let made = |fstype| mkfs::ensure(&roots, disk.name(), fstype, &args, &mut |_| {});
        assert_eq!(made(fstype).unwrap(), Ensured::Created, "{fstype}");
        assert_eq!(made(fstype).unwrap(), Ensured::AlreadySo, "{fstype}");
        let judged = run("util-linux", "blkid", &["-p", "-o", "value", "-s", "TYPE", disk.node()]);
        assert_eq!(judged.trim(), fstype);
        let other = made("ext4").unwrap_err().to_string();
        assert!(other.contains("is not empty"), "{other}");
    }
}

#[test]
fn swap_is_what_mkswap_makes() {
    let uuid = "6f8a3c9e-2f4b-4c55-9d6c-0a1b2c3d4e5f";
    let (ours, theirs) = (Loop::new(12 * MIB, 512), Loop::new(12 * MIB, 512));
    let roots = Roots::default();
    let made = || swap::ensure(&roots, ours.name(), Some("swap0"), Some(uuid));
    assert_eq!(made().unwrap(), Ensured::Created);
    assert_eq!(made().unwrap(), Ensured::AlreadySo);
    run("util-linux", "mkswap", &["-q", "-L", "swap0", "-U", uuid, theirs.node()]);
    let read = |node: &str| {
        let mut bytes = vec![0; 1 << 20];
        File::open(node).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(read(ours.node()) == read(theirs.node()), "the headers differ");
    let small = Loop::new(32 << 10, 512);
    let refused = swap::ensure(&roots, small.name(), None, None).unwrap_err();
    assert!(matches!(refused, FilesystemError::TooSmall { .. }), "{refused}");
}
