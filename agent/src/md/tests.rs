//! What can be judged without the driver. The rest is seen on a machine: tests/scenarios.

use super::*;
use crate::testing::{Loop, run};
use std::path::PathBuf;

fn array(members: &[&Loop]) -> Array {
    let roots = Roots::default();
    Array {
        name: "raid1".to_owned(),
        level: 1,
        metadata: "default".to_owned(),
        members: members.iter().map(|disk| find::node(&roots, disk.name()).unwrap()).collect(),
        extra_args: vec!["--assume-clean".to_owned()],
    }
}

#[test]
fn mdadm_gets_diskos_words() {
    let (one, two) = (Loop::new(16 << 20, 512), Loop::new(16 << 20, 512));
    let array = array(&[&one, &two]);
    let args: Vec<String> =
        array.arguments().into_iter().map(|arg| arg.into_string().unwrap()).collect();
    assert_eq!(
        args,
        [
            "--create",
            "/dev/md/raid1",
            "--level=1",
            "--raid-devices=2",
            "--metadata=default",
            "--force",
            "--homehost=any",
            "--run",
            "--assume-clean",
            one.node(),
            two.node()
        ]
    );
}

#[test]
fn blank_members_are_free_and_others_are_named() {
    let (one, two) = (Loop::new(16 << 20, 512), Loop::new(16 << 20, 512));
    let roots = Roots::default();
    let array = array(&[&one, &two]);
    assert_eq!(array.running(&roots), None);
    assert!(!array.is_made(&roots).unwrap());
    run("util-linux", "mkswap", &["-q", two.node()]);
    let occupied = array.is_made(&roots).unwrap_err();
    assert_eq!(occupied.to_string(), format!("{} is not empty: it has swap", two.name()));
    assert_eq!(array.stop(&roots).unwrap(), Ensured::AlreadySo);
}

#[test]
fn an_array_is_what_holds_all_its_members() {
    use crate::block::sysfs::tests::tree;
    let root = tempfile::tempdir().unwrap();
    tree(
        root.path(),
        &[
            ("sys/class/block/vda1/holders/md126/x", ""),
            ("sys/class/block/vda1/holders/md127/x", ""),
            ("sys/class/block/vdb1/holders/md127/x", ""),
            ("sys/class/block/vdc1/holders/dm-0/x", ""),
        ],
    );
    let roots = Roots::below(root.path());
    let found = |members: &[&str]| find::array_now(&roots, members);
    assert_eq!(found(&["vda1", "vdb1"]).as_deref(), Some("md127"));
    assert_eq!(found(&["vda1", "vdc1"]), None);
    assert_eq!(found(&["vdc1"]), None);
    assert_eq!(found(&[]), None);
    let _: PathBuf = roots.node("md127");
}
