use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const GOOD: &str = "\
StorePath: /nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-hello-2.12
URL: nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz
Compression: xz
FileHash: sha256:1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3
FileSize: 50088
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 226504
References: 0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-hello-2.12 1c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-glibc
Deriver: 2c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-hello-2.12.drv
Sig: cache.example.org-1:AAAA
Sig: other-1:BBBB
CA: fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
";

#[test]
fn read_and_written() {
    let read = NarInfo::parse(GOOD).unwrap();
    assert_eq!(read.to_string(), GOOD);
    assert_eq!(read.info.references.len(), 2);
    assert!(read.info.nar_sha256.starts_with("e3b0c442"));
    assert_eq!(read.info.signatures, ["cache.example.org-1:AAAA", "other-1:BBBB"]);
}

/// `GOOD` with one line replaced, removed or added.
fn with(key: &str, line: &str) -> Result<NarInfo, String> {
    let mut lines: Vec<&str> =
        GOOD.lines().filter(|l| !l.starts_with(&format!("{key}:"))).collect();
    lines.push(line);
    NarInfo::parse(&lines.join("\n")).map_err(|e| e.to_string())
}

#[test]
fn what_may_be_otherwise() {
    let compression = |line| with("Compression", line).unwrap().compression;
    assert_eq!(compression(""), Compression::Bzip2);
    assert_eq!(compression("Compression:"), Compression::Bzip2);
    assert_eq!(compression("Compression: zstd"), Compression::Zstd);
    assert_eq!(with("Deriver", "Deriver: unknown-deriver").unwrap().info.deriver, None);
    assert_eq!(with("FileHash", "").unwrap().file_sha256, None);
    assert!(with("References", "References:").unwrap().info.references.is_empty());
    assert!(with("X", "SomethingNew: 1: 2").is_ok());
    let hex = "NarHash: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(with("NarHash", hex).unwrap(), {
        let mut same = NarInfo::parse(GOOD).unwrap();
        same.info.ca.clone_from(&with("NarHash", hex).unwrap().info.ca);
        same
    });
}

#[test]
fn hostile_ones_are_refused() {
    let long = format!("URL: {}", "x".repeat(2000));
    for (key, line) in [
        ("StorePath", ""),
        ("StorePath", "StorePath: /etc/passwd"),
        ("StorePath", "StorePath: /nix/store/../../etc/x"),
        ("StorePath", "StorePath: /nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-.."),
        ("URL", ""),
        ("URL", "URL: ../../../etc/shadow"),
        ("URL", "URL: /etc/shadow"),
        ("URL", "URL: nar/./x"),
        ("URL", "URL: nar//x"),
        ("URL", "URL: file:///etc/shadow"),
        ("URL", "URL: http://elsewhere/x"),
        ("URL", "URL: nar/%2e%2e/x"),
        ("URL", "URL: nar/x?y"),
        ("URL", "URL: nar/x y"),
        ("URL", &long),
        ("Compression", "Compression: lzip"),
        ("NarHash", "NarHash: md5:d41d8cd98f00b204e9800998ecf8427e"),
        ("NarHash", "NarHash: sha256:0mdq"),
        ("NarHash", "NarHash: 0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"),
        ("NarHash", "NarHash: sha256:emdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"),
        ("FileHash", "FileHash: sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("FileSize", "FileSize: many"),
        ("NarSize", ""),
        ("NarSize", "NarSize: 0"),
        ("NarSize", "NarSize: -1"),
        ("NarSize", "NarSize: +226504"),
        ("NarSize", "NarSize: 18446744073709551615"),
        ("NarSize", "NarSize: 99999999999999999999999"),
        ("References", "References: ../x"),
        ("References", "References: /nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-hello"),
        ("Deriver", "Deriver: hello.drv"),
        ("Sig", "Sig: none"),
        ("Sig", "Sig: a:b c"),
        ("CA", "CA: fixed sha256"),
        ("X", "StorePath: /nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-hello-2.12"),
        ("X", "no colon at all"),
    ] {
        let error = with(key, line).expect_err(line);
        let named = line.split(':').next().unwrap();
        assert!(line.is_empty() || error.contains(named) || error.contains("line"), "{error}");
    }
}

fn base_name() -> impl Strategy<Value = String> {
    "[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,40}"
}

fn narinfo() -> impl Strategy<Value = NarInfo> {
    let path = || base_name().prop_map(|base| format!("{STORE_DIR}/{base}"));
    let compression = prop::sample::select(&Compression::ALL[..]);
    let file = (
        compression,
        any::<Option<[u8; 32]>>(),
        any::<Option<u64>>(),
        "[a-z0-9.]{1,9}x(/[a-z]{1,20})?",
    );
    let rest =
        (vec("[a-z0-9.-]{1,10}:[a-zA-Z0-9+/=]{0,90}", 0..3), prop::option::of("[!-~]{1,60}"));
    let nar = (any::<[u8; 32]>(), nar::SMALLEST..i64::MAX as u64);
    (path(), file, nar, vec(path(), 0..5), prop::option::of(path()), rest).prop_map(
        |(
            path,
            (compression, file_sha256, file_size, url),
            (hash, nar_size),
            mut references,
            deriver,
            (signatures, ca),
        )| {
            references.sort();
            references.dedup();
            let nar_sha256 = hex::encode(hash);
            let info = PathInfo { path, nar_sha256, nar_size, references, deriver, signatures, ca };
            NarInfo { info, url, compression, file_sha256, file_size }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(narinfo in narinfo()) {
        prop_assert_eq!(NarInfo::parse(&narinfo.to_string()), Ok(narinfo));
    }

    /// A bounded replay of the fuzz target: good ones with bytes changed, cut and put in.
    #[test]
    fn fuzzed(
        narinfo in narinfo(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
        noise in vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = narinfo.to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        fuzz(&bytes);
        bytes.extend(noise.iter());
        fuzz(&bytes);
        fuzz(&noise);
    }
}
