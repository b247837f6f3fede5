//! Against the real tools that make what is recognised.

use super::*;
use crate::testing::{run, sparse};
use keystone_protocol::inventory::Table;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// Probes what `make` put into a fresh file.
fn probed(size: u64, make: impl FnOnce(&str)) -> (Vec<Signature>, Option<Table>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    sparse(&path, size);
    make(path.to_str().unwrap());
    probe(&path)
}

fn probe(path: &Path) -> (Vec<Signature>, Option<Table>) {
    let file = File::open(path).unwrap();
    let source = Source::new(&file, file.metadata().unwrap().len(), 512);
    (signatures(source).unwrap(), table(source).unwrap())
}

fn filesystem(fstype: &str, label: Option<&str>, uuid: Option<&str>) -> Vec<Signature> {
    vec![Signature::Filesystem {
        fstype: fstype.into(),
        label: label.map(Into::into),
        uuid: uuid.map(Into::into),
        used: None,
    }]
}

/// Takes out how much is in use.
fn used_of(found: &mut [Signature]) -> Option<u64> {
    match found {
        [Signature::Filesystem { used, .. }] => used.take(),
        _ => None,
    }
}

/// A directory with a file of `size` that is no zeroes.
fn with_file(size: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), vec![b'x'; size as usize]).unwrap();
    dir
}

const UUID: &str = "7c3ad0a4-3c0c-4b4e-9c5c-1b1f6f0c1a2b";

#[test]
fn nothing() {
    assert_eq!(probed(64 * MIB, |_| {}), (vec![], None));
    // Shorter than any superblock.
    assert_eq!(probed(512, |_| {}), (vec![], None));
    assert_eq!(probed(0, |_| {}), (vec![], None));
}

#[test]
fn ext() {
    let held = with_file(4 * MIB);
    for (version, more) in
        [("ext2", None), ("ext3", None), ("ext4", Some("64bit")), ("ext4", Some("^64bit"))]
    {
        let made = |of: Option<&Path>| {
            let (mut found, table) = probed(16 * MIB, |image| {
                let tool = format!("mkfs.{version}");
                let mut args = vec!["-q", "-L", "label", "-U", UUID];
                args.extend(more.iter().flat_map(|more| ["-O", more]));
                args.extend(of.iter().flat_map(|dir| ["-d", dir.to_str().unwrap()]));
                run("e2fsprogs", &tool, &[&args[..], &[image]].concat());
            });
            let used = used_of(&mut found).unwrap();
            assert_eq!((found, table), (filesystem(version, Some("label"), Some(UUID)), None));
            used
        };
        let (empty, full) = (made(None), made(Some(held.path())));
        // A block or two are of the file itself.
        assert!(
            empty < 4 * MIB && (4 * MIB..4 * MIB + (64 << 10)).contains(&(full - empty)),
            "{version}: {empty} {full}"
        );
    }
}

#[test]
fn fat() {
    let held = with_file(MIB);
    for (bits, size) in [("12", 4), ("16", 64), ("32", 64)] {
        let (mut found, table) = probed(size * MIB, |image| {
            run("dosfstools", "mkfs.vfat", &["-F", bits, "-n", "ESP", "-i", "ABCD1234", image]);
            let file = held.path().join("file");
            run("mtools", "mcopy", &["-i", image, file.to_str().unwrap(), "::file"]);
        });
        // Of the root's cluster too.
        let used = used_of(&mut found);
        assert!(used.is_none_or(|used| (MIB..MIB + 1024).contains(&used)), "{used:?}");
        assert_eq!(used.is_some(), bits == "32");
        assert_eq!((found, table), (filesystem("vfat", Some("ESP"), Some("ABCD-1234")), None));
    }
}

#[test]
fn xfs_and_btrfs() {
    let (found, _) = probed(512 * MIB, |image| {
        let uuid = format!("uuid={UUID}");
        run("xfsprogs", "mkfs.xfs", &["-q", "-m", &uuid, "-L", "label", image]);
    });
    assert_eq!(found, filesystem("xfs", Some("label"), Some(UUID)));
    let held = with_file(8 * MIB);
    let made = |more: &[&str]| {
        let (mut found, _) = probed(256 * MIB, |image| {
            let args = [&["-q", "-U", UUID, "-L", "label"], more, &[image]].concat();
            run("btrfs-progs", "mkfs.btrfs", &args);
        });
        let used = used_of(&mut found).unwrap();
        assert_eq!(found, filesystem("btrfs", Some("label"), Some(UUID)));
        used
    };
    let (empty, full) = (made(&[]), made(&["--rootdir", held.path().to_str().unwrap()]));
    assert!(empty < MIB && (8 * MIB..9 * MIB).contains(&(full - empty)), "{empty} {full}");
}

#[test]
fn squashfs_and_swap() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("squash");
    let args = [dir.path().to_str().unwrap(), image.to_str().unwrap(), "-quiet", "-no-progress"];
    run("squashfs-tools", "mksquashfs", &args);
    assert_eq!(probe(&image).0, filesystem("squashfs", None, None));
    let (found, _) = probed(16 * MIB, |image| {
        run("util-linux", "mkswap", &[image]);
    });
    assert_eq!(found, [Signature::Swap]);
}

#[test]
fn luks() {
    for version in ["luks1", "luks2"] {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "only a test").unwrap();
        let (found, _) = probed(32 * MIB, |image| {
            let mut args = vec!["luksFormat", "-q", "--type", version, "--uuid", UUID];
            args.extend(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
            args.extend([image, key.to_str().unwrap()]);
            run("cryptsetup-bin", "cryptsetup", &args);
        });
        let version = if version == "luks1" { 1 } else { 2 };
        assert_eq!(found, [Signature::Luks { version, uuid: Some(UUID.into()), label: None }]);
    }
}

#[test]
fn raid_superblocks_of_every_version() {
    // mdadm makes arrays only of block devices and with the driver, so the magic is written where
    // the format has it.
    for (size, at) in [
        (64 * MIB, 0),
        (64 * MIB, 4096),
        (64 * MIB, 64 * MIB - 8192),
        (64 * MIB + 40960, 64 * MIB - 65536),
    ] {
        let (found, _) = probed(size, |image| {
            let file = File::options().write(true).open(image).unwrap();
            file.write_all_at(&0xa92b_4efc_u32.to_le_bytes(), at).unwrap();
        });
        assert_eq!(found, [Signature::MdRaid], "at {at}");
    }
}

#[test]
fn a_zfs_uberblock_in_any_label_and_byte_order() {
    let end = 64 * MIB;
    for label in [0, 256 * 1024, end - 512 * 1024, end - 256 * 1024] {
        for magic in [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()] {
            let (found, _) = probed(end + 4096, |image| {
                let file = File::options().write(true).open(image).unwrap();
                file.write_all_at(&magic, label + 128 * 1024 + 3 * 4096).unwrap();
            });
            assert_eq!(found, [Signature::Other { name: ZFS_MEMBER.into() }]);
        }
    }
}

#[test]
fn tables() {
    let (found, table) = probed(64 * MIB, |image| {
        run("gdisk", "sgdisk", &["--disk-guid", UUID, "--new=1:0:0", image]);
    });
    assert_eq!((found, table), (vec![], Some(Table::Gpt { guid: UUID.into() })));
    let (found, table) = probed(64 * MIB, |image| {
        let script = "printf 'label: dos\\nlabel-id: 0xdeadbeef\\n,,83\\n' | sfdisk -q \"$1\"";
        run("fdisk", "sh", &["-c", script, "sh", image]);
    });
    assert_eq!((found, table), (vec![], Some(Table::Mbr { id: "deadbeef".into() })));
}

#[test]
fn a_damaged_gpt_is_not_a_blank_disk() {
    let (found, table) = probed(64 * MIB, |image| {
        run("gdisk", "sgdisk", &["--new=1:0:0", image]);
        let file = File::options().write(true).open(image).unwrap();
        for header in [512, 64 * MIB - 512] {
            file.write_all_at(&[0xff; 4], header + 16).unwrap();
        }
    });
    assert_eq!(found, [Signature::Other { name: "damaged GPT".into() }]);
    // What is left is the protective MBR.
    assert!(matches!(table, Some(Table::Mbr { .. })));
}

#[test]
fn iso9660_times() {
    let (found, _) = probed(MIB, |image| {
        let file = File::options().write(true).open(image).unwrap();
        file.write_all_at(b"\x01CD001", 32768).unwrap();
        file.write_all_at(b"nixos-minimal-25.11-x86_64      ", 32768 + 40).unwrap();
        file.write_all_at(b"1980010100000000\0", 32768 + 830).unwrap();
    });
    let uuid = Some("1980-01-01-00-00-00-00");
    assert_eq!(found, filesystem("iso9660", Some("nixos-minimal-25.11-x86_64"), uuid));
}

#[test]
fn the_only_filesystem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    sparse(&path, 16 * MIB);
    run("e2fsprogs", "mkfs.ext4", &["-q", path.to_str().unwrap()]);
    let file = File::open(&path).unwrap();
    let source = Source::new(&file, 16 * MIB, 512);
    assert_eq!(only_filesystem(source).unwrap().as_deref(), Some("ext4"));
}
