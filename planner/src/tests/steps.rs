//! What is planned.

use super::*;
use keystone_protocol::options::Unlock;
use keystone_protocol::plan::{Action, ContainerUnlock, DeviceRef, KeyFile, Vdev};

/// The whole plan, without the layout and the second copy of the steps.
macro_rules! snapshot {
    ($plan:expr) => {
        let mut plan = $plan;
        assert!(plan.is_consistent());
        plan.basis.steps.clear();
        plan.basis.layout.clear();
        insta::assert_json_snapshot!(plan);
    };
}

#[test]
fn single_disk_root() {
    snapshot!(Case::new(SINGLE).plan());
}

#[test]
fn os_zfs_single() {
    snapshot!(Case::new(OS_SINGLE).plan());
}

#[test]
fn a_mirror_has_both_partitions() {
    let plan = Case::new(OS_MIRROR).plan();
    let vdevs = plan.steps.iter().find_map(|step| match &step.action {
        Action::CreatePool(pool) => Some(pool.vdevs.clone()),
        _ => None,
    });
    let member = |disk: &str, number| DeviceRef::Partition { disk: disk.into(), number };
    let mirror = Vdev::Mirror { members: vec![member("disk0", 2), member("disk1", 1)] };
    assert_eq!(vdevs, Some(vec![mirror]));
}

#[test]
fn a_mounted_container_is_closed_after_unmounting() {
    let plan = Case::new(OS_EXT4).plan();
    insta::assert_snapshot!(ids(&plan).join("\n"));
}

#[test]
fn everything_needed_is_there_before_it_is_needed() {
    for layout in [SINGLE, OS_SINGLE, OS_MIRROR] {
        let plan = Case::new(layout).plan();
        let ids = ids(&plan);
        let at = |id: &str| {
            ids.iter().position(|found| *found == id).unwrap_or_else(|| panic!("no step {id}"))
        };
        let order = [
            "pool:rpool",
            "volume:rpool/credstore",
            "luks:credstore",
            "ext4:credstore",
            "key:rpool/crypt",
            "dataset:rpool/crypt",
            "dataset:rpool/crypt/system",
            "enroll:credstore",
            "close:credstore",
            "mount:/",
            "mount:/boot",
            "mount:/nix",
            "closure",
            "profile",
            "host-key",
            "bootloader",
            "verify-bootloader",
            "report",
            "unmount",
            "export:rpool",
            "seal",
        ];
        assert!(order.map(at).is_sorted(), "{ids:?}");
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    }
}

#[test]
fn a_hash_depends_on_what_is_done_and_not_on_what_changes_by_itself() {
    let plan = Case::new(SINGLE).plan();
    let same = |change: Change| Case::new(SINGLE).with(change).plan().hash;
    for change in [
        (|case| case.disk("vda").links.reverse()) as Change,
        |case| {
            case.disk("vda").devno = "253:99".into();
            case.disk("vda").kernel_name = "vdx".into();
        },
        |case| case.inventory.network.clear(),
        |case| case.inventory.memory.available = 1 << 30,
        |case| case.inventory.system.clock += 86_400,
        |case| case.inventory.system.boot_id = "another".into(),
        |case| drop(case.inventory.disks.pop()),
        |case| case.layout = case.layout.replace('\n', " "),
    ] {
        assert_eq!(same(change), plan.hash);
    }
    for change in [
        (|case| case.disk("vda").identity.size += 512) as Change,
        |case| case.disk("vda").identity.serial = Some("another".into()),
        |case| case.options.skip_seal = true,
        |case| case.options.unlock = Unlock::Password,
        |case| case.closure.toplevel.push('x'),
        |case| case.closure.zfs_version = Some("2.1.0".into()),
        |case| case.inventory.tpm = None,
        |case| case.layout = case.layout.replace("100M", "200M"),
        |case| {
            case.options.erase = true;
            case.disk("vda").contents.signatures = vec![Signature::Swap];
        },
    ] {
        assert_ne!(same(change), plan.hash);
    }
}

#[test]
fn a_disk_is_found_by_whatever_names_it() {
    let by_layout = Case::new(SINGLE).plan();
    for word in [
        "/dev/disk/by-id/virtio-a",
        "virtio-a",
        "a",
        "serial:a",
        "by-id:virtio-a",
        "path:pci-0000:00:05.0",
        "wwn:0X5000C500A1",
        "wwn:5000c500a1",
        "model:samsung SSD 990_PRO",
        "size:largest",
    ] {
        let case = Case::new(SINGLE).with(|case| {
            case.options.disks.insert("root".into(), word.into());
            let disk = &mut case.disk("vdb").identity;
            disk.wwn = Some("0x5000c500a1".into());
            disk.model = Some("Samsung SSD 990 PRO".into());
            disk.size += 512 << 20;
        });
        assert_eq!(case.plan().basis.disks["root"].name, "virtio-a", "{word}");
    }
    assert_eq!(by_layout.basis.disks["root"].name, "virtio-target");
    // Links may be noted without `/dev/`.
    let case = Case::new(SINGLE).with(|case| {
        for link in &mut case.disk("vda").links {
            *link = link.replace("/dev/", "");
        }
    });
    assert_eq!(case.plan().hash, by_layout.hash);
}

#[test]
fn each_warning_and_note_is_said() {
    let mut said = Vec::new();
    let quiet = Case::new(SINGLE).plan();
    assert_eq!(quiet.warnings, [""; 0]);
    for change in [
        (|case| {
            case.layout = case.layout.replace("/dev/disk/by-id/virtio-target", "/dev/vda");
        }) as Change,
        |case| case.inventory.system.clock = 86_400,
        |case| case.inventory.firmware.efi_variables = false,
        |case| case.closure.hostid = Some(0x8425_e349),
        |case| case.closure.zfs_version = None,
        |case| case.options.skip_seal = true,
        |case| {
            case.options.unlock = Unlock::Tpm2;
            case.options.tpm2_pcrs = Some(vec![]);
        },
        |case| {
            case.options.erase = true;
            for (disk, guid) in [("vda", "77"), ("vdb", "77")] {
                case.disk(disk).contents.signatures = vec![Signature::ZfsMember {
                    pool: "tank".into(),
                    guid: guid.into(),
                    hostname: Some("attic".into()),
                    hostid: Some(7),
                    state: PoolState::Active,
                    txg: 12,
                    written: None,
                }];
            }
        },
    ] {
        let plan = Case::new(SINGLE).with(change).plan();
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
        said.extend(plan.warnings);
    }
    said.push(String::new());
    said.extend(quiet.notes);
    said.extend(quiet.containers.iter().map(|container| container.reason.clone()));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn without_a_seal_nothing_is_exported() {
    let plan = Case::new(SINGLE).with(|case| case.options.skip_seal = true).plan();
    assert_eq!(ids(&plan).last(), Some(&"unmount"));
}

#[test]
fn a_key_file_outside_the_store_is_the_layouts_word() {
    let store = "/nix/store/ss9gm3a13m0764v5i11d169mwanlb1mi-credstore-password";
    let unlock = |case: &Case| {
        let plan = case.plan();
        let action = plan.steps.iter().find_map(|step| match &step.action {
            Action::Enroll { unlock, .. } => Some(unlock.clone()),
            _ => None,
        });
        assert_eq!(Some(&plan.containers[0].unlock), action.as_ref());
        (plan.containers[0].unlock.clone(), plan.containers[0].reason.clone())
    };
    let key_file = |trim_newline| {
        let path = "/tmp/secret.key".into();
        ContainerUnlock::KeyFile(KeyFile { path, trim_newline, offset: 0, size: None })
    };
    let password_file = Case::new(SINGLE).layout(store, "/tmp/secret.key");
    assert_eq!(unlock(&password_file).0, key_file(true));
    let raw = Case::new(SINGLE)
        .layout(&format!("\"passwordFile\": \"{store}\""), "\"passwordFile\": null")
        .layout("\"keyFile\": null", "\"keyFile\": \"/tmp/secret.key\"");
    assert_eq!(unlock(&raw).0, key_file(false));
    let asked = Case::new(SINGLE)
        .layout(&format!("\"passwordFile\": \"{store}\""), "\"passwordFile\": null")
        .layout("\"askPassword\": false", "\"askPassword\": true");
    assert_eq!(unlock(&asked).0, ContainerUnlock::Password);
    let (by_policy, reason) = unlock(&Case::new(SINGLE));
    assert!(matches!(by_policy, ContainerUnlock::Tpm2 { .. }));
    assert!(reason.contains("is not used"), "{reason}");
    let no_tpm = Case::new(SINGLE).with(|case| case.inventory.tpm = None);
    assert_eq!(unlock(&no_tpm).0, ContainerUnlock::Password);
}

/// Numbers need no users, so they are set before activation, which may look at what it is given;
/// names are those of users that activation makes.
#[test]
fn what_the_operator_adds_is_in_order() {
    use keystone_protocol::options::{Account, Chown, ExtraFiles, HostKeys};
    let plan = Case::new(SINGLE)
        .with(|case| {
            let chown =
                |path: &str, user| Chown { path: path.into(), user: Some(user), group: None };
            case.options.extra_files =
                Some(ExtraFiles { entries: 3, bytes: 4096, blake3: "ab".repeat(32) });
            case.options.chown = vec![
                chown("/home/alice", Account::Name("alice".into())),
                chown("/srv/a b", Account::Id(1000)),
            ];
            case.options.host_keys = HostKeys::Installer;
        })
        .plan();
    assert!(plan.is_consistent());
    let at = plan.steps.iter().position(|step| step.id == "profile").unwrap();
    let titles: Vec<String> =
        plan.steps[at..at + 8].iter().map(|s| format!("{}: {}", s.id, s.title)).collect();
    insta::assert_snapshot!(titles.join("\n"));
    assert_ne!(plan.hash, Case::new(SINGLE).plan().hash);
}

#[test]
fn phases_are_parts_of_the_plan() {
    use keystone_protocol::phase::Phases;
    let plan = Case::new(SINGLE).plan();
    let ids = ids(&plan);
    let disko = Phases { disko: true, install: false };
    let install = Phases { disko: false, install: true };
    assert_eq!(ids[disko.steps(&plan)].last(), Some(&"mount:/var"));
    assert_eq!(ids[install.steps(&plan)].first(), Some(&"closure"));
    assert_eq!(ids[install.steps(&plan)].last(), Some(&"seal"));
    assert_eq!(Phases::ALL.steps(&plan), 0..ids.len());
    assert!(Phases::NONE.steps(&plan).is_empty());
}
