//! What holds for every plan of a `table`, whatever places it gives.

use super::layouts::machine_for;
use super::*;
use crate::plan_disks;
use keystone_protocol::plan::{Action, MbrKind, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

/// parted's words for a place.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Mebibytes,
    Megabytes,
    Percent,
    Sectors,
}

const UNITS: [Unit; 4] = [Unit::Mebibytes, Unit::Megabytes, Unit::Percent, Unit::Sectors];

/// A boundary between partitions: ten thousandths of the disk, and how it is written.
type Boundary = (u64, Unit);

/// The disk of a case.
#[derive(Debug, Clone, Copy)]
struct Target {
    bytes: u64,
    sector_size: u32,
}

impl Target {
    fn sectors(self) -> u64 {
        self.bytes / u64::from(self.sector_size)
    }

    /// A boundary in parted's words, moved on by a little if there is to be a gap.
    fn place(self, (part, unit): Boundary, gap: bool) -> String {
        let of = |whole: u64| whole / 10_000 * part + whole % 10_000 * part / 10_000;
        let more = u64::from(gap);
        match unit {
            Unit::Mebibytes => format!("{}MiB", of(self.bytes >> 20) + more),
            Unit::Megabytes => format!("{}MB", of(self.bytes / 1_000_000) + 2 * more),
            Unit::Percent => format!("{}%", part / 100 + more),
            Unit::Sectors => format!("{}s", of(self.sectors()) + 3000 * more),
        }
    }

    /// The sector of a place that parted takes exactly.
    fn exact(self, place: &str) -> Option<u64> {
        let number = |unit: &str| place.strip_suffix(unit)?.parse::<u64>().ok();
        let mebibytes = number("MiB").map(|mib| (mib << 20) / u64::from(self.sector_size));
        mebibytes.or_else(|| number("s"))
    }
}

/// A partition's kind, begin and end.
type Partition = (&'static str, String, String);

/// Partitions between boundaries in order: in an MBR some primary ones, then an extended one with
/// the others in it, if there are others.
fn partitions(
    target: Target,
    mbr: bool,
    boundaries: &[Boundary],
    gaps: &[bool],
    primary: usize,
) -> Vec<Partition> {
    let count = boundaries.len() - 1;
    let primary = if mbr { primary.min(count) } else { count };
    let mut made = Vec::new();
    for (at, pair) in boundaries.windows(2).enumerate() {
        if at == primary {
            let [first, .., last] = boundaries[at..] else { break };
            made.push(("extended", target.place(first, false), target.place(last, false)));
        }
        let kind = if at < primary { "primary" } else { "logical" };
        made.push((kind, target.place(pair[0], gaps[at]), target.place(pair[1], false)));
    }
    made
}

/// A disk, whether its table is an MBR, and the partitions.
fn any_table() -> impl Strategy<Value = (Target, bool, Vec<Partition>)> {
    let bytes = prop_oneof![6 => (1u64 << 20)..64 << 30, 1 => (1u64 << 40)..5 << 40];
    let boundary = (0..=10_000u64, prop::sample::select(&UNITS[..]));
    (
        (bytes, prop::sample::select(vec![512u32, 4096]), any::<bool>()),
        prop::collection::vec(boundary, 2..8),
        prop::collection::vec(prop::bool::weighted(0.7), 8),
        0..4usize,
    )
        .prop_map(|((bytes, sector_size, mbr), mut boundaries, gaps, primary)| {
            boundaries.sort_by_key(|(part, _)| *part);
            let target = Target { bytes: bytes / 4096 * 4096, sector_size };
            (target, mbr, partitions(target, mbr, &boundaries, &gaps, primary))
        })
}

fn planned(target: Target, mbr: bool, partitions: &[Partition]) -> Result<Plan, Refusal> {
    let partitions: Vec<Value> = partitions
        .iter()
        .map(|(kind, start, end)| json!({"part-type": kind, "start": start, "end": end}))
        .collect();
    let format = if mbr { "msdos" } else { "gpt" };
    let content = json!({"type": "table", "format": format, "partitions": partitions});
    let layout = json!({"disk": {"a": {"device": "/dev/disk/by-id/a", "content": content}}});
    let case = machine_for(&layout.to_string(), target.bytes, target.sector_size);
    plan_disks(&case.inventory, &case.layout, &case.options)
}

/// Where a partition of a plan lies.
#[derive(Debug)]
struct Placed {
    kind: MbrKind,
    first: u64,
    last: u64,
    table: Option<u64>,
}

/// The partitions of a plan's table, in the order of the layout.
fn placed(plan: &Plan) -> Vec<Placed> {
    let tables = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Partition(table) => {
            let partitions = table.partitions.iter().map(|p| Placed {
                kind: MbrKind::Primary,
                first: p.first_lba,
                last: p.last_lba,
                table: None,
            });
            Some(partitions.collect())
        }
        Action::PartitionMbr(table) => {
            let partitions = table.partitions.iter().map(|p| Placed {
                kind: p.kind,
                first: p.first_lba,
                last: p.last_lba,
                table: p.table_lba,
            });
            Some(partitions.collect())
        }
        _ => None,
    });
    let mut tables: Vec<Vec<Placed>> = tables.collect();
    assert_eq!(tables.len(), 1);
    tables.remove(0)
}

/// Between the table's sectors, none over another, what is exact where it was put.
fn assert_lie_well(target: Target, mbr: bool, partitions: &[Partition], placed: &[Placed]) {
    let sectors = target.sectors();
    let entries = (128u64 * 128).div_ceil(u64::from(target.sector_size));
    let (first, last) = match mbr {
        true => (1, (sectors - 1).min(u32::MAX.into())),
        false => (2 + entries, sectors - 2 - entries),
    };
    assert_eq!(placed.len(), partitions.len());
    for (place, (_, start, end)) in placed.iter().zip(partitions) {
        assert!(first <= place.first && place.last <= last, "{place:?}");
        assert!(place.first <= place.last, "{place:?}");
        if let Some(start) = target.exact(start) {
            assert_eq!(place.first, start, "{place:?}");
        }
        if let Some(sector) = target.exact(end) {
            let inclusive = end.ends_with('s');
            assert_eq!(place.last, if inclusive { sector } else { sector - 1 }, "{place:?}");
        }
    }
    let logical: Vec<&Placed> = placed.iter().filter(|p| p.kind == MbrKind::Logical).collect();
    let others: Vec<&Placed> = placed.iter().filter(|p| p.kind != MbrKind::Logical).collect();
    // With the table of a logical one, which lies before it.
    let begin = |place: &Placed| place.table.unwrap_or(place.first);
    for level in [&logical, &others] {
        let mut level: Vec<_> = level.iter().map(|place| (begin(place), place.last)).collect();
        level.sort_unstable();
        assert!(level.windows(2).all(|pair| pair[0].1 < pair[1].0), "{placed:?}");
    }
    assert!(others.iter().all(|place| place.table.is_none()), "{placed:?}");
    let extended = placed.iter().find(|place| place.kind == MbrKind::Extended);
    for place in &logical {
        let outer = extended.unwrap();
        assert!(place.table.unwrap() < place.first, "{place:?}");
        assert!(outer.first <= begin(place) && place.last <= outer.last, "{placed:?}");
    }
    if let Some(place) = logical.first() {
        assert_eq!(place.table, extended.map(|outer| outer.first), "{placed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn partitions_of_a_table_lie_well((target, mbr, partitions) in any_table()) {
        match planned(target, mbr, &partitions) {
            Ok(plan) => assert_lie_well(target, mbr, &partitions, &placed(&plan)),
            // It says which one has no place, and why.
            Err(refusal) => {
                let words = ["is to begin", "is to end", "would begin", "nothing is left",
                    "for its own table", "beside its own table", "extended partition",
                    "overlaps one", "too small for a partition table"];
                let known = words.iter().any(|word| refusal.message.contains(word));
                prop_assert!(known && refusal.hint.is_some(), "{}", refusal);
            }
        }
    }
}

/// Many are planned, some with logical partitions.
#[test]
fn the_generator_makes_tables() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut plans, mut with_logical) = (0, 0);
    for _ in 0..200 {
        let (target, mbr, partitions) = any_table().new_tree(&mut runner).unwrap().current();
        if planned(target, mbr, &partitions).is_ok() {
            plans += 1;
            with_logical += usize::from(partitions.iter().any(|(kind, ..)| *kind == "logical"));
        }
    }
    assert!(plans >= 40 && with_logical >= 10, "{plans}, {with_logical} of 200");
}
