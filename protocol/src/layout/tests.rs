//! The language against real documents.

use super::*;
use crate::options::FstabEntry;

const SINGLE: &str = include_str!("../../../tests/layouts/keystone/single-disk-root.json");
const OS_SINGLE: &str = include_str!("../../../tests/layouts/keystone/os-zfs-single.json");
const OS_MIRROR: &str = include_str!("../../../tests/layouts/keystone/os-zfs-mirror.json");
const OS_EXT4: &str = include_str!("../../../tests/layouts/keystone/os-ext4-single.json");

/// `SINGLE` with the value at `pointer` replaced.
fn with(pointer: &str, value: serde_json::Value) -> String {
    edit(|document| *document.pointer_mut(pointer).expect("the place exists") = value)
}

fn edit(change: impl FnOnce(&mut Value)) -> String {
    let mut document: Value = serde_json::from_str(SINGLE).unwrap();
    change(&mut document);
    document.to_string()
}

fn refused(json: &str) -> String {
    Layout::parse(json).expect_err("the layout should be refused").to_string()
}

#[test]
fn keystones_layouts_are_read() {
    for json in [SINGLE, OS_SINGLE, OS_MIRROR, OS_EXT4] {
        Layout::parse(json).unwrap();
    }
    let layout = Layout::parse(SINGLE).unwrap();
    let disk = &layout.disks[0];
    assert_eq!(
        (disk.name.as_str(), disk.device.as_str()),
        ("root", "/dev/disk/by-id/virtio-target")
    );
    let partitions: Vec<_> = disk
        .partitions()
        .iter()
        .map(|p| (p.name.as_str(), p.label.as_str(), p.start.to_string(), p.end.to_string()))
        .collect();
    assert_eq!(
        partitions,
        [
            ("ESP", "disk-root-ESP", "0".into(), "+1G".into()),
            ("zfs", "disk-root-zfs", "0".into(), "-8G".into()),
            ("encryptedSwap", "disk-root-encryptedSwap", "0".into(), "-0".into()),
        ]
    );
    assert_eq!(disk.partitions()[0].type_guid, partition_type::ESP);
    let pool = &layout.zpools[0];
    let names: Vec<_> = pool.datasets.iter().map(Dataset::name).collect();
    assert_eq!(
        names,
        ["credstore", "crypt", "crypt/system", "crypt/system/nix", "crypt/system/var"]
    );
    let Dataset::Fs(crypt) = &pool.datasets[1] else { panic!("crypt is a file system") };
    assert_eq!(
        crypt.key,
        Some(ZfsKey::Credstore(CredstoreKey {
            container: "credstore".into(),
            file: "zfs-sysroot.mount".into(),
            bytes: 32
        }))
    );
    let Dataset::Fs(system) = &pool.datasets[2] else { panic!("it is a file system") };
    assert_eq!(system.properties().get("mountpoint").map(String::as_str), Some("/"));
    let mounts: Vec<_> = layout.mounts().iter().map(|mount| mount.target.to_owned()).collect();
    assert_eq!(mounts, ["/", "/boot", "/nix", "/var"]);
    let devices: Vec<_> = layout.contents().into_iter().map(|(device, _)| device).collect();
    let partition = |number| DeviceRef::Partition { disk: "root".into(), number };
    assert_eq!(
        devices,
        [
            DeviceRef::Disk { disk: "root".into() },
            partition(1),
            partition(2),
            partition(3),
            DeviceRef::Volume { dataset: "rpool/credstore".into() },
            DeviceRef::Mapper { name: "credstore".into() },
        ]
    );
}

#[test]
fn a_mirror_has_its_members_in_order() {
    let layout = Layout::parse(OS_MIRROR).unwrap();
    assert_eq!(layout.zpools[0].mode, PoolMode::One(VdevMode::Mirror));
    let disks: Vec<_> = layout
        .members("rpool")
        .into_iter()
        .map(|device| match device {
            DeviceRef::Partition { disk, .. } => disk,
            other => panic!("{other:?} is no partition"),
        })
        .collect();
    assert_eq!(disks, ["disk0", "disk1"]);
}

#[test]
fn internal_attributes_are_ignored_and_the_canonical_form_is_stable() {
    let with_internal = edit(|document| {
        document["disk"]["root"]["_parent"] = "x".into();
        document["zpool"]["rpool"]["datasets"]["crypt"]["_create"] = "zfs create".into();
    });
    let layout = Layout::parse(&with_internal).unwrap();
    assert_eq!(layout, Layout::parse(SINGLE).unwrap());
    let again: Value = serde_json::from_str(layout.canonical()).unwrap();
    assert_eq!(Layout::parse(&again.to_string()).unwrap().canonical(), layout.canonical());
}

#[test]
fn what_is_unknown_is_named_with_its_place() {
    let esp = "/disk/root/content/partitions/esp";
    let refusals = [
        refused("not json"),
        refused("[]"),
        refused("{}"),
        refused(r#"{"disks": {}}"#),
        refused(&with(&format!("{esp}/content/type"), "filesytem".into())),
        refused(&with(&format!("{esp}/content/type"), "quux".into())),
        refused(&with(&format!("{esp}/content/format"), "fat32".into())),
        refused(&with(&format!("{esp}/end"), "50%".into())),
        refused(&with(&format!("{esp}/type"), "ZZ00".into())),
        refused(&with(&format!("{esp}/label"), "x".repeat(37).into())),
        refused(&with(&format!("{esp}/attributes"), serde_json::json!([0, 64]))),
        refused(&with(&format!("{esp}/content/mountOptions"), "defaults".into())),
        refused(&with(&format!("{esp}/content/mountpoint"), "boot".into())),
        refused(&edit(|d| d["disk"]["root"]["content"]["partitions"]["esp"]["sise"] = 1.into())),
        refused(&edit(|d| {
            d["disk"]["root"].as_object_mut().unwrap().remove("device");
        })),
        refused(&with("/zpool/rpool/mode", "miror".into())),
        refused(&with("/zpool/rpool/datasets/crypt~1system/type", "zfs_vol".into())),
        refused(&with("/zpool/rpool/datasets/credstore/size", "much".into())),
        refused(&with("/zpool/rpool/datasets/crypt/options/keylocation", "file:///tmp/key".into())),
        refused(&with("/zpool/rpool/datasets/crypt/options/keyformat", "hex".into())),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn what_disko_has_and_this_version_has_not_is_named() {
    let esp = "/disk/root/content/partitions/esp";
    let luks = "/zpool/rpool/datasets/credstore/content";
    let swap = "/disk/root/content/partitions/encryptedSwap/content";
    let list = |value: &str| serde_json::json!([value]);
    let refusals = [
        refused(&with(&format!("{esp}/content/type"), "bcachefs".into())),
        refused(&with(&format!("{esp}/content/type"), "gpt".into())),
        refused(&with(&format!("{esp}/content/format"), "exfat".into())),
        refused(&with(&format!("{esp}/content/extraArgs"), list("-F 16"))),
        refused(&with(&format!("{esp}/content/extraArgs"), list("-n a:b"))),
        refused(&with(&format!("{luks}/extraFormatArgs"), list("--itertime 1"))),
        refused(&with(&format!("{luks}/extraFormatArgs"), list("--iter-time soon"))),
        refused(&with(&format!("{luks}/extraFormatArgs"), list("--label $(hostname)"))),
        refused(&with(&format!("{luks}/extraOpenArgs"), list("--readonly"))),
        refused(&with(&format!("{luks}/settings"), serde_json::json!({"allowDiscard": true}))),
        refused(&with(&format!("{luks}/settings"), serde_json::json!({"header": "/dev/x"}))),
        refused(&with(&format!("{swap}/extraArgs"), list("--pagesize 16384"))),
        refused(&with(&format!("{swap}/priority"), 40000.into())),
        refused(&with(&format!("{swap}/discardPolicy"), "page".into())),
        refused(&with("/zpool/rpool/mode", serde_json::json!({"topology": {}}))),
        refused(&with(
            "/zpool/rpool/mode",
            serde_json::json!({"topology": {"vdev": [{"members": ["a"], "mode": "mirror"}]}}),
        )),
        refused(&with(
            "/zpool/rpool/mode",
            serde_json::json!({"topology": {"vdev": [{"members": ["other"]}]}}),
        )),
        refused(&with(
            "/zpool/rpool/mode",
            serde_json::json!({"topology": {"vdev": [{"members": ["root"]}], "cash": ["root"]}}),
        )),
        refused(&with("/zpool/rpool/datasets/crypt/options/keylocation", "prompt".into())),
        refused(&with("/zpool/rpool/datasets/credstore/extraArgs", list("-x"))),
        refused(&edit(|d| d["lvm_vg"]["pool"] = serde_json::json!({"type": "lvm_vg"}))),
        refused(&edit(|d| d["mdadm"]["r"] = serde_json::json!({"type": "mdadm", "level": 3}))),
        refused(&edit(|d| d["bcachefs_filesystems"]["x"] = serde_json::json!({}))),
        refused(&edit(|d| {
            d["nodev"]["/x"] =
                serde_json::json!({"fsType": "none", "device": "x", "mountOptions": ["bind"]});
        })),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

/// A program would write to it, and the plan would not show it.
#[test]
fn arguments_that_name_a_further_device_are_refused() {
    let content = "/zpool/rpool/datasets/credstore/content/content";
    let with_args = |args: serde_json::Value| with(&format!("{content}/extraArgs"), args);
    let btrfs = |args: &str| {
        with(
            content,
            serde_json::json!({"type": "btrfs", "device": "/dev/mapper/credstore",
                "extraArgs": [args]}),
        )
    };
    let raid = |args: &str| {
        edit(|d| {
            d["mdadm"]["r"] = serde_json::json!({"type": "mdadm", "level": 1, "extraArgs": [args]});
        })
    };
    let refusals = [
        refused(&with_args(serde_json::json!(["-J", "device=/dev/sdx"]))),
        refused(&with_args(serde_json::json!(["-J device=LABEL=journal"]))),
        refused(&btrfs("-d raid1 /dev/disk/by-id/other")),
        refused(&btrfs("-f dev/sdx")),
        refused(&raid("--spare-devices=1 /dev/sdx")),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
    let accepted = with_args(serde_json::json!(["-L", "device", "-O", "^has_journal"]));
    Layout::parse(&accepted).unwrap();
}

#[test]
fn parts_that_do_not_fit_together_are_named() {
    let esp = "/disk/root/content/partitions/esp";
    let refusals = [
        refused(&with(&format!("{esp}/label"), "disk-root-zfs".into())),
        refused(&with(&format!("{esp}/content/mountpoint"), "/nix/".into())),
        refused(&with("/disk/root/content/partitions/zfs/content/pool", "tank".into())),
        refused(&with("/zpool/rpool/mode", "mirror".into())),
        refused(&edit(|d| {
            let datasets = d["zpool"]["rpool"]["datasets"].as_object_mut().unwrap();
            let volume = datasets.remove("credstore").unwrap();
            datasets.insert("zcredstore".into(), volume);
        })),
        refused(&with("/zpool/rpool/datasets/crypt~1system/name", "crypt".into())),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn every_example_of_disko_is_read_or_refused_with_its_place() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/layouts/disko");
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .expect("the layouts of disko's examples are in the repository")
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let verdicts: Vec<String> = names
        .iter()
        .map(|path| {
            let verdict = match Layout::parse(&std::fs::read_to_string(path).unwrap()) {
                Ok(_) => "read".to_owned(),
                Err(error) => error.to_string(),
            };
            format!("{}: {verdict}", path.file_stem().unwrap().to_string_lossy())
        })
        .collect();
    insta::assert_snapshot!(verdicts.join("\n"));
}

fn entry(source: &str, target: &str, fstype: &str, options: &str) -> FstabEntry {
    FstabEntry {
        source: source.into(),
        target: target.into(),
        fstype: fstype.into(),
        options: options.split(',').map(str::to_owned).collect(),
    }
}

fn agreeing() -> Vec<FstabEntry> {
    vec![
        entry("rpool/crypt/system", "/", "zfs", "x-initrd.mount,zfsutil"),
        entry("/dev/disk/by-partlabel/disk-root-ESP", "/boot", "vfat", "defaults"),
        entry("rpool/crypt/system/nix", "/nix", "zfs", "x-initrd.mount,zfsutil"),
        entry("rpool/crypt/system/var", "/var", "zfs", "x-initrd.mount,zfsutil"),
    ]
}

fn differences(fstab: &[FstabEntry]) -> Vec<String> {
    let layout = Layout::parse(SINGLE).unwrap();
    agrees_with_fstab(&layout, fstab).iter().map(ToString::to_string).collect()
}

#[test]
fn an_agreeing_fstab_agrees() {
    let mut fstab = agreeing();
    fstab.extend([
        entry("/dev/mapper/dev-disk-by\\x2dpartlabel-swap", "none", "swap", "defaults"),
        entry("tmpfs", "/tmp", "tmpfs", "size=50%"),
        entry("/var/lib/data", "/srv/data", "none", "bind"),
        entry("/dev/disk/by-uuid/abcd", "/backup", "ext4", "nofail"),
        entry("server:/export", "/net", "nfs4", "defaults"),
    ]);
    assert_eq!(differences(&fstab), [""; 0]);
    fstab[1].source = "PARTLABEL=disk-root-ESP".into();
    fstab[1].target = "/boot/".into();
    fstab[1].fstype = "auto".into();
    assert_eq!(differences(&fstab), [""; 0]);
}

#[test]
fn each_difference_is_told() {
    let mut found = Vec::new();
    let changes: [fn(&mut Vec<FstabEntry>); 8] = [
        |fstab| fstab[0].source = "rpool/root".into(),
        |fstab| fstab[1].source = "/dev/disk/by-partlabel/disk-disk0-ESP".into(),
        |fstab| fstab[1].source = "UUID=1234-ABCD".into(),
        |fstab| fstab[1].fstype = "ext4".into(),
        |fstab| fstab[2].fstype = "btrfs".into(),
        |fstab| drop(fstab.remove(3)),
        |fstab| fstab.push(entry("/dev/sdb1", "/data", "xfs", "defaults")),
        |fstab| fstab.push(entry("rpool/home", "/home", "zfs", "zfsutil")),
    ];
    for change in changes {
        let mut fstab = agreeing();
        change(&mut fstab);
        let differences = differences(&fstab);
        assert_eq!(differences.len(), 1, "{differences:?}");
        found.extend(differences);
    }
    insta::assert_snapshot!(found.join("\n"));
}

/// Every type has its row in the documentation, and so has what is not supported yet.
#[test]
fn the_documentation_has_every_type() {
    let text = include_str!("../../../docs/layouts.md");
    let elsewhere = ["disk", "zpool", "zfs_fs", "zfs_volume", "lvm_vg", "mdadm", "nodev"];
    for name in super::content::CONTENT_TYPES.iter().chain(&elsewhere) {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
    for name in super::filesystem::names() {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}
