//! Machines, closures and layouts that do not fit.

use super::*;
use keystone_protocol::message::RefusalKind;
use keystone_protocol::options::Unlock;

const GIB: u64 = 1 << 30;

/// Each case's name, refusal and hint.
fn refusals(cases: &[(&str, RefusalKind, Change)]) -> String {
    let mut lines = Vec::new();
    for (name, kind, change) in cases {
        let refusal = Case::new(SINGLE).with(*change).refusal();
        assert_eq!(refusal.kind, *kind, "{name}: {refusal}");
        let hint = refusal.hint.clone().unwrap_or_else(|| "-".into());
        lines.push(format!("{name}:\n  {refusal}\n  {hint}"));
    }
    lines.join("\n")
}

fn named(case: &mut Case, disk: &str) {
    case.options.disks.insert("root".into(), disk.into());
}

#[test]
fn disks() {
    use RefusalKind::{Layout, TargetUnfit};
    let refusals = refusals(&[
        ("no such disk", TargetUnfit, |case| named(case, "/dev/disk/by-id/nvme-none")),
        ("no disk at all", TargetUnfit, |case| {
            case.inventory.disks.retain(|disk| disk.boot_medium);
        }),
        ("the boot medium", TargetUnfit, |case| named(case, "serial:QM00003")),
        ("a kernel name typed", TargetUnfit, |case| named(case, "/dev/vda")),
        ("a kernel name of nothing", TargetUnfit, |case| named(case, "/dev/sdq")),
        ("the largest of two", TargetUnfit, |case| named(case, "size:largest")),
        ("no such size", TargetUnfit, |case| named(case, "size:20G")),
        ("no such model", TargetUnfit, |case| named(case, "model:WD Red")),
        ("the smallest is not enough", TargetUnfit, |case| {
            case.disk("vdc").identity.size = 4 * GIB;
            named(case, "size:smallest");
        }),
        ("one model, several disks", TargetUnfit, |case| {
            for disk in ["vda", "vdb"] {
                case.disk(disk).identity.model = Some("QEMU HARDDISK".into());
            }
            named(case, "model:qemu harddisk");
        }),
        ("write-protected", TargetUnfit, |case| case.disk("vda").read_only = true),
        ("odd sectors", TargetUnfit, |case| case.disk("vda").identity.sector_size = 520),
        ("two disks", TargetUnfit, |case| {
            case.disk("vdb").identity.serial = Some("same".into());
            case.disk("vdc").identity.serial = Some("same".into());
            named(case, "same");
        }),
        ("two disks of one name", TargetUnfit, |case| {
            let name = case.disk("vda").identity.name.clone();
            case.disk("vdb").identity.name = name;
            named(case, "serial:target");
        }),
        ("a name that the layout has not", TargetUnfit, |case| {
            case.options.disks.insert("main".into(), "virtio-a".into());
        }),
        ("too small for a table", TargetUnfit, |case| case.disk("vda").identity.size = 16 << 10),
        ("too small for the pool", TargetUnfit, |case| case.disk("vda").identity.size = 8 * GIB),
        ("too small for the closure", TargetUnfit, |case| {
            case.disk("vda").identity.size = 11 * GIB;
        }),
        ("FAT32 on little", TargetUnfit, |case| {
            case.layout = case.layout.replace("\"+1G\"", "\"+32M\"");
        }),
        ("FAT32 on large sectors", TargetUnfit, |case| {
            case.disk("vda").identity.sector_size = 4096;
            case.layout = case.layout.replace("\"+1G\"", "\"+200M\"");
        }),
        ("a container on little", TargetUnfit, |case| {
            case.layout = case.layout.replace("\"100M\"", "\"10M\"");
        }),
        ("a pool on little", TargetUnfit, |case| {
            case.disk("vda").identity.size = 9 * GIB + (40 << 20)
        }),
        ("LUKS1", Layout, |case| {
            let (none, old) =
                ("\"extraFormatArgs\": []", "\"extraFormatArgs\": [\"--type=luks1\"]");
            assert!(case.layout.contains(none), "{}", case.layout);
            case.layout = case.layout.replace(none, old);
        }),
        ("large volumes", TargetUnfit, |case| {
            case.layout = case.layout.replace("\"100M\"", "\"1T\"");
        }),
    ]);
    insta::assert_snapshot!(refusals);
}

#[test]
fn the_same_disk_twice() {
    let refusal = Case::new(OS_MIRROR)
        .with(|case| {
            case.options.disks.insert("disk1".into(), "virtio-a".into());
        })
        .refusal();
    insta::assert_snapshot!(refusal);
}

#[test]
fn machines() {
    use RefusalKind::{Closure, TargetUnfit};
    let refusals = refusals(&[
        ("no UEFI", TargetUnfit, |case| case.inventory.firmware.uefi = false),
        ("another architecture", Closure, |case| case.closure.system = "aarch64-linux".into()),
        ("little memory", TargetUnfit, |case| case.inventory.memory.total = 512 << 20),
        ("no ZFS", TargetUnfit, |case| {
            case.inventory.zfs.module = None;
            case.inventory.zfs.problem = Some("opening /dev/zfs: no such device".into());
        }),
        ("no mkfs.ext4", TargetUnfit, |case| case.inventory.tools.clear()),
        ("no shell for a hook", TargetUnfit, |case| {
            case.layout =
                case.layout.replacen("\"preCreateHook\": \"\"", "\"preCreateHook\": \"ls\"", 1);
        }),
        ("no TPM", TargetUnfit, |case| {
            case.options.unlock = Unlock::Tpm2;
            case.inventory.tpm = None;
        }),
        ("Secure Boot", TargetUnfit, |case| {
            case.options.unlock = Unlock::Tpm2;
            case.inventory.firmware.secure_boot = SecureBoot::On;
        }),
        ("no zstd", TargetUnfit, |case| {
            case.inventory.zfs.features.retain(|feature| feature != "zstd_compress");
        }),
    ]);
    insta::assert_snapshot!(refusals);
}

/// Vdevs of their own for metadata or deduplication tables are a feature, which the pool would lack.
#[test]
fn special_and_dedup_vdevs_need_their_feature() {
    let text = include_str!("../../../tests/layouts/written/zfs-caches-and-spares.json");
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    let without = |classes: &[&str]| {
        let mut document = document.clone();
        let places = [
            "/zpool/tank/mode/topology",
            "/disk/a/content/partitions",
            "/disk/b/content/partitions",
        ];
        for (place, class) in
            places.iter().flat_map(|place| classes.iter().map(move |c| (place, c)))
        {
            let things = document.pointer_mut(place).unwrap().as_object_mut().unwrap();
            assert!(things.remove(*class).is_some(), "{place}/{class}");
        }
        super::layouts::machine_for(&document.to_string(), 64 * GIB, 512).with(|case| {
            case.inventory.zfs.features.retain(|feature| feature != "allocation_classes");
        })
    };
    for classes in [&[][..], &["special"], &["dedup"]] {
        let refusal = without(classes).refusal();
        assert_eq!(refusal.kind, RefusalKind::TargetUnfit);
        assert_eq!(
            refusal.message,
            "the pool \"tank\" needs the feature allocation_classes, which the ZFS of this installer \
             does not have",
            "without {classes:?}"
        );
        assert_eq!(refusal.hint.as_deref(), Some("boot a newer installer"));
    }
    assert!(without(&["special", "dedup"]).result().is_ok());
}

#[test]
fn closures() {
    use RefusalKind::{Closure, Layout};
    let refusals = refusals(&[
        ("another layout's", Closure, |case| case.closure = closure(OS_SINGLE)),
        ("no host id", Closure, |case| case.closure.hostid = None),
        ("ancient ZFS", Closure, |case| case.closure.zfs_version = Some("0.8.6".into())),
        ("large initrds", Closure, |case| case.closure.boot_bytes = 600 << 20),
        ("unknown type", Layout, |case| {
            case.layout = case.layout.replace("\"type\": \"swap\"", "\"type\": \"swapp\"");
        }),
        ("resuming from swap with a key for each boot", Layout, |case| {
            let (random, resumes) = ("\"randomEncryption\": true", "\"resumeDevice\": false");
            assert!(case.layout.contains(random) && case.layout.contains(resumes));
            case.layout = case.layout.replace(resumes, "\"resumeDevice\": true");
        }),
        ("no root", Layout, |case| {
            case.layout = case.layout.replace("\"mountpoint\": \"/\"", "\"mountpoint\": null");
        }),
        ("no ESP", Layout, |case| {
            case.layout = case.layout.replace("\"EF00\"", "\"8300\"");
        }),
        ("a chosen feature", Layout, |case| {
            case.layout = case.layout.replace(
                "\"ashift\": \"12\"",
                "\"ashift\": \"12\", \"feature@blake3\": \"disabled\"",
            );
        }),
    ]);
    insta::assert_snapshot!(refusals);
}

/// Whatever is wrong with a document, it is refused; nothing panics.
#[test]
fn a_layout_with_any_value_replaced_is_planned_or_refused() {
    let document: serde_json::Value = serde_json::from_str(SINGLE).unwrap();
    let mut places = Vec::new();
    collect(&document, String::new(), &mut places);
    assert!(places.len() > 200);
    let case = Case::new(SINGLE);
    let values =
        ["null", "true", "0", "-1", "\"\"", "\"x\"", "\"/nix\"", "\"+1G\"", "[]", "[\"x\"]", "{}"];
    let mut planned = 0;
    for place in &places {
        for value in values {
            let mut changed = document.clone();
            *changed.pointer_mut(place).unwrap() = serde_json::from_str(value).unwrap();
            let case = Case { layout: changed.to_string(), ..case.clone() };
            if let Ok(plan) = case.result() {
                assert!(plan.is_consistent());
                planned += 1;
            }
        }
    }
    assert!(planned > 0);
}

/// JSON pointers to every value of a document but the document.
fn collect(value: &serde_json::Value, at: String, places: &mut Vec<String>) {
    let Some(fields) = value.as_object() else { return };
    for (name, value) in fields {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        places.push(at.clone());
        collect(value, at, places);
    }
}
