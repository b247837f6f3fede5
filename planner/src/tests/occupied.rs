//! Disks that are in use, or hold something.

use super::*;
use keystone_protocol::message::RefusalKind;
use std::collections::BTreeMap;

pub(super) fn partition(number: u32, label: &str, size: u64) -> Partition {
    Partition {
        number,
        kernel_name: format!("vda{number}"),
        first_lba: 2048,
        size,
        type_guid: None,
        guid: Some(format!("00000000-0000-0000-0000-00000000000{number}")),
        label: Some(label.into()),
        attributes: None,
        signatures: Vec::new(),
        nixos: None,
        holders: Vec::new(),
    }
}

pub(super) fn member(pool: &str, guid: &str) -> Signature {
    Signature::ZfsMember {
        pool: pool.into(),
        guid: guid.into(),
        hostname: Some("vault".into()),
        hostid: Some(0xdead_beef),
        state: PoolState::Active,
        txg: 4711,
        written: Some(1_762_178_820),
    }
}

/// Installed before, closed.
pub(super) fn installed() -> Case {
    Case::new(SINGLE).with(|case| {
        let mut esp = partition(1, "disk-root-ESP", 1 << 30);
        esp.signatures = vec![Signature::Filesystem {
            fstype: "vfat".into(),
            label: None,
            uuid: Some("9C2E-11AF".into()),
            used: Some(213 << 20),
        }];
        esp.nixos = Some(InstalledNixos {
            generation: 7,
            toplevel: None,
            hostname: Some("vault".into()),
            version: Some("Generation 7 NixOS 25.05, built on 2025-06-01".into()),
        });
        let mut zfs = partition(2, "disk-root-zfs", 11 << 30);
        zfs.signatures = vec![member("rpool", "1234")];
        let swap = partition(3, "disk-root-encryptedSwap", 8 << 30);
        case.disk("vda").contents = Contents {
            table: Some(Table::Gpt { guid: "7f0c9f3e-8f0e-4cf5-b1a2-2d8d0a8a3a55".into() }),
            signatures: Vec::new(),
            partitions: vec![esp, zfs, swap],
            holders: Vec::new(),
        };
    })
}

/// An installation that was killed with everything open.
pub(super) fn interrupted() -> Case {
    installed().with(|case| {
        let pool = |name: &str| Holder::Pool { name: name.into(), guid: "1234".into() };
        let partitions = &mut case.disk("vda").contents.partitions;
        partitions[0].holders = vec![Holder::Mount { target: "/mnt/boot".into() }];
        partitions[1].holders = vec![pool("rpool")];
        partitions[2].holders = vec![Holder::Swap];
        case.inventory.pools = vec![ImportedPool {
            name: "rpool".into(),
            guid: "1234".into(),
            health: "ONLINE".into(),
            devices: vec!["vda2".into()],
            volumes: BTreeMap::from([("zd0".into(), "rpool/credstore".into())]),
            mounts: vec!["/mnt".into(), "/mnt/nix".into(), "/mnt/var".into()],
        }];
        case.inventory.mappers = vec![Mapper {
            kernel_name: "dm-0".into(),
            name: "credstore".into(),
            uuid: "CRYPT-LUKS2-0123-credstore".into(),
            slaves: vec!["zd0".into()],
            mounts: vec!["/run/keystone/credstore".into()],
        }];
        case.inventory.target_mounts =
            ["/mnt", "/mnt/boot", "/mnt/nix", "/mnt/var", "/mnt/dev"].map(String::from).to_vec();
    })
}

fn hint(refusal: &Refusal) -> &str {
    refusal.hint.as_deref().expect("it says what to do")
}

fn erase(case: &mut Case) {
    case.options.erase = true;
}

#[test]
fn what_is_there_is_named_before_it_is_lost() {
    let refusal = installed().refusal();
    assert_eq!(refusal.kind, RefusalKind::NotConfirmed);
    let text = format!("{refusal}\n{}", hint(&refusal));
    insta::assert_snapshot!(text);
    let plan = installed().with(erase).plan();
    assert!(ids(&plan)[0].starts_with("wipe:"));
    assert_eq!(plan.basis.destroys[0].contents.len(), 4);
    let blank = Case::new(SINGLE).with(erase).plan();
    assert_eq!(blank.basis.destroys[0].contents, [""; 0]);
}

#[test]
fn what_is_open_is_closed_leaf_first() {
    assert_eq!(interrupted().refusal().kind, RefusalKind::NotConfirmed);
    let plan = interrupted().with(erase).plan();
    let releases: Vec<_> =
        plan.steps.iter().take_while(|step| step.id.starts_with("release:")).collect();
    insta::assert_json_snapshot!(releases);
    let contents = plan.basis.destroys[0].contents.join("\n");
    insta::assert_snapshot!("interrupted_contents", contents);
}

#[test]
fn kernel_names_of_what_is_open_do_not_matter() {
    let renamed = interrupted().with(erase).with(|case| {
        let text = serde_json::to_string(&case.inventory).unwrap();
        let text =
            text.replace("\"vda", "\"vdq").replace("\"zd0", "\"zd16").replace("dm-0", "dm-5");
        case.inventory = serde_json::from_str(&text).unwrap();
    });
    assert_eq!(renamed.plan().hash, interrupted().with(erase).plan().hash);
}

#[test]
fn a_pool_in_a_container_is_closed_before_it() {
    let plan = installed()
        .with(|case| {
            let holders =
                vec![Holder::Device { kernel_name: "dm-0".into(), name: Some("crypt".into()) }];
            case.disk("vda").contents.partitions[1].holders = holders;
            case.inventory.mappers = vec![
                Mapper {
                    kernel_name: "dm-0".into(),
                    name: "crypt".into(),
                    uuid: "CRYPT-LUKS2-1-crypt".into(),
                    slaves: vec!["vda2".into()],
                    mounts: Vec::new(),
                },
                Mapper {
                    kernel_name: "dm-1".into(),
                    name: "inner".into(),
                    uuid: "CRYPT-LUKS2-2-inner".into(),
                    slaves: vec!["zd16p1".into()],
                    mounts: Vec::new(),
                },
            ];
            case.inventory.pools = vec![ImportedPool {
                name: "tank".into(),
                guid: "9".into(),
                health: "ONLINE".into(),
                devices: vec!["dm-0".into()],
                volumes: BTreeMap::from([("zd16".into(), "tank/vm".into())]),
                mounts: Vec::new(),
            }];
        })
        .with(erase)
        .plan();
    assert_eq!(
        ids(&plan)[..3],
        ["release:mapper:inner", "release:pool:tank", "release:mapper:crypt"]
    );
}

#[test]
fn what_others_use_is_refused_though_erasing_was_agreed_to() {
    let cases: [(&str, Change); 12] = [
        ("a pool on another disk too", |case| {
            case.inventory.pools[0].devices.push("vdb".into());
        }),
        ("a mapper on another disk too", |case| {
            case.inventory.mappers[0].slaves.push("vdb".into());
        }),
        ("mounted elsewhere", |case| {
            case.disk("vda").contents.partitions[0].holders =
                vec![Holder::Mount { target: "/media/esp".into() }];
        }),
        ("a pool mounted elsewhere", |case| {
            case.inventory.pools[0].mounts.push("/srv".into());
        }),
        ("a software RAID", |case| {
            case.disk("vda").contents.partitions[2].holders =
                vec![Holder::Device { kernel_name: "md127".into(), name: None }];
        }),
        ("an unreadable pool", |case| {
            case.inventory.pools.clear();
            case.inventory.mappers.clear();
        }),
        ("foreign swap", |case| {
            case.disk("vda").contents.partitions[2].label = Some("old-swap".into());
        }),
        ("swap on the whole disk", |case| {
            case.inventory.pools.clear();
            case.inventory.mappers.clear();
            case.inventory.target_mounts.clear();
            case.disk("vda").contents =
                Contents { holders: vec![Holder::Swap], ..Contents::default() };
        }),
        ("swap on a volume", |case| case.inventory.swaps = vec!["vda3".into(), "zd0".into()]),
        ("the target taken by something else", |case| {
            case.inventory.target_mounts = vec!["/mnt/usb".into()];
            case.inventory.pools.clear();
            case.inventory.mappers.clear();
            case.disk("vda").contents = Contents::default();
        }),
        ("the pool's name taken", |case| {
            let name = "rpool".to_owned();
            case.inventory.pools = vec![ImportedPool {
                name,
                guid: "5678".into(),
                health: "ONLINE".into(),
                devices: vec!["vdb".into()],
                volumes: BTreeMap::new(),
                mounts: Vec::new(),
            }];
            case.inventory.mappers.clear();
            case.disk("vda").contents = Contents::default();
        }),
        ("the container's name taken", |case| {
            case.inventory.pools.clear();
            case.inventory.mappers[0].slaves = vec!["vdb".into()];
            case.disk("vda").contents = Contents::default();
        }),
    ];
    let mut refusals = Vec::new();
    for (name, change) in cases {
        let refusal = interrupted().with(erase).with(change).refusal();
        assert_eq!(refusal.kind, RefusalKind::TargetUnfit, "{name}");
        refusals.push(format!("{name}:\n  {refusal}\n  {}", hint(&refusal)));
    }
    insta::assert_snapshot!(refusals.join("\n"));
}

/// Names of groups and RAIDs that other disks have already.
#[test]
fn groups_and_raids_of_other_disks_keep_their_names() {
    let foreign = |case: &mut Case| {
        let slaves = vec!["other".to_owned()];
        case.inventory.mappers = vec![Mapper {
            kernel_name: "dm-7".into(),
            name: "pool-old--root".into(),
            uuid: "LVM-abc".into(),
            slaves: slaves.clone(),
            mounts: Vec::new(),
        }];
        case.inventory.arrays = vec![RunningArray {
            kernel_name: "md127".into(),
            name: "raid1".into(),
            slaves,
            mounts: Vec::new(),
        }];
    };
    for (layout, words) in [
        (
            include_str!("../../../tests/layouts/disko/luks-lvm.json"),
            ["volume group \"pool\" is active on", "vgchange -an pool"],
        ),
        (
            include_str!("../../../tests/layouts/disko/mdadm.json"),
            ["a RAID \"raid1\" runs on", "mdadm --stop /dev/md127"],
        ),
    ] {
        let case = super::layouts::machine_for(layout, 64 << 30, 512);
        let plan = |case: &Case| crate::plan_disks(&case.inventory, &case.layout, &case.options);
        plan(&case).unwrap();
        let refusal = plan(&case.with(foreign)).unwrap_err();
        let said = format!("{refusal} {}", hint(&refusal));
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn other_disks_with_the_same_names_are_refused() {
    let mut refusals = Vec::new();
    let changes: [Change; 2] = [
        |case| {
            let mut twin = partition(1, "disk-root-ESP", 1 << 30);
            twin.kernel_name = "vdb1".into();
            case.disk("vdb").contents.partitions = vec![twin];
        },
        |case| {
            case.disk("vdb").contents.signatures = vec![member("rpool", "99")];
        },
    ];
    for change in changes {
        let refusal = Case::new(SINGLE).with(change).refusal();
        assert_eq!(refusal.kind, RefusalKind::TargetUnfit);
        refusals.push(format!("{refusal}\n  {}", hint(&refusal)));
    }
    insta::assert_snapshot!(refusals.join("\n"));
    // A destroyed pool's label is nobody's pool.
    Case::new(SINGLE)
        .with(|case| {
            let Signature::ZfsMember { pool, guid, hostname, hostid, txg, written, .. } =
                member("rpool", "99")
            else {
                unreachable!()
            };
            let state = PoolState::Destroyed;
            case.disk("vdb").contents.signatures =
                vec![Signature::ZfsMember { pool, guid, hostname, hostid, state, txg, written }];
        })
        .plan();
}
