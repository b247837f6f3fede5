//! What holds for every plan, whatever the layout and the machine.

use super::layouts::{assert_uses_what_is_there, machine_for};
use super::*;
use keystone_protocol::layout::Layout;
use keystone_protocol::plan::{Action, PartitionTable, Plan, PlannedPartition};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What a partition other than the ESP holds.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Nothing,
    Ext4,
    Xfs,
    Btrfs,
    Swap,
    RandomSwap,
    Luks,
    Pool,
    LuksPool,
    Group,
    Array,
}

const HOLDS: [Holds; 11] = [
    Holds::Nothing,
    Holds::Ext4,
    Holds::Xfs,
    Holds::Btrfs,
    Holds::Swap,
    Holds::RandomSwap,
    Holds::Luks,
    Holds::Pool,
    Holds::LuksPool,
    Holds::Group,
    Holds::Array,
];

impl Holds {
    fn content(self, name: &str) -> Value {
        let device = format!("/dev/disk/by-partlabel/{name}");
        let mountpoint = format!("/{name}");
        match self {
            Holds::Nothing => Value::Null,
            Holds::Ext4 => json!({"type": "filesystem", "format": "ext4", "device": device,
                "mountpoint": mountpoint}),
            Holds::Xfs => json!({"type": "filesystem", "format": "xfs", "device": device,
                "mountpoint": mountpoint}),
            Holds::Btrfs => json!({"type": "btrfs", "device": device,
                "subvolumes": {"a": {"mountpoint": mountpoint}, "b": {}}}),
            Holds::Swap => json!({"type": "swap", "device": device}),
            Holds::RandomSwap => {
                json!({"type": "swap", "device": device, "randomEncryption": true})
            }
            Holds::Luks => json!({"type": "luks", "name": name,
                "settings": {"keyFile": "/tmp/key"}, "content": Holds::Ext4.content(name)}),
            Holds::Pool => json!({"type": "zfs", "pool": "tank", "device": device}),
            Holds::LuksPool => json!({"type": "luks", "name": name,
                "passwordFile": "/tmp/key", "content": Holds::Pool.content(name)}),
            Holds::Group => json!({"type": "lvm_pv", "vg": "vg"}),
            Holds::Array => json!({"type": "mdraid", "name": "md"}),
        }
    }
}

/// What a layout says of a partition.
#[derive(Debug, Clone)]
struct Made {
    /// `0`, or where else it begins.
    start: String,
    /// `size` or `end`, and its value.
    end: (&'static str, String),
    /// In sectors; 0 for the usual.
    alignment: u64,
    holds: Holds,
}

/// A partition of so many MiB, or up to a place that counts back from the end; as a rule where
/// there is room.
fn partition() -> impl Strategy<Value = Made> {
    let start = prop_oneof![
        6 => Just("0".to_owned()),
        1 => (0..20_000u64).prop_map(|mib| format!("{mib}M")),
        1 => (0..5000u64).prop_map(|kib| format!("+{kib}K")),
    ];
    let end = prop_oneof![
        6 => (1..20_000u64).prop_map(|mib| ("size", format!("{mib}M"))),
        1 => (0..20_000u64).prop_map(|mib| ("end", format!("-{mib}M"))),
        1 => (0..5000u64).prop_map(|kib| ("end", format!("-{kib}K"))),
    ];
    let alignment = prop_oneof![4 => Just(0u64), 1 => 1..5000u64];
    (start, end, alignment, prop::sample::select(&HOLDS[..]))
        .prop_map(|(start, end, alignment, holds)| Made { start, end, alignment, holds })
}

/// What is on a disk already, and in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    Blank,
    Filesystem,
    /// An imported pool, with an open container on a volume of it.
    Pool,
    Array,
}

const OLD: [Old; 4] = [Old::Blank, Old::Filesystem, Old::Pool, Old::Array];

impl Old {
    /// Puts it onto the disk `kernel_name`, all names of it beginning with `name`.
    fn put(self, case: &mut Case, kernel_name: &str, name: &str) {
        if self == Old::Blank {
            return;
        }
        let disk = case.disk(kernel_name);
        disk.contents.table = Some(Table::Gpt { guid: name.to_owned() });
        let mut old = super::occupied::partition(1, name, 1 << 30);
        old.kernel_name = format!("{name}-part");
        let slaves = vec![old.kernel_name.clone()];
        old.holders = match self {
            Old::Pool => vec![Holder::Pool { name: name.to_owned(), guid: name.to_owned() }],
            Old::Array => {
                vec![Holder::Device { kernel_name: format!("{name}-md"), name: None }]
            }
            _ => Vec::new(),
        };
        disk.contents.partitions = vec![old];
        let inventory = &mut case.inventory;
        match self {
            Old::Blank | Old::Filesystem => {}
            Old::Pool => {
                let volume = format!("{name}-zd");
                inventory.mappers.push(Mapper {
                    kernel_name: format!("{name}-dm"),
                    name: format!("{name}-mapper"),
                    uuid: format!("CRYPT-LUKS2-{name}"),
                    slaves: vec![volume.clone()],
                    mounts: Vec::new(),
                });
                inventory.pools.push(ImportedPool {
                    name: name.to_owned(),
                    guid: name.to_owned(),
                    health: "ONLINE".into(),
                    devices: slaves,
                    volumes: [(volume, format!("{name}/volume"))].into(),
                    mounts: Vec::new(),
                });
            }
            Old::Array => inventory.arrays.push(RunningArray {
                kernel_name: format!("{name}-md"),
                name: name.to_owned(),
                slaves,
                mounts: Vec::new(),
            }),
        }
    }

    /// The steps that end its uses, in order.
    fn ends(self, name: &str) -> Vec<String> {
        match self {
            Old::Blank | Old::Filesystem => Vec::new(),
            Old::Pool => {
                vec![format!("release:mapper:{name}-mapper"), format!("release:pool:{name}")]
            }
            Old::Array => vec![format!("release:raid:{name}")],
        }
    }
}

/// All uses of the disks end before they are wiped, what is made of others first.
fn assert_freed(plan: &Plan, old: &[Old]) {
    let ids = ids(plan);
    let at =
        |id: &str| ids.iter().position(|step| *step == id).unwrap_or_else(|| panic!("no {id}"));
    for ((index, disk), old) in plan.basis.disks.keys().enumerate().zip(old) {
        let mut steps = old.ends(&format!("old-{index}"));
        steps.push(format!("wipe:{disk}"));
        assert!(steps.iter().map(|id| at(id)).is_sorted(), "{ids:?}");
    }
}

/// A layout of one to four disks; the last partition of a disk may take what is left.
fn layout() -> impl Strategy<Value = String> {
    let disk = (prop::collection::vec(partition(), 1..5), any::<bool>());
    (prop::collection::vec(disk, 1..5), 64..2000u64).prop_map(|(disks, esp)| {
        let mut document = json!({"disk": {}});
        let (mut pool, mut group, mut array) = (0, 0, 0);
        for (index, (partitions, rest)) in disks.iter().enumerate() {
            let mut table = json!({});
            let count = partitions.len();
            for (number, made) in partitions.iter().enumerate() {
                let name = format!("d{index}-p{number}");
                match made.holds {
                    Holds::Pool | Holds::LuksPool => pool += 1,
                    Holds::Group => group += 1,
                    Holds::Array => array += 1,
                    _ => {}
                }
                let last = *rest && number + 1 == count;
                let (end, value) = if last { ("size", "100%") } else { (made.end.0, &*made.end.1) };
                table[&name] = json!({"label": name, "start": made.start, end: value,
                    "alignment": made.alignment,
                    "device": format!("/dev/disk/by-partlabel/{name}"),
                    "content": made.holds.content(&name)});
            }
            if index == 0 {
                table["ESP"] = json!({"label": "ESP", "size": format!("{esp}M"), "type": "EF00",
                    "priority": 1, "content": {"type": "filesystem", "format": "vfat",
                    "device": "/dev/disk/by-partlabel/ESP", "mountpoint": "/boot"}});
                table["root"] = json!({"label": "root", "size": "8G", "priority": 2,
                    "content": {"type": "filesystem", "format": "ext4",
                    "device": "/dev/disk/by-partlabel/root", "mountpoint": "/"}});
            }
            document["disk"][format!("d{index}")] = json!({
                "device": format!("/dev/disk/by-id/d{index}"),
                "content": {"type": "gpt", "partitions": table}});
        }
        if pool > 0 {
            let mode = ["", "", "mirror", "raidz1", "raidz2"][pool.min(4)];
            document["zpool"]["tank"] = json!({"mode": mode, "datasets": {
                "fs": {"type": "zfs_fs", "mountpoint": "/fs"},
                "vol": {"type": "zfs_volume", "size": "20M",
                    "content": Holds::Ext4.content("vol")}}});
        }
        if group > 0 {
            document["lvm_vg"]["vg"] = json!({"lvs": {
                "a": {"size": "20M", "content": Holds::Luks.content("lv-a")},
                "b": {"size": "100%", "content": Holds::Ext4.content("lv-b")}}});
        }
        if array > 0 {
            document["mdadm"]["md"] = json!({"level": 1, "content": {"type": "gpt",
                "partitions": {"x": {"label": "md-x", "size": "100%",
                "content": Holds::Ext4.content("md-x")}}}});
        }
        document.to_string()
    })
}

/// Partitions lie on the disk, between its tables, do not overlap, and are aligned.
fn assert_fits(table: &PartitionTable, layout: &Layout, bytes: u64, sector_size: u32) {
    let sector = u64::from(sector_size);
    let entries = (128u64 * 128).div_ceil(sector);
    let (first, last) = (2 + entries, bytes / sector - 2 - entries);
    let mut partitions: Vec<_> = table.partitions.iter().collect();
    partitions.sort_by_key(|p| p.first_lba);
    for pair in partitions.windows(2) {
        assert!(pair[0].last_lba < pair[1].first_lba, "{pair:?} overlap");
    }
    for partition in partitions {
        assert!(first <= partition.first_lba && partition.last_lba <= last, "{partition:?}");
        assert!(partition.first_lba <= partition.last_lba, "{partition:?}");
    }
    assert_aligned(table, layout, (1 << 20) / sector, (first, last));
}

/// Each begins at a multiple of its alignment, unless the free area that it was put into had none.
fn assert_aligned(table: &PartitionTable, layout: &Layout, usual: u64, (first, last): (u64, u64)) {
    let of_layout = layout.partitions();
    let wanted = |number: u32| {
        of_layout.iter().find(|(device, _)| *device == table.device.partition(number))
    };
    // A copy of the ESP, which the layout does not have, is made first.
    let (copies, others): (Vec<_>, Vec<_>) =
        table.partitions.iter().partition(|partition| wanted(partition.number).is_none());
    let mut before: Vec<&PlannedPartition> = Vec::new();
    for partition in copies.into_iter().chain(others) {
        let own = wanted(partition.number).and_then(|(_, partition)| partition.alignment);
        // Earlier ones that are not aligned change sgdisk's own.
        let all_usual = before.iter().all(|p| p.first_lba.is_multiple_of(usual));
        if let Some(align) = own.map(u64::from).or(all_usual.then_some(usual)) {
            let ahead = before.iter().filter(|p| p.last_lba < partition.first_lba);
            let area = ahead.map(|p| p.last_lba + 1).max().unwrap_or(first);
            let behind = before.iter().filter(|p| p.first_lba > partition.last_lba);
            let area_end = behind.map(|p| p.first_lba - 1).min().unwrap_or(last);
            let none = area_end / align * align < area;
            assert!(none || partition.first_lba.is_multiple_of(align), "{partition:?}");
        }
        before.push(partition);
    }
}

fn assert_good(case: &Case, plan: &Plan, bytes: u64, sector_size: u32) {
    assert!(plan.is_consistent());
    assert_uses_what_is_there(&case.layout, &plan.steps);
    let layout = Layout::parse(&case.layout).unwrap();
    let names: Vec<&String> = plan.basis.disks.keys().collect();
    assert_eq!(names, layout.disks.iter().map(|disk| &disk.name).collect::<Vec<_>>());
    // Each is the one that the layout's word stands for: `machine_for` gave them serials in order.
    for (index, identity) in plan.basis.disks.values().enumerate() {
        assert_eq!(identity.serial, Some(format!("serial-{index}")));
    }
    let destroyed = plan.basis.destroys.iter().map(|destroyed| destroyed.identity.clone());
    assert!(destroyed.eq(plan.basis.disks.values().cloned()));
    for step in &plan.steps {
        match &step.action {
            Action::WipeDisk { disk, .. } => assert!(names.contains(&disk), "{}", step.id),
            Action::Partition(table) => assert_fits(table, &layout, bytes, sector_size),
            _ => {}
        }
        // Nothing is said of a disk that the layout does not name.
        let json = serde_json::to_string(step).unwrap();
        for foreign in case.inventory.disks.iter().filter(|disk| !disk.devno.starts_with("300:")) {
            let identity = &foreign.identity;
            assert!(!json.contains("theirs"), "{json}");
            for name in [Some(&foreign.kernel_name), Some(&identity.name), identity.serial.as_ref()]
            {
                assert!(name.is_none_or(|name| !json.contains(name.as_str())), "{name:?}: {json}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn plans_touch_only_named_disks_and_partitions_fit(
        layout in layout(),
        gib in 12..200u64,
        odd in 0..5000u64,
        sector_size in prop::sample::select(vec![512u32, 4096]),
        mirror_esp in any::<bool>(),
        old in prop::collection::vec(prop::sample::select(&OLD[..]), 4),
        theirs in prop::sample::select(&OLD[..]),
    ) {
        let parsed = Layout::parse(&layout);
        // Too few members for a RAID or a mode; anything else would be a fault of this test.
        if let Err(error) = &parsed {
            prop_assert!(error.to_string().contains("needs at least"), "{error}");
            return Ok(());
        }
        let bytes = (gib << 30) + odd * u64::from(sector_size);
        let case = machine_for(&layout, bytes, sector_size)
            .with(|case| {
                case.options.mirror_esp = mirror_esp;
                case.options.erase = true;
                let count = Layout::parse(&layout).unwrap().disks.len();
                for (index, old) in old.iter().take(count).enumerate() {
                    old.put(case, &format!("vd{index}"), &format!("old-{index}"));
                }
                theirs.put(case, "other", "theirs");
            });
        match case.result() {
            Ok(plan) => {
                assert_good(&case, &plan, bytes, sector_size);
                assert_freed(&plan, &old);
                // The same question has the same answer.
                prop_assert_eq!(case.plan(), plan);
            }
            // A refusal names what does not fit.
            Err(refusal) => {
                let words = ["too small", "takes at least", "the closure takes", "its volumes take", "of the volume group", "--mirror-esp", "must hold"];
                let known = words.iter().any(|word| refusal.message.contains(word));
                prop_assert!(known, "{}", refusal);
            }
        }
    }
}

/// The generator makes plans, not only refusals.
#[test]
fn the_generator_makes_plans() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let planned = (0..100)
        .filter(|_| {
            let layout = layout().new_tree(&mut runner).unwrap().current();
            Layout::parse(&layout).is_ok() && machine_for(&layout, 500 << 30, 512).result().is_ok()
        })
        .count();
    assert!(planned >= 30, "{planned} of 100");
}
