//! On the running machine. Needs root.

use super::contents::Surroundings;
use super::pool::tests::Given;
use super::*;
use crate::block::find;
use crate::mount::TempMount;
use crate::testing::{Loop, run};
use keystone_protocol::inventory::{Holder, Signature, Table};

#[test]
fn of_this_machine() {
    let inventory = collect_at(&Roots::default(), &Given::default(), None).unwrap();
    assert_eq!(
        inventory.system.kernel,
        nix::sys::utsname::uname().unwrap().release().to_str().unwrap()
    );
    assert_eq!(inventory.system.boot_id.len(), 36);
    assert!(inventory.memory.total >= inventory.memory.available && inventory.cpu.cores > 0);
    assert!(inventory.tools.contains_key("mkfs.ext4"));
    for disk in &inventory.disks {
        assert!(disk.identity.size > 0 && disk.identity.sector_size >= 512, "{disk:?}");
    }
    // It survives the wire.
    let json = serde_json::to_string(&inventory).unwrap();
    assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), inventory);
}

/// A loop device is no disk, but its contents are read in the same way.
#[test]
fn contents_of_a_disk_in_use() {
    let disk = Loop::new(64 << 20, 512);
    run(
        "gdisk",
        "sgdisk",
        &["--new=1:0:+16M", "--change-name=1:ESP", "--typecode=1:EF00", disk.node()],
    );
    run("util-linux", "partx", &["--update", disk.node()]);
    let roots = Roots::default();
    let node = find::partition(&roots, disk.name(), 1).unwrap();
    run("e2fsprogs", "mkfs.ext4", &["-q", "-L", "data", node.path.to_str().unwrap()]);
    let dir = tempfile::tempdir().unwrap();
    let private = Roots { run: dir.path().to_owned(), ..Roots::default() };
    let mount = TempMount::new(&private, &node.path, "ext4", false).unwrap();

    let mounts = table::read(&roots).unwrap();
    let zfs = Given::default();
    let pools = Pools::find(&roots, &zfs, &mounts);
    let surroundings = Surroundings { roots: &roots, mounts: &mounts, pools: &pools };
    let contents = contents::of(&surroundings, disk.name());
    assert!(matches!(contents.table, Some(Table::Gpt { .. })));
    assert_eq!((contents.signatures.len(), contents.holders.len()), (0, 0));
    let [partition] = contents.partitions.as_slice() else { panic!("{contents:?}") };
    assert_eq!((partition.first_lba, partition.size), (2048, 16 << 20));
    assert_eq!(partition.label.as_deref(), Some("ESP"));
    assert_eq!(partition.type_guid.as_deref(), Some("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"));
    assert!(matches!(
        partition.signatures.as_slice(),
        [Signature::Filesystem { fstype, label: Some(label), .. }] if fstype == "ext4" && label == "data"
    ));
    let target = mount.path().to_string_lossy().into_owned();
    assert_eq!(partition.holders, [Holder::Mount { target: target.clone() }]);
    // The mount says how much is in use: the superblock is not written yet.
    let used = || match &contents::of(&surroundings, disk.name()).partitions[0].signatures[..] {
        [Signature::Filesystem { used, .. }] => *used,
        other => panic!("{other:?}"),
    };
    let empty = used().unwrap();
    std::fs::write(mount.path().join("file"), vec![b'x'; 4 << 20]).unwrap();
    let more = used().unwrap() - empty;
    assert!((4 << 20..5 << 20).contains(&more), "{empty} and {more}");
    // What is mounted over it says nothing of it.
    run("mount", "mount", &["-t", "tmpfs", "none", &target]);
    let hidden = used();
    run("mount", "umount", &[&target]);
    assert_eq!(hidden, None);
    mount.unmount().unwrap();
}

#[test]
fn a_disk_that_cannot_be_read_is_not_blank() {
    let root = tempfile::tempdir().unwrap();
    let roots = Roots::below(root.path());
    let zfs = Given::default();
    let pools = Pools::find(&roots, &zfs, &[]);
    let surroundings = Surroundings { roots: &roots, mounts: &[], pools: &pools };
    assert!(!contents::of(&surroundings, "vda").is_blank());
}
