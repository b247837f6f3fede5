//! What parted 3.5 was seen to do (`parted -s FILE -- mkpart …`), or a refusal where it refuses.

use super::*;
use keystone_protocol::layout::{Content, Layout};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// `KIND START END` for each partition.
fn table(format: &str, partitions: &[&str]) -> Table {
    let partition = |words: &&str| {
        let [kind, start, end] = words.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{words:?} are not three words")
        };
        json!({"part-type": kind, "start": start, "end": end})
    };
    let partitions: Vec<Value> = partitions.iter().map(partition).collect();
    let content = json!({"type": "table", "format": format, "partitions": partitions});
    let layout = json!({"disk": {"a": {"device": "/dev/a", "content": content}}}).to_string();
    match Layout::parse(&layout).unwrap().disks.remove(0).content {
        Some(Content::Table(table)) => table,
        other => panic!("{other:?}"),
    }
}

fn places(bytes: u64, format: &str, partitions: &[&str]) -> Result<Vec<(u64, u64)>, NoPlace> {
    let placed = allocate(bytes, 512, &table(format, partitions))?;
    Ok(placed.into_iter().map(|(extent, _)| (extent.first, extent.last)).collect())
}

/// The first and last sector of one partition, or the refusal.
fn one(bytes: u64, format: &str, start: &str, end: &str) -> Result<(u64, u64), String> {
    let placed = places(bytes, format, &[&format!("primary {start} {end}")]);
    placed.map(|placed| placed[0]).map_err(|error| error.problem)
}

#[test]
fn an_end_on_the_disk_is_where_parted_puts_it() {
    let (gpt, mbr) = ("gpt", "msdos");
    let cases = [
        (GIB, gpt, "0%", "100%", 2_095_103),
        (GIB, mbr, "0%", "100%", 2_097_151),
        (GIB, gpt, "1MiB", "-1MiB", 2_095_103),
        (GIB, gpt, "1MiB", "-34s", 2_097_118),
        (GIB, gpt, "1MiB", "2097118s", 2_097_118),
        (GIB, mbr, "1MiB", "-1s", 2_097_151),
        (GIB, mbr, "1MiB", "2097151s", 2_097_151),
        (GIB, mbr, "1MiB", "1073741823B", 2_097_151),
        (GIB, mbr, "1MiB", "1073MB", 2_095_103),
        // Beyond the end by less than half a unit.
        (GIB, mbr, "1MiB", "1074MB", 2_097_151),
        (GIB, mbr, "1MiB", "1.1GB", 2_097_151),
        (GIB, gpt, "1MiB", "1.1GB", 2_095_103),
        (GIB, mbr, "1MiB", "-0", 2_097_151),
        // Disks of other sizes than whole MiB.
        (500_107_862_016, gpt, "1MiB", "100%", 976_773_119),
        (500_107_862_016, mbr, "1MiB", "100%", 976_773_119),
        (1_000_204_886_016, gpt, "1MiB", "100%", 1_953_523_711),
        (10_737_418_752, gpt, "1MiB", "100%", 20_969_471),
        // An MBR counts to the last sector before 2 TiB.
        (3 * TIB, mbr, "1MiB", "2TiB", 4_294_967_295),
        (3 * TIB, mbr, "1MiB", "2199GB", 4_294_922_239),
        (3 * TIB, gpt, "1MiB", "100%", 6_442_448_895),
        (3 * TIB, gpt, "1MiB", "3.3TB", 6_442_448_895),
    ];
    for (bytes, format, start, end, last) in cases {
        assert_eq!(one(bytes, format, start, end), Ok((2048, last)), "{bytes} {format} {end}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_sectors() {
    let (gpt, mbr) = ("gpt", "msdos");
    let cases = [
        (GIB, gpt, "1MiB", "2GiB"),
        (GIB, mbr, "1MiB", "1GiB"),
        (GIB, mbr, "1MiB", "2GB"),
        (GIB, mbr, "1MiB", "1075MB"),
        (GIB, mbr, "1MiB", "101%"),
        (GIB, mbr, "1MiB", "-0s"),
        (GIB, mbr, "1MiB", "2097152s"),
        (GIB, gpt, "1MiB", "2097119s"),
        (GIB, gpt, "1MiB", "-1s"),
        (GIB, gpt, "1MiB", "1023.99MiB"),
        (GIB, mbr, "1MiB", "-2GiB"),
        (GIB, mbr, "2GiB", "3GiB"),
        (GIB, mbr, "1GiB", "100%"),
        (GIB, mbr, "0MiB", "100MiB"),
        (GIB, gpt, "33s", "100MiB"),
        (GIB, mbr, "3MiB", "2MiB"),
        (GIB, mbr, "1MiB", "0%"),
        (3 * TIB, mbr, "1MiB", "100%"),
        (3 * TIB, mbr, "1MiB", "2200GB"),
        (3 * TIB, mbr, "2TiB", "100%"),
        (3 * TIB, gpt, "1MiB", "3TiB"),
        // Not even 1 MiB, and not even a table.
        (MIB - 512, mbr, "0%", "100%"),
        (MIB - 512, gpt, "40s", "100%"),
        (MIB, gpt, "40s", "100%"),
        (16 << 10, gpt, "40s", "50s"),
        (0, mbr, "0%", "100%"),
        (0, gpt, "0%", "100%"),
    ];
    let said = cases.map(|(bytes, format, start, end)| {
        let placed = places(bytes, format, &[&format!("primary {start} {end}")]);
        let error = placed.expect_err(&format!("{bytes} {format} {start} {end}"));
        format!("{bytes} {format} {start} {end}: {}; {}", error.problem, error.way_out)
    });
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn logical_partitions_have_room_beside_their_tables() {
    let disk = 40 * GIB;
    let logical = |partitions: &[&str]| places(disk, "msdos", partitions);
    let halves = ["extended 50% 100%", "logical 50% 75%", "logical 75% 100%"];
    let expected =
        [(41_943_040, 83_886_079), (41_945_088, 62_914_559), (62_916_608, 83_886_079)].to_vec();
    assert_eq!(logical(&halves), Ok(expected));
    let refused = |partitions: &[&str], words: &str| {
        let error = logical(partitions).unwrap_err();
        assert!(error.problem.contains(words), "{partitions:?}: {}", error.problem);
    };
    // 1 MiB later it would begin after its end.
    refused(&["extended 20000MB 100%", "logical 20000MB 20001MB"], "no room beside its own table");
    refused(
        &["extended 20000MB 100%", "logical 20000MB 20010MB", "logical 20010MB 20011MB"],
        "no room beside its own table",
    );
    refused(&["extended 1GiB 100%", "logical 1GiB 2GiB"], "no sector for its own table");
    refused(&["extended 1GiB 2GiB", "logical 1025MiB 3GiB"], "not lie in the extended");
    refused(&["extended 1GiB 2GiB", "logical 1025MiB 100%"], "not lie in the extended");
    refused(&["extended 1MiB 10GiB", "primary 5GiB 6GiB"], "overlaps");
}
