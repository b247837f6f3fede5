//! On real file systems. Needs root.

use super::*;
use crate::block::Roots;
use crate::ensure::Ensured;
use crate::testing::{Loop, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn ext4() -> Loop {
    let disk = Loop::new(16 << 20, 512);
    run("e2fsprogs", "mkfs.ext4", &["-q", disk.node()]);
    disk
}

fn request(source: &str, target: &Path, options: &str) -> MountRequest {
    MountRequest {
        source: source.to_owned(),
        target: target.to_owned(),
        fstype: "ext4".to_owned(),
        options: vec![options.to_owned()],
    }
}

#[test]
fn mounted_once_kept_and_unmounted_with_all_below() {
    let (disk, inner) = (ext4(), ext4());
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::default();
    let target = dir.path().join("mnt/with space");
    let wanted = request(disk.node(), &target, "defaults,noatime,commit=7");
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::Created);
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::AlreadySo);
    let mounts = table::read(&roots).unwrap();
    let there = ensure::at(&mounts, &target).unwrap();
    assert!(there.options.contains(&"noatime".to_owned()), "{there:?}");
    assert!(there.super_options.contains(&"commit=7".to_owned()), "{there:?}");
    let mode = fs::metadata(target.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);

    let other = ensure(&roots, &request(inner.node(), &target, "")).unwrap_err();
    assert!(matches!(other, MountError::Taken { .. }), "{other}");
    let below = target.join("nix");
    assert_eq!(ensure(&roots, &request(inner.node(), &below, "ro")).unwrap(), Ensured::Created);
    fs::write(below.join("x"), "x").expect_err("mounted read-only");

    let root = dir.path().join("mnt");
    assert_eq!(unmount_all_below(&roots, &root).unwrap(), Ensured::Created);
    assert_eq!(unmount_all_below(&roots, &root).unwrap(), Ensured::AlreadySo);
    assert!(!table::read(&roots).unwrap().iter().any(|mount| mount.is_below(dir.path())));
}

#[test]
fn who_keeps_it_busy_is_waited_for() {
    let disk = ext4();
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::default();
    let _ = ensure(&roots, &request(disk.node(), dir.path(), "")).unwrap();
    // Uses it for less than the bound.
    let mut user = Command::new("sleep").arg("2").current_dir(dir.path()).spawn().unwrap();
    assert_eq!(unmount(&roots, dir.path()).unwrap(), Ensured::Created);
    user.wait().unwrap();
}

#[test]
fn an_unknown_file_system_is_named() {
    let disk = ext4();
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = request(disk.node(), dir.path(), "");
    wanted.fstype = "nosuchfs".to_owned();
    let error = ensure(&Roots::default(), &wanted).unwrap_err().to_string();
    assert!(error.ends_with("the running kernel has no file system nosuchfs"), "{error}");
}

#[test]
fn a_temporary_mount_leaves_nothing() {
    let disk = ext4();
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
    let mount = TempMount::new(&roots, Path::new(disk.node()), "ext4", false).unwrap();
    let path = mount.path().to_owned();
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    fs::write(path.join("file"), "kept").unwrap();
    mount.unmount().unwrap();
    assert!(!path.exists());
    {
        let again = TempMount::new(&roots, Path::new(disk.node()), "ext4", true).unwrap();
        assert_eq!(fs::read_to_string(again.path().join("file")).unwrap(), "kept");
    }
    assert!(!table::read(&roots).unwrap().iter().any(|mount| mount.is_below(dir.path())));
    // A failure leaves nothing either.
    TempMount::new(&roots, Path::new(disk.node()), "btrfs", true).unwrap_err();
    assert_eq!(fs::read_dir(dir.path().join("keystone")).unwrap().count(), 0);
}
