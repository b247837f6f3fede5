//! Proof and closing of what this machine has: mounts and swap. The rest is seen on a machine:
//! tests/scenarios.

use super::*;
use crate::lvm::Group;
use crate::mount::{MountRequest, SwapOptions};
use crate::testing::Loop;

fn opened(uses: impl IntoIterator<Item = Use>) -> Opened {
    let mut opened = Opened::default();
    for used in uses {
        opened.note(used);
    }
    opened
}

#[test]
fn what_is_open_is_named_and_closed_and_then_proven() {
    let roots = Roots::default();
    let target = tempfile::tempdir().unwrap();
    let disk = Loop::new(1 << 20, 512);
    let node = Path::new(disk.node());
    let _ = crate::filesystem::swap::ensure(&roots, disk.name(), None, None).unwrap();
    let _ = mount::swapon(&roots, node, SwapOptions::default()).unwrap();
    let tmpfs = MountRequest {
        source: "tmpfs".into(),
        target: target.path().join("tmp"),
        fstype: "tmpfs".into(),
        options: Vec::new(),
    };
    let _ = mount::ensure(&roots, &tmpfs).unwrap();
    let opened = opened([
        Use::Array { name: "raid1".into(), members: vec![disk.name().to_owned()] },
        Use::Group(Group { name: "pool".into(), members: Vec::new() }),
        Use::Mapper { name: "crypted".into() },
        Use::Swap { path: node.to_owned() },
    ]);
    let mounted = prove(&roots, target.path(), &opened).unwrap_err();
    assert!(matches!(&mounted, SealError::Mounted(at) if at.len() == 1), "{mounted}");
    let _ = mount::unmount_all_below(&roots, target.path()).unwrap();
    let swapping = prove(&roots, target.path(), &opened).unwrap_err();
    assert_eq!(swapping.to_string(), format!("still swapped to: {}", disk.node()));
    assert!(close_best_effort(&roots, target.path(), &opened).is_empty());
    prove(&roots, target.path(), &opened).unwrap();
}

#[test]
fn a_running_array_and_an_active_group_are_not_sealed() {
    use crate::block::sysfs::tests::tree;
    let root = tempfile::tempdir().unwrap();
    tree(
        root.path(),
        &[
            ("proc/self/mountinfo", ""),
            ("proc/swaps", "Filename Type Size Used Priority\n"),
            ("sys/class/block/vda1/holders/md127/x", ""),
            ("sys/block/dm-0/dm/name", "pool-root"),
            ("sys/class/block/dm-0/dm/name", "pool-root"),
            ("sys/class/block/dm-0/dm/uuid", "LVM-abc"),
        ],
    );
    let roots = Roots::below(root.path());
    let proven = |used| prove(&roots, Path::new("/mnt"), &opened([used]));
    let array = Use::Array { name: "raid1".into(), members: vec!["vda1".into()] };
    let running = proven(array).unwrap_err().to_string();
    assert_eq!(running, "the RAID raid1 is still running, as md127");
    let active = proven(Use::Group(Group { name: "pool".into(), members: Vec::new() }))
        .unwrap_err()
        .to_string();
    assert_eq!(active, "volumes of the group pool are still active: pool-root");
    proven(Use::Mapper { name: "crypted".into() }).unwrap();
}
