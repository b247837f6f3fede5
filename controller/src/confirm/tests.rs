//! The plan as it is shown, and what counts as agreement to it.

use super::consent::Consent;
use super::machine::inventory_text;
use super::plan_text;
use crate::ui::style::Style;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::layout::Layout;
use keystone_protocol::plan::{
    Action, Basis, ContainerPlan, ContainerUnlock, DatasetKey, Destroyed, DeviceRef, MountPlan,
    MountSource, PartitionTable, Plan, PlannedPartition, PoolPlan, Release, Step, Vdev, basis_hash,
};
use std::collections::BTreeMap;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn partition(number: u32) -> DeviceRef {
    DeviceRef::Partition { disk: "root".into(), number }
}

fn table() -> PartitionTable {
    let partition = |number, name: &str, type_guid: &str, first_lba, last_lba| PlannedPartition {
        number,
        name: name.into(),
        label: format!("disk-root-{name}"),
        type_guid: type_guid.into(),
        guid: None,
        first_lba,
        last_lba,
        attributes: 0,
    };
    let linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
    PartitionTable {
        device: DeviceRef::Disk { disk: "root".into() },
        keep: false,
        hybrid: None,
        partitions: vec![
            partition(1, "ESP", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 2048, 2_099_199),
            partition(2, "zfs", linux, 2_099_200, 25_165_790),
        ],
    }
}

/// A plan with most kinds of steps.
pub(crate) fn plan(unlock: ContainerUnlock) -> Plan {
    let volume = DeviceRef::Volume { dataset: "rpool/credstore".into() };
    let mapper = DeviceRef::Mapper { name: "credstore".into() };
    let pool = PoolPlan {
        name: "rpool".into(),
        vdevs: vec![Vdev::Disk { member: partition(2) }],
        properties: map(&[("ashift", "12")]),
        root_properties: map(&[("acltype", "posixacl"), ("compression", "zstd")]),
        features: vec!["async_destroy".into(), "encryption".into()],
        ..PoolPlan::default()
    };
    let toplevel = "/nix/store/11111111111111111111111111111111-nixos-system-nas-25.11".to_owned();
    let actions = vec![
        (
            "release:old",
            "release the imported pool tank",
            Action::Release(Release::DestroyPool { name: "tank".into(), guid: "123456".into() }),
        ),
        ("wipe:root", "wipe disk root", Action::WipeDisk { disk: "root".into(), discard: false }),
        ("partition:root", "partition disk root", Action::Partition(table())),
        (
            "vfat:root:1",
            "make FAT32 on partition 1 of root",
            Action::MakeVfat { device: partition(1), label: None },
        ),
        ("pool:rpool", "create pool rpool", Action::CreatePool(pool)),
        (
            "volume:rpool/credstore",
            "create volume rpool/credstore",
            Action::CreateVolume {
                dataset: "rpool/credstore".into(),
                size: 100 << 20,
                properties: BTreeMap::new(),
                sparse: false,
                key: None,
            },
        ),
        (
            "luks:credstore",
            "format container credstore",
            Action::FormatLuks {
                device: volume.clone(),
                name: "credstore".into(),
                format: Default::default(),
                open: Default::default(),
            },
        ),
        (
            "ext4:credstore",
            "make ext4 in container credstore",
            Action::MakeFilesystem {
                device: mapper.clone(),
                fstype: "ext4".into(),
                extra_args: vec!["-m".into(), "0".into()],
            },
        ),
        (
            "enroll:credstore",
            "make the keyslots of credstore",
            Action::Enroll {
                device: volume,
                name: "credstore".into(),
                unlock: unlock.clone(),
                additional: Vec::new(),
            },
        ),
        (
            "key:rpool/crypt",
            "make the key of rpool/crypt",
            Action::CreateKey {
                device: mapper.clone(),
                file: "zfs-sysroot.mount".into(),
                bytes: 32,
            },
        ),
        (
            "dataset:rpool/crypt",
            "create dataset rpool/crypt",
            Action::CreateDataset {
                dataset: "rpool/crypt".into(),
                properties: map(&[("encryption", "aes-256-gcm"), ("mountpoint", "none")]),
                key: Some(DatasetKey::Made { device: mapper, file: "zfs-sysroot.mount".into() }),
            },
        ),
        (
            "mount:/",
            "mount /",
            Action::Mount(MountPlan {
                source: MountSource::Dataset { dataset: "rpool/crypt/system".into() },
                target: "/".into(),
                options: vec![],
            }),
        ),
        (
            "mount:/boot",
            "mount /boot",
            Action::Mount(MountPlan {
                source: MountSource::Filesystem { device: partition(1), fstype: "vfat".into() },
                target: "/boot".into(),
                options: vec!["umask=0077".into()],
            }),
        ),
        (
            "closure",
            "receive the closure",
            Action::ReceiveClosure { paths: 312, bytes: 1_300_000_000 },
        ),
        (
            "bootloader",
            "install the boot loader",
            Action::InstallBootloader { toplevel: toplevel.clone() },
        ),
        ("seal:rpool", "export pool rpool", Action::ExportPool { pool: "rpool".into() }),
    ];
    let steps: Vec<Step> = actions
        .into_iter()
        .map(|(id, title, action)| Step { id: id.into(), title: title.into(), action })
        .collect();
    let identity = inventory().disks[0].identity.clone();
    let basis = Basis {
        layout: "{}".into(),
        options: Default::default(),
        toplevel,
        disks: BTreeMap::from([("root".to_owned(), identity.clone())]),
        destroys: vec![Destroyed {
            disk: "root".into(),
            identity,
            contents: vec![
                "GPT with 2 partitions".into(),
                "pool tank of nas (not exported)".into(),
            ],
        }],
        steps: steps.iter().map(|step| serde_json::to_string(step).unwrap()).collect(),
    };
    Plan {
        hash: basis_hash(&basis),
        basis,
        steps,
        containers: vec![ContainerPlan {
            name: "credstore".into(),
            unlock,
            reason: "its passwordFile lies in the Nix store, which everybody can read, so it is \
                     not used; the TPM's PCR 7 is measured and Secure Boot is off"
                .into(),
        }],
        notes: vec!["the hooks of dataset rpool/crypt are replaced by a native key step".into()],
        warnings: vec!["the features dedup_table_quota and raidz_expansion are left out".into()],
    }
}

pub(crate) fn tpm2() -> ContainerUnlock {
    ContainerUnlock::Tpm2 { pcrs: vec![7], bank: "sha256".into(), pin: false }
}

pub(crate) fn inventory() -> Inventory {
    serde_json::from_str(include_str!("fixtures/inventory.json")).unwrap()
}

#[test]
fn a_plan_as_it_is_shown() {
    let text = plan_text("10.0.2.15", &inventory(), &plan(tpm2()), Style::PLAIN);
    insta::assert_snapshot!(text);
}

#[test]
fn an_inventory_as_it_is_shown() {
    insta::assert_snapshot!(inventory_text(&inventory()));
}

#[test]
fn agreement_names_what_it_agrees_to() {
    let plan = plan(tpm2());
    let disks = |names: &[&str]| Consent::Disks(names.iter().map(|n| (*n).to_owned()).collect());
    assert!(Consent::PlanHash(plan.hash.to_uppercase()).given(&plan).unwrap());
    assert!(disks(&["virtio-target"]).given(&plan).unwrap());
    assert!(disks(&["/dev/disk/by-id/virtio-target"]).given(&plan).unwrap());
    assert!(!Consent::Typed.given(&plan).unwrap());
    let refusals = [
        (Consent::PlanHash("0000".into()), "--dry-run"),
        (disks(&[]), "virtio-target"),
        (disks(&["virtio"]), "--disk-id virtio is not a disk of this plan"),
        (disks(&["virtio-target", "virtio-other"]), "virtio-other"),
        (disks(&["target"]), "--disk-id target"),
        (Consent::Impossible, plan.hash.as_str()),
    ];
    for (consent, says) in refusals {
        let error = consent.given(&plan).unwrap_err().to_string();
        assert!(error.contains(says), "{consent:?}: {error}");
    }
}

/// The plan of a layout for a machine with the disks that it names, blank, and every program.
fn planned(layout: &str) -> (Inventory, Plan) {
    let path = format!("{}/../tests/layouts/{layout}.json", env!("CARGO_MANIFEST_DIR"));
    let layout = std::fs::read_to_string(path).unwrap();
    let machine = include_str!("../../../planner/src/fixtures/machine.json");
    let mut machine: Inventory = serde_json::from_str(machine).unwrap();
    let blank = machine.disks.iter().find(|disk| disk.kernel_name == "vdb").unwrap().clone();
    let known = |machine: &Inventory, device: &String| {
        let names = machine.disks.iter().map(|disk| format!("/dev/{}", disk.kernel_name));
        let links = machine.disks.iter().flat_map(|disk| disk.links.iter().cloned());
        names.chain(links).any(|name| name == *device)
    };
    for (number, wanted) in Layout::parse(&layout).unwrap().disks.iter().enumerate() {
        if !known(&machine, &wanted.device) {
            let mut disk = blank.clone();
            disk.kernel_name = match wanted.device.strip_prefix("/dev/") {
                Some(node) if !node.contains('/') => node.to_owned(),
                _ => format!("vdx{number}"),
            };
            disk.devno = format!("300:{number}");
            disk.identity.serial = Some(format!("serial-{number}"));
            disk.identity.name = format!("virtio-serial-{number}");
            disk.links = vec![wanted.device.clone()];
            machine.disks.push(disk);
        }
    }
    for tool in ["bash", "btrfs", "lvm", "mdadm", "mkfs.btrfs", "mkfs.ext4", "mkfs.xfs"] {
        machine.tools.insert(tool.to_owned(), format!("/bin/{tool}"));
    }
    let plan = keystone_planner::plan_disks(&machine, &layout, &Default::default());
    (machine, plan.unwrap_or_else(|refusal| panic!("{refusal}")))
}

fn drawn(layout: &str, columns: usize) -> String {
    let (machine, plan) = planned(layout);
    let text = plan_text("nas", &machine, &plan, Style::PLAIN.with_columns(columns));
    for line in text.lines().filter(|line| line.trim().contains(' ')) {
        let long = line.split_whitespace().any(|word| word.chars().count() > 40);
        assert!(
            line.chars().count() <= columns || long,
            "{} columns: {line}",
            line.chars().count()
        );
    }
    text
}

/// The tree of a plan.
fn afterwards(layout: &str) -> String {
    let text = drawn(layout, 80);
    let from = text.split_once("AFTERWARDS\n").unwrap().1;
    format!("{layout}\n{}\n", from.split_once("STEPS\n").unwrap().0)
}

#[test]
fn trees_of_layouts() {
    let layouts = [
        "keystone/single-disk-root",
        "keystone/os-zfs-mirror",
        "keystone/os-ext4-single",
        "disko/luks-lvm",
        "disko/luks-btrfs-subvolumes",
        "disko/mdadm",
        "disko/complex",
        "disko/tmpfs",
    ];
    insta::assert_snapshot!(layouts.map(afterwards).concat());
}

#[test]
fn a_plan_in_80_columns() {
    insta::assert_snapshot!(drawn("keystone/single-disk-root", 80));
}

#[test]
fn a_plan_in_140_columns() {
    insta::assert_snapshot!(drawn("keystone/single-disk-root", 140));
}
