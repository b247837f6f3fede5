//! On real file systems. Needs root.

use super::*;
use crate::block::Roots;
use crate::ensure::Ensured;
use crate::testing::{Loop, run};
use nix::errno::Errno;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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

#[test]
fn directories_and_files_are_bound_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::default();
    fs::create_dir(dir.path().join("kept")).unwrap();
    fs::write(dir.path().join("kept/file"), "x").unwrap();
    let bound = |source: &str, target: &str, options: &str| {
        let request = MountRequest {
            source: dir.path().join(source).display().to_string(),
            target: dir.path().join(target),
            fstype: "none".to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        };
        ensure(&roots, &request)
    };
    assert_eq!(bound("kept", "mnt/home", "bind,ro").unwrap(), Ensured::Created);
    assert_eq!(bound("kept", "mnt/home", "bind,ro").unwrap(), Ensured::AlreadySo);
    fs::write(dir.path().join("mnt/home/other"), "x").expect_err("bound read-only");
    fs::write(dir.path().join("kept/other"), "x").unwrap();
    assert_eq!(bound("kept/file", "mnt/one", "bind").unwrap(), Ensured::Created);
    assert_eq!(fs::read_to_string(dir.path().join("mnt/one")).unwrap(), "x");
    let nothing = bound("gone", "mnt/two", "bind").unwrap_err();
    assert!(nothing.to_string().contains("no such file"), "{nothing}");
    let taken = bound("kept/file", "mnt/home", "bind").unwrap_err();
    assert!(matches!(taken, MountError::Taken { .. }), "{taken}");
    let _ = unmount_all_below(&roots, dir.path()).unwrap();
}

#[test]
fn memory_is_mounted_by_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::default();
    let mut wanted = request("tmpfs", &dir.path().join("tmp"), "size=1M,mode=1777");
    wanted.fstype = "tmpfs".to_owned();
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::Created);
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::AlreadySo);
    let mode = fs::metadata(dir.path().join("tmp")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    let _ = unmount_all_below(&roots, dir.path()).unwrap();
}

#[test]
fn a_subvolume_is_another_mount_than_the_top() {
    let disk = Loop::new(160 << 20, 512);
    run("btrfs-progs", "mkfs.btrfs", &["-q", disk.node()]);
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { run: dir.path().join("run"), ..Roots::default() };
    let _ = crate::btrfs::ensure_subvolume(&roots, Path::new(disk.node()), "/a/root").unwrap();
    let mut wanted = request(disk.node(), &dir.path().join("mnt"), "subvol=/a/root,noatime");
    wanted.fstype = "btrfs".to_owned();
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::Created);
    assert_eq!(ensure(&roots, &wanted).unwrap(), Ensured::AlreadySo);
    wanted.options = vec!["noatime".to_owned()];
    let top = ensure(&roots, &wanted).unwrap_err();
    assert!(matches!(top, MountError::Taken { .. }), "{top}");
    let _ = unmount_all_below(&roots, &dir.path().join("mnt")).unwrap();
}

#[test]
fn swapping_begins_and_ends() {
    let disk = Loop::new(1 << 20, 512);
    let roots = Roots::default();
    let _ = crate::filesystem::swap::ensure(&roots, disk.name(), None, None).unwrap();
    let options = SwapOptions { priority: Some(7), ..SwapOptions::default() };
    let node = Path::new(disk.node());
    let began = Instant::now();
    let first = loop {
        match swapon(&roots, node, options) {
            // Another test may hold the device for a moment, to see whose it is.
            Err(MountError::Swapon { source: Errno::EBUSY, .. })
                if began.elapsed() < Duration::from_secs(5) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other.unwrap(),
        }
    };
    assert_eq!(first, Ensured::Created);
    assert_eq!(swapon(&roots, node, options).unwrap(), Ensured::AlreadySo);
    let line = fs::read_to_string("/proc/swaps").unwrap();
    let line = line.lines().find(|line| line.starts_with(disk.node())).unwrap();
    assert!(line.ends_with("\t7"), "{line}");
    assert_eq!(swap::swapoff_path(&roots, node).unwrap(), Ensured::Created);
    assert_eq!(swap::swapoff_path(&roots, node).unwrap(), Ensured::AlreadySo);
    let blank = Loop::new(1 << 20, 512);
    let refused = swapon(&roots, Path::new(blank.node()), options).unwrap_err();
    assert!(matches!(refused, MountError::Swapon { .. }), "{refused}");
}

#[test]
fn a_read_only_mount_is_writable_for_one_thread_alone() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::default();
    let bound = MountRequest {
        source: dir.path().display().to_string(),
        target: dir.path().to_owned(),
        fstype: "none".to_owned(),
        options: vec!["bind,ro,nosuid".to_owned()],
    };
    assert_eq!(ensure(&roots, &bound).unwrap(), Ensured::Created);
    let file = dir.path().join("file");
    fs::write(&file, "x").expect_err("mounted read-only");
    std::thread::scope(|scope| {
        let here = scope.spawn(|| {
            let made = writable_here(dir.path()).unwrap();
            let again = writable_here(dir.path()).unwrap();
            let below = std::thread::scope(|scope| scope.spawn(|| fs::write(&file, "x")).join());
            below.unwrap().unwrap();
            let options = table::parse(&fs::read_to_string("/proc/thread-self/mountinfo").unwrap());
            let options = ensure::at(&options, dir.path()).unwrap().options.clone();
            assert!(options.contains(&"nosuid".to_owned()), "{options:?}");
            (made, again)
        });
        assert_eq!(here.join().unwrap(), (Ensured::Created, Ensured::AlreadySo));
    });
    fs::write(&file, "y").expect_err("mounted read-only for all others");
    assert_eq!(unmount(&roots, dir.path()).unwrap(), Ensured::Created);
}

#[test]
fn types_of_file_systems_are_known_or_not() {
    assert!(super::is_known("ext4"));
    assert!(!super::is_known("nosuchfs"));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/dev/null"), "{mounts}");
}
