//! Every example is planned.

use super::*;
use crate::plan_disks;
use keystone_protocol::layout::Layout;
use keystone_protocol::plan::{Action, DeviceRef, Release, Step};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A machine that has every disk that `layout` names, of `size` bytes, and one more, with all
/// programs; and a system that agrees.
pub(super) fn machine_for(layout: &str, size: u64, sector_size: u32) -> Case {
    let mut case = Case::new(layout);
    let mut pattern = case.disk("vda").clone();
    pattern.identity.size = size;
    pattern.identity.sector_size = sector_size;
    let medium = case.inventory.disks.iter().find(|disk| disk.boot_medium).unwrap().clone();
    let mut disks = vec![medium, case.disk("vdc").clone()];
    disks[1].kernel_name = "other".into();
    disks[1].identity.name = "other".into();
    disks[1].identity.serial = Some("other".into());
    disks[1].links.clear();
    let layout = Layout::parse(layout).unwrap();
    for (index, wanted) in layout.disks.iter().enumerate() {
        let mut disk = pattern.clone();
        disk.devno = format!("300:{index}");
        disk.identity.serial = Some(format!("serial-{index}"));
        disk.identity.name = format!("disk-{index}");
        match wanted.device.strip_prefix("/dev/").filter(|node| !node.contains('/')) {
            Some(node) => disk.kernel_name = node.to_owned(),
            None => disk.kernel_name = format!("vd{index}"),
        }
        disk.links = vec![wanted.device.clone()];
        disks.push(disk);
    }
    case.inventory.disks = disks;
    let path = |tool: &str| (tool.to_owned(), format!("/run/current-system/sw/bin/{tool}"));
    case.inventory.tools = crate::programs::KNOWN.into_iter().map(path).collect();
    case.closure.boot_bytes = 20 << 20;
    case
}

/// Every step uses only what is there: the layout's disks, and what steps before it made and none
/// has closed. Ids differ.
pub(super) fn assert_uses_what_is_there(layout: &str, steps: &[Step]) {
    let layout = Layout::parse(layout).unwrap();
    let disk = |disk: &keystone_protocol::layout::Disk| DeviceRef::Disk { disk: disk.name.clone() };
    let mut there: BTreeSet<DeviceRef> = layout.disks.iter().map(disk).collect();
    let (mut pools, mut groups) = (BTreeSet::new(), BTreeSet::new());
    let mut ids = BTreeSet::new();
    for step in steps {
        assert!(ids.insert(&step.id), "{} is there twice", step.id);
        if !matches!(step.action, Action::Release(Release::Swapoff { .. })) {
            for device in step.action.uses() {
                // Activating a group makes all its volumes, importing a pool too.
                let of_all = match &device {
                    DeviceRef::LogicalVolume { group, .. } => groups.contains(group),
                    DeviceRef::Volume { dataset } => {
                        pools.contains(dataset.split('/').next().unwrap())
                    }
                    _ => false,
                };
                assert!(of_all || there.contains(&device), "{} uses {device:?}", step.id);
            }
        }
        let dataset = |name: &str, pools: &BTreeSet<String>| {
            assert!(pools.contains(name.split(['/', '@']).next().unwrap()), "{}", step.id);
        };
        match &step.action {
            Action::CreatePool(pool) => assert!(pools.insert(pool.name.clone())),
            Action::ImportPool(pool) => assert!(pools.insert(pool.name.clone())),
            Action::CreateDataset { dataset: name, .. }
            | Action::CreateVolume { dataset: name, .. }
            | Action::CreateSnapshot { snapshot: name } => dataset(name, &pools),
            Action::CreateVolumeGroup { name, .. } | Action::ActivateGroup { name, .. } => {
                assert!(groups.insert(name.clone()))
            }
            Action::CreateLogicalVolume(volume) => assert!(groups.contains(&volume.group)),
            Action::ExportPool { pool } => assert!(pools.remove(pool), "{}", step.id),
            Action::DeactivateGroup { name } => assert!(groups.remove(name), "{}", step.id),
            _ => {}
        }
        match &step.action {
            Action::CloseLuks { name } => {
                there.remove(&DeviceRef::Mapper { name: name.clone() });
            }
            Action::StopArray { name } => {
                there.remove(&DeviceRef::Array { name: name.clone() });
            }
            action => there.extend(action.makes()),
        }
    }
    let sealed = steps.last().is_some_and(|step| matches!(step.action, Action::ProveSeal));
    if sealed {
        let open = |device: &&DeviceRef| {
            matches!(device, DeviceRef::Mapper { .. } | DeviceRef::Array { .. })
        };
        assert_eq!(there.iter().find(open), None, "is left open");
        assert!(pools.is_empty() && groups.is_empty(), "{pools:?} {groups:?} are left open");
    }
}

/// Counted in the document, not by the layout's model: each thing it names has its step, and each
/// mount point its mount.
fn assert_all_is_planned(layout: &str, steps: &[Step]) {
    let document: Value = serde_json::from_str(layout).unwrap();
    let mut objects = Vec::new();
    collect(&document, &mut objects);
    let types = |wanted: &str| {
        objects.iter().filter(|object| object.get("type").is_some_and(|t| t == wanted)).count()
    };
    let mut targets: Vec<&str> = objects
        .iter()
        .filter_map(|object| object.get("mountpoint")?.as_str())
        .filter(|target| target.starts_with('/'))
        .collect();
    let mut mounted: Vec<&str> = Vec::new();
    let mut count = BTreeMap::<&str, usize>::new();
    for step in steps {
        let kind = match &step.action {
            Action::Mount(mount) => {
                mounted.push(&mount.target);
                continue;
            }
            Action::MakeVfat { .. } | Action::MakeFilesystem { .. } => "file system",
            Action::Partition(_) | Action::PartitionMbr(_) | Action::PartitionInner(_) => "table",
            Action::FormatLuks { .. } => "luks",
            Action::CreatePhysicalVolume { .. } => "lvm_pv",
            Action::CreateVolumeGroup { .. } => "lvm_vg",
            Action::CreateLogicalVolume(_) => "lv",
            Action::CreateArray(_) => "mdadm",
            Action::CreatePool(_) => "zpool",
            Action::CreateVolume { .. } => "zfs_volume",
            Action::CreateDataset { .. } => "zfs_fs",
            Action::CreateSubvolume { .. } => "subvolume",
            _ => continue,
        };
        *count.entry(kind).or_default() += 1;
    }
    let (mut in_groups, mut subvolumes) = (0, 0);
    for object in &objects {
        let size =
            |name: &str| object.get(name).and_then(Value::as_object).map_or(0, |set| set.len());
        in_groups += size("lvs");
        subvolumes += size("subvolumes");
    }
    for (what, expected) in [
        ("file system", types("filesystem") + types("btrfs")),
        ("table", types("gpt") + types("table")),
        ("luks", types("luks")),
        ("lvm_pv", types("lvm_pv")),
        ("lvm_vg", types("lvm_vg")),
        ("lv", in_groups),
        ("mdadm", types("mdadm")),
        ("zpool", types("zpool")),
        ("zfs_volume", types("zfs_volume")),
        ("zfs_fs", types("zfs_fs")),
        ("subvolume", subvolumes),
    ] {
        assert_eq!(count.get(what).copied().unwrap_or_default(), expected, "{what}: {layout}");
    }
    targets.sort_unstable();
    mounted.sort_unstable();
    assert_eq!(mounted, targets, "{layout}");
}

/// All objects of a document but the properties of ZFS.
fn collect<'a>(value: &'a Value, into: &mut Vec<&'a serde_json::Map<String, Value>>) {
    match value {
        Value::Object(map) => {
            into.push(map);
            let things = map.iter().filter(|(name, _)| !name.to_lowercase().ends_with("options"));
            things.for_each(|(_, value)| collect(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}

pub(super) fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/layouts");
    let mut found = Vec::new();
    for directory in ["keystone", "keystone-derived", "disko", "written"] {
        let entries = std::fs::read_dir(root.join(directory)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        found.extend(paths.filter(|path| path.extension().is_some_and(|ext| ext == "json")));
    }
    found.sort();
    found
}

#[test]
fn every_example_is_planned() {
    let documents = documents();
    assert!(documents.len() >= 34, "{} documents", documents.len());
    for path in documents {
        let layout = std::fs::read_to_string(&path).unwrap();
        let case = machine_for(&layout, 64 << 30, 512);
        let (steps, refusal) = match case.result() {
            Ok(plan) => (plan.steps, None),
            Err(refusal) => {
                let disks = plan_disks(&case.inventory, &case.layout, &case.options).unwrap();
                (disks.steps, Some(refusal))
            }
        };
        assert_uses_what_is_there(&layout, &steps);
        assert_all_is_planned(&layout, &steps);
        let mut lines = Vec::new();
        if let Some(refusal) = refusal {
            lines.push(format!("nothing can be installed on it: {}", refusal.message));
            lines.push(String::new());
        }
        for step in &steps {
            lines.push(format!("{}: {}", step.id, step.title));
            lines.push(format!("    {}", serde_json::to_string(&step.action).unwrap()));
        }
        let directory = path.parent().unwrap().file_name().unwrap().to_string_lossy();
        let name = format!("{directory}-{}", path.file_stem().unwrap().to_string_lossy());
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots/layouts" }, {
            insta::assert_snapshot!(name, lines.join("\n"));
        });
    }
}

/// What no example has.
#[test]
fn what_no_example_has_is_planned() {
    let layout = include_str!("more.json");
    let plan = machine_for(layout, 64 << 30, 4096).plan();
    assert_uses_what_is_there(layout, &plan.steps);
    let lines: Vec<String> = plan
        .steps
        .iter()
        .map(|step| format!("{}: {}", step.id, serde_json::to_string(&step.action).unwrap()))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn missing_programs_are_named_with_what_needs_them() {
    let layout = include_str!("more.json");
    let case = machine_for(layout, 64 << 30, 512).with(|case| case.inventory.tools.clear());
    let refusal = case.refusal();
    insta::assert_snapshot!(format!("{refusal}\n{}", refusal.hint.clone().unwrap_or_default()));
}
