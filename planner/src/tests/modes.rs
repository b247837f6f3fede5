//! disko's modes, and what is kept.

use super::occupied::{installed, interrupted, member, partition};
use super::*;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::message::RefusalKind;
use keystone_protocol::plan::{Action, KeyFile, Release};

/// The plan for the disks alone.
fn disks(case: &Case, mode: DiskoMode) -> Result<Plan, Refusal> {
    let options = InstallOptions { disko_mode: mode, ..case.options.clone() };
    crate::plan_disks(&case.inventory, &case.layout, &options)
}

fn planned(case: &Case, mode: DiskoMode) -> Plan {
    let plan = disks(case, mode).unwrap_or_else(|refusal| panic!("{mode} refused: {refusal}"));
    assert!(plan.is_consistent());
    plan
}

/// The steps as an operator reads them.
fn titles(plan: &Plan) -> String {
    let lines: Vec<String> =
        plan.steps.iter().map(|step| format!("{}: {}", step.id, step.title)).collect();
    lines.join("\n")
}

/// Installed before and closed, as `SINGLE` makes it.
fn kept() -> Case {
    installed().with(|case| {
        let partitions = &mut case.disk("vda").contents.partitions;
        let types = [
            "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
        ];
        for (partition, type_guid) in partitions.iter_mut().zip(types) {
            partition.type_guid = Some(type_guid.into());
        }
    })
}

#[test]
fn each_mode_on_what_is_there() {
    let mut said = Vec::new();
    for mode in DiskoMode::ALL {
        let case = kept().with(|case| case.options.erase = mode == DiskoMode::Disko);
        said.push(format!("{mode}:\n{}", titles(&planned(&case, mode))));
    }
    insta::assert_snapshot!(said.join("\n\n"));
}

#[test]
fn each_mode_on_a_blank_disk() {
    let blank = Case::new(SINGLE);
    for mode in [DiskoMode::Disko, DiskoMode::Format, DiskoMode::FormatMount] {
        let plan = planned(&blank, mode);
        let made = ids(&plan);
        assert_eq!(made.contains(&"wipe:root"), mode == DiskoMode::Disko, "{mode}");
        assert_eq!(made.contains(&"mount:/"), mode.mounts(), "{mode}");
        // What is only formatted is closed again.
        assert_eq!(made.contains(&"export:rpool"), !mode.mounts(), "{mode}");
        for step in
            ["partition:root", "vfat:root/ESP", "pool:rpool", "luks:credstore", "enroll:credstore"]
        {
            assert!(made.contains(&step), "{mode}: no {step}");
        }
        assert_eq!(plan.containers.len(), 1);
        assert_eq!(plan.basis.toplevel, "");
    }
    let refusal = disks(&blank, DiskoMode::Mount).unwrap_err();
    insta::assert_snapshot!(format!("{refusal}\n{}", refusal.hint.clone().unwrap_or_default()));
    assert_eq!(ids(&planned(&blank, DiskoMode::Destroy)), ["wipe:root"]);
    assert_eq!(ids(&planned(&blank, DiskoMode::Unmount)), ["seal"]);
}

#[test]
fn formatting_writes_no_table_where_one_is_and_asks_for_no_consent() {
    for mode in [DiskoMode::Format, DiskoMode::FormatMount, DiskoMode::Mount] {
        let plan = planned(&kept(), mode);
        assert!(plan.basis.destroys.is_empty());
        for step in &plan.steps {
            assert!(
                !matches!(
                    step.action,
                    Action::WipeDisk { .. }
                        | Action::Partition(_)
                        | Action::CreatePool(_)
                        | Action::FormatLuks { .. }
                        | Action::Release(_)
                ),
                "{mode}: {}",
                step.id
            );
        }
        // The container that is there has its keys: nobody is asked for new ones.
        assert!(plan.containers.is_empty());
    }
}

#[test]
fn a_pool_is_imported_by_guid_from_its_members() {
    let plan = planned(&kept(), DiskoMode::Mount);
    let import = plan.steps.iter().find_map(|step| match &step.action {
        Action::ImportPool(import) => Some(import.clone()),
        _ => None,
    });
    let import = import.unwrap();
    assert_eq!(import.guid.as_deref(), Some("1234"));
    assert_eq!(import.members.len(), 1);
    // Last used by another host, and not exported there.
    assert!(import.any_host);
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("\"vault\"")),
        "{:?}",
        plan.warnings
    );
    let own = kept().with(|case| case.inventory.system.hostid = 0xdead_beef);
    assert!(planned(&own, DiskoMode::Mount).warnings.is_empty());
}

#[test]
fn mounting_what_is_mounted_or_half_open_plans_the_same_ensures() {
    let open = interrupted().with(|case| {
        for (number, type_guid) in [
            (0, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            (1, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            (2, "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
        ] {
            case.disk("vda").contents.partitions[number].type_guid = Some(type_guid.into());
        }
    });
    let closed = planned(&kept(), DiskoMode::FormatMount);
    assert_eq!(ids(&planned(&open, DiskoMode::FormatMount)), ids(&closed));
    // What was open before a format stays open after it.
    let format = planned(&open, DiskoMode::Format);
    assert!(!ids(&format).contains(&"export:rpool"), "{:?}", ids(&format));
    assert!(ids(&planned(&kept(), DiskoMode::Format)).contains(&"export:rpool"));
}

#[test]
fn unmounting_closes_leaf_first_and_destroys_nothing() {
    let plan = planned(&interrupted(), DiskoMode::Unmount);
    insta::assert_snapshot!(titles(&plan));
    for step in &plan.steps {
        assert!(!matches!(
            step.action,
            Action::Release(Release::DestroyPool { .. }) | Action::WipeDisk { .. }
        ));
    }
    let foreign = interrupted().with(|case| case.inventory.pools[0].name = "tank".into());
    let refusal = disks(&foreign, DiskoMode::Unmount).unwrap_err();
    assert!(refusal.message.contains("\"tank\""), "{refusal}");
}

#[test]
fn destroying_frees_the_disks_and_makes_nothing() {
    let plan = planned(&interrupted(), DiskoMode::Destroy);
    let ids = ids(&plan);
    assert_eq!(ids.last(), Some(&"wipe:root"));
    assert!(ids[..ids.len() - 1].iter().all(|id| id.starts_with("release:")), "{ids:?}");
    assert_eq!(plan.basis.destroys.len(), 1);
    // The mode says it; the plan is agreed to all the same.
    assert!(!plan.basis.destroys[0].contents.is_empty());
}

#[test]
fn what_is_not_the_layouts_is_never_overwritten() {
    let cases: [(&str, Change); 13] = [
        ("another partition's name", |case| {
            case.disk("vda").contents.partitions[0].label = Some("windows".into());
        }),
        ("another name, and nothing may be written", |case| {
            case.options.disko_mode = DiskoMode::Mount;
            case.disk("vda").contents.partitions[1].label = Some("windows".into());
        }),
        ("another type", |case| {
            case.options.disko_mode = DiskoMode::Mount;
            case.disk("vda").contents.partitions[0].type_guid =
                Some("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7".into());
        }),
        ("a partition is missing", |case| {
            case.options.disko_mode = DiskoMode::Mount;
            case.disk("vda").contents.partitions.pop();
        }),
        ("an MBR", |case| {
            case.disk("vda").contents.table = Some(Table::Mbr { id: "deadbeef".into() });
        }),
        ("a file system on the whole disk", |case| {
            case.disk("vda").contents = Contents {
                signatures: vec![Signature::Filesystem {
                    fstype: "xfs".into(),
                    label: None,
                    uuid: None,
                    used: None,
                }],
                ..Contents::default()
            };
        }),
        ("another file system", |case| {
            case.disk("vda").contents.partitions[0].signatures = vec![Signature::Filesystem {
                fstype: "ext4".into(),
                label: Some("data".into()),
                uuid: None,
                used: None,
            }];
        }),
        ("a container in the pool's place", |case| {
            case.disk("vda").contents.partitions[1].signatures =
                vec![Signature::Luks { version: 2, uuid: Some("u".into()), label: None }];
        }),
        ("another pool", |case| {
            case.disk("vda").contents.partitions[1].signatures = vec![member("tank", "77")];
        }),
        ("a destroyed pool", |case| {
            let Signature::ZfsMember { state, .. } =
                &mut case.disk("vda").contents.partitions[1].signatures[0]
            else {
                unreachable!()
            };
            *state = PoolState::Destroyed;
        }),
        ("no pool", |case| {
            case.options.disko_mode = DiskoMode::Mount;
            case.disk("vda").contents.partitions[1].signatures.clear();
        }),
        ("the pool's name imported from elsewhere", |case| {
            case.inventory.pools = vec![ImportedPool {
                name: "rpool".into(),
                guid: "99".into(),
                health: "ONLINE".into(),
                devices: vec!["vdb".into()],
                volumes: Default::default(),
                mounts: Vec::new(),
            }];
        }),
        ("something else at the target", |case| {
            case.inventory.target_mounts = vec!["/mnt/usb".into()];
        }),
    ];
    let mut refusals = Vec::new();
    for (name, change) in cases {
        let case = kept().with(|case| {
            case.options.disko_mode = DiskoMode::FormatMount;
            change(case);
        });
        let refusal = match disks(&case, case.options.disko_mode) {
            Err(refusal) => refusal,
            Ok(plan) => panic!("{name}: not refused: {:?}", ids(&plan)),
        };
        assert_eq!(refusal.kind, RefusalKind::TargetUnfit, "{name}");
        refusals
            .push(format!("{name}:\n  {refusal}\n  {}", refusal.hint.clone().unwrap_or_default()));
    }
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn a_disk_that_the_layout_wants_kept_is_not_wiped() {
    let keep = |case: Case| {
        case.layout("\"destroy\": true,", "\"destroy\": false,").with(|case| {
            case.options.erase = true;
        })
    };
    let plan = planned(&keep(kept()), DiskoMode::Disko);
    assert!(plan.basis.destroys.is_empty());
    assert!(ids(&plan).iter().all(|id| !id.starts_with("wipe:") && !id.starts_with("release:")));
    assert_eq!(ids(&planned(&keep(kept()), DiskoMode::Destroy)), [""; 0]);
    // Blank, it is made.
    let blank = planned(&keep(Case::new(SINGLE)), DiskoMode::Disko);
    assert!(ids(&blank).contains(&"pool:rpool") && !ids(&blank).contains(&"wipe:root"));
    // An installation into what is kept needs no consent to lose anything.
    let install = keep(kept()).with(|case| case.options.erase = false).plan();
    assert_eq!(ids(&install)[0], "partition:root");
    assert_eq!(ids(&install).last(), Some(&"seal"));
}

#[test]
fn a_system_is_installed_into_what_is_mounted_formatted_or_made() {
    for mode in [DiskoMode::Mount, DiskoMode::Format, DiskoMode::FormatMount] {
        let plan = kept().with(|case| case.options.disko_mode = mode).plan();
        let ids = ids(&plan);
        assert!(ids.contains(&"mount:/") && ids.contains(&"closure"), "{mode}: {ids:?}");
        assert_eq!(ids.last(), Some(&"seal"));
    }
    for mode in [DiskoMode::Destroy, DiskoMode::Unmount] {
        let refusal = kept().with(|case| case.options.disko_mode = mode).refusal();
        assert!(refusal.message.contains(mode.name()), "{refusal}");
    }
}

#[test]
fn the_layouts_key_file_is_tried_on_what_is_there() {
    let unlock = |case: &Case| {
        planned(case, DiskoMode::Mount).steps.iter().find_map(|step| match &step.action {
            Action::OpenLuks { key_file, .. } => Some(key_file.clone()),
            _ => None,
        })
    };
    let store = "/nix/store/ss9gm3a13m0764v5i11d169mwanlb1mi-credstore-password";
    let key_file = KeyFile { path: store.into(), trim_newline: true, offset: 0, size: None };
    assert_eq!(unlock(&kept()), Some(Some(key_file)));
}

#[test]
fn discarding_is_in_the_plan_where_the_disk_can() {
    let discard = |can: bool| {
        let case = kept().with(|case| {
            case.options.discard = true;
            case.disk("vda").discard = can;
        });
        let plan = planned(&case, DiskoMode::Destroy);
        (plan.steps[0].title.clone(), plan.notes.clone())
    };
    assert!(discard(true).0.starts_with("discard and wipe"));
    let (title, notes) = discard(false);
    assert!(title.starts_with("wipe") && notes[0].contains("knows no discard"), "{notes:?}");
}

#[test]
fn extra_partitions_beside_the_layouts_are_left_alone() {
    let case = kept().with(|case| {
        let extra = partition(4, "data", 1 << 30);
        case.disk("vda").contents.partitions.push(extra);
    });
    let plan = planned(&case, DiskoMode::FormatMount);
    let table = plan.steps.iter().find_map(|step| match &step.action {
        Action::FindPartitions(table) => Some(table.partitions.len()),
        _ => None,
    });
    assert_eq!(table, Some(3));
}
