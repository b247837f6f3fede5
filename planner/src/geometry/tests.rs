//! Against the real `sgdisk`, on sparse files (512-byte sectors) and loop devices (4096).

use super::*;
use keystone_protocol::layout::partition_type;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Runs a program that the tests need; where it is missing, says what to install.
fn run(program: &str, package: &str, args: &[&str], preload: Option<&Path>) -> Output {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C");
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    command.output().unwrap_or_else(|error| {
        panic!("can't run {program} ({error}); install it: apt-get install {package}")
    })
}

fn must(output: Output, what: &str) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{what}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// A library that makes `sleep` and `sync` return at once: sgdisk syncs all file systems and
/// then sleeps a second after every write, which hundreds of cases can't wait for. Nothing else
/// about sgdisk changes.
fn no_waiting() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let (source, path) = (directory.path().join("wait.c"), directory.path().join("wait.so"));
        let text = "unsigned sleep(unsigned s) { (void)s; return 0; }\nvoid sync(void) {}\n";
        std::fs::write(&source, text).unwrap();
        let args = ["-shared", "-fPIC", "-o", path.to_str().unwrap(), source.to_str().unwrap()];
        must(run("cc", "gcc", &args, None), "compiling a library of two functions");
        (directory, path)
    });
    path
}

/// An empty disk that sgdisk can write to.
struct Disk {
    path: String,
    looped: bool,
    _directory: TempDir,
}

impl Disk {
    fn new(bytes: u64, sector_size: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(bytes).expect("a sparse file of that size");
        let file = file.to_str().unwrap().to_owned();
        if sector_size == 512 {
            return Disk { path: file, looped: false, _directory: directory };
        }
        let size = sector_size.to_string();
        let args = ["--find", "--show", "--sector-size", &size, &file];
        let output = run("losetup", "mount", &args, None);
        let path = must(output, "a loop device (this test needs root and loop devices)");
        Disk { path: path.trim().to_owned(), looped: true, _directory: directory }
    }

    fn sgdisk(&self, args: &[&str]) -> Output {
        let args: Vec<&str> = args.iter().copied().chain([self.path.as_str()]).collect();
        run("sgdisk", "gdisk", &args, Some(no_waiting()))
    }

    /// Where a partition lies, as sgdisk reads it back.
    fn extent(&self, number: usize) -> Extent {
        let output = self.sgdisk(&["--info", &number.to_string()]);
        let text = must(output, "reading a partition");
        let sector = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or_else(|| panic!("no `{name}` in {text}"))
        };
        Extent { first: sector("First sector: "), last: sector("Last sector: ") }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.looped {
            let _ = Command::new("losetup").args(["--detach", &self.path]).status();
        }
    }
}

/// Makes the partitions one by one as disko does: their places, until one has no room.
fn by_sgdisk(bytes: u64, sector_size: u32, wanted: &[Wanted]) -> (Vec<Extent>, bool) {
    let disk = Disk::new(bytes, sector_size);
    if !disk.sgdisk(&["--clear"]).status.success() {
        return (Vec::new(), false);
    }
    let mut extents = Vec::new();
    for (number, wanted) in (1..).zip(wanted) {
        let new = format!("--new={number}:{}:{}", wanted.start, wanted.end);
        let alignment = wanted.alignment.map(|sectors| format!("--set-alignment={sectors}"));
        let mut args = vec!["--align-end"];
        args.extend(alignment.as_deref());
        args.push(&new);
        if !disk.sgdisk(&args).status.success() {
            return (extents, false);
        }
        extents.push(disk.extent(number));
    }
    (extents, true)
}

/// Ours in the same form: the places of the longest beginning that has room.
fn by_us(bytes: u64, sector_size: u32, wanted: &[Wanted]) -> (Vec<Extent>, bool) {
    match allocate(bytes, sector_size, wanted) {
        Ok(extents) => (extents, true),
        Err(GeometryError::NoTable) => (Vec::new(), false),
        Err(GeometryError::Full { number } | GeometryError::NoRoom { number, .. }) => {
            let fitting = allocate(bytes, sector_size, &wanted[..number - 1]);
            (fitting.expect("what came before had room"), false)
        }
    }
}

fn wanted(specs: &[(&str, &str)]) -> Vec<Wanted> {
    specs
        .iter()
        .map(|(start, end)| Wanted {
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
            alignment: None,
        })
        .collect()
}

/// Keystone's partitions, and the ends used by disko's examples.
fn layouts() -> Vec<Vec<Wanted>> {
    vec![
        wanted(&[("0", "+1G"), ("0", "-8G"), ("0", "-0")]),
        wanted(&[("0", "+500M"), ("0", "-0")]),
        wanted(&[("0", "+1M"), ("0", "+512M"), ("0", "-1G"), ("0", "+10M"), ("0", "-0")]),
        wanted(&[("1M", "128M"), ("0", "-10M"), ("0", "-0")]),
        wanted(&[("0", "+0"), ("0", "-0")]),
        wanted(&[("34", "2047"), ("0", "+1G"), ("0", "-0")]),
        wanted(&[("0", "+1000K"), ("0", "+7K"), ("0", "-3M")]),
    ]
}

fn sizes() -> Vec<u64> {
    let mut sizes = vec![
        0,
        64 << 10,
        MIB,
        2 * MIB,
        2 * MIB + 512 * 33,
        100 * MIB,
        GIB,
        9 * GIB,
        10 * GIB + 512,
        12 * GIB + 4096 * 255,
        20 * GIB,
        // As sold: not a multiple of 1 MiB.
        256_060_514_304,
        500_107_862_016,
        1_000_204_886_016,
        4_000_787_030_016,
        7 << 40,
    ];
    sizes.extend((1..8).map(|n| 16 * GIB + n * 4096 * 37));
    sizes
}

fn compare_all(sector_size: u32) {
    for bytes in sizes() {
        let bytes = bytes / u64::from(sector_size) * u64::from(sector_size);
        for wanted in layouts() {
            assert_eq!(
                by_us(bytes, sector_size, &wanted),
                by_sgdisk(bytes, sector_size, &wanted),
                "{bytes} bytes, sectors of {sector_size}: {wanted:?}"
            );
        }
    }
}

#[test]
fn layouts_lie_where_sgdisk_puts_them() {
    compare_all(512);
}

#[test]
fn layouts_lie_where_sgdisk_puts_them_on_4k_sectors() {
    compare_all(4096);
}

/// A start that is the default as a rule, else anything.
fn any_start() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("0".to_owned()),
        1 => (1u64..40_000).prop_map(|n| n.to_string()),
        1 => (1u64..3000).prop_map(|n| format!("{n}M")),
        1 => (1u64..5000).prop_map(|n| format!("+{n}K")),
        1 => (1u64..3000).prop_map(|n| format!("-{n}M")),
    ]
}

fn any_end() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (1u64..4000).prop_map(|n| format!("+{n}M")),
        2 => (1u64..100_000).prop_map(|n| format!("+{n}K")),
        2 => (1u64..9).prop_map(|n| format!("-{n}G")),
        1 => (1u64..100_000).prop_map(|n| format!("-{n}")),
        1 => (1u64..9).prop_map(|n| format!("{n}G")),
        1 => Just("-0".to_owned()),
    ]
}

fn any_wanted() -> impl Strategy<Value = Vec<Wanted>> {
    let alignment = prop_oneof![
        5 => Just(None),
        1 => prop::sample::select(vec![Some(1u32), Some(3), Some(8), Some(34), Some(4096)]),
    ];
    let one = (any_start(), any_end(), alignment).prop_map(|(start, end, alignment)| Wanted {
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
        alignment,
    });
    prop::collection::vec(one, 1..6)
}

fn any_sectors() -> impl Strategy<Value = u64> {
    prop_oneof![
        60u64..5000,
        (20u64 << 11)..(40 << 21),
        (40u64 << 21)..(800 << 21),
        585_937_000u64..585_938_000
    ]
}

fn same_as_sgdisk(sectors: u64, sector_size: u32, wanted: &[Wanted]) -> Result<(), TestCaseError> {
    let bytes = sectors * u64::from(sector_size);
    let (ours, theirs) = (by_us(bytes, sector_size, wanted), by_sgdisk(bytes, sector_size, wanted));
    prop_assert_eq!(ours, theirs, "{} bytes, sectors of {}", bytes, sector_size);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn anything_lies_where_sgdisk_puts_it(sectors in any_sectors(), wanted in any_wanted()) {
        same_as_sgdisk(sectors, 512, &wanted)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn anything_lies_where_sgdisk_puts_it_on_4k_sectors(
        sectors in any_sectors(),
        wanted in any_wanted(),
    ) {
        same_as_sgdisk(sectors, 4096, &wanted)?;
    }
}

#[test]
fn type_codes_are_sgdisks() {
    let disk = Disk::new(100 * MIB, 512);
    let codes: Vec<&str> = partition_type::codes().collect();
    let mut args = vec!["--clear".to_owned()];
    for (number, code) in (1..).zip(&codes) {
        args.push(format!("--new={number}:0:+1M"));
        args.push(format!("--typecode={number}:{code}"));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    must(disk.sgdisk(&args), "making a partition of each type");
    for (number, code) in (1..).zip(&codes) {
        let number: u32 = number;
        let text = must(disk.sgdisk(&["--info", &number.to_string()]), "reading a partition");
        let guid = text.lines().find_map(|line| line.strip_prefix("Partition GUID code: "));
        let guid = guid.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
        assert_eq!(guid, partition_type::guid(code), "{code}");
    }
}

#[test]
fn keystones_partitions_on_a_small_disk() {
    let extents = allocate(20 * GIB, 512, &layouts()[0]).unwrap();
    let expected = [(2048, 2_099_199), (2_099_200, 25_163_775), (25_163_776, 41_940_991)];
    assert_eq!(extents, expected.map(|(first, last)| Extent { first, last }));
    assert_eq!(
        allocate(8 * GIB, 512, &layouts()[0]).unwrap_err().to_string(),
        "partition 2 does not fit into the 7.0 GiB that are left"
    );
}
