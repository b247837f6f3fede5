//! The closure reader and the NAR writer against real Nix.

mod common;

use common::nix::{self, NixStore, logical};
use common::{run, tool};
use keystone_controller::closure::{Closure, ClosureError, LocalSource, Store};
use keystone_controller::{closure::ClosureSource, nar};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn read(store: &NixStore) -> Result<Closure, ClosureError> {
    Closure::read(&Store::below(store.root()), Path::new(&logical(nix::SYSTEM)))
}

#[test]
fn the_closure_is_what_nix_says() {
    let store = NixStore::with_system();
    let closure = read(&store).unwrap();
    let system = logical(nix::SYSTEM);
    let mut expected: Vec<String> =
        store.query(&["-qR", &system]).lines().map(str::to_owned).collect();
    expected.sort();
    let found: Vec<&str> = closure.manifest.paths.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 5, "{}", nix::OTHER);

    // Hashes, sizes, references and derivers, in the format of --dump-db.
    let mut dump = String::new();
    for p in &closure.manifest.paths {
        dump.push_str(&format!("{}\n{}\n{}\n", p.path, p.nar_sha256, p.nar_size));
        dump.push_str(&format!("{}\n{}\n", p.deriver.as_deref().unwrap_or(""), p.references.len()));
        p.references.iter().for_each(|r| dump.push_str(&format!("{r}\n")));
    }
    let mut args = vec!["--dump-db"];
    args.extend(found);
    assert_eq!(dump, store.query(&args));
}

#[test]
fn facts_of_a_system() {
    let closure = read(&NixStore::with_system()).unwrap();
    let facts = &closure.facts;
    assert_eq!(facts.system, "x86_64-linux");
    assert_eq!(facts.boot_bytes, 3_050_001);
    assert_eq!((facts.hostid, facts.hostname.as_deref()), (Some(0x1234_5678), Some("nas")));
    assert_eq!(facts.zfs_version.as_deref(), Some("2.3.4"));
    assert_eq!(facts.fstab.len(), 2);
    assert_eq!((facts.paths, facts.nar_bytes), (5, closure.manifest.nar_bytes()));
    assert!(!facts.enrols_secure_boot_keys);
}

#[test]
fn nars_are_byte_for_byte_those_of_nix() {
    let store = NixStore::with_system();
    let odd = store.physical(nix::OTHER);
    std::fs::write(odd.join("leer zeichen-ü"), b"12345678").unwrap();
    std::fs::write(odd.join("A"), b"").unwrap();
    std::fs::write(odd.join("a~nix~case~hack~1"), b"x").unwrap();
    symlink("/nowhere/at all", odd.join("link")).unwrap();
    std::fs::create_dir_all(odd.join("deep/er/empty")).unwrap();
    std::fs::write(odd.join("program"), vec![3; 300_000]).unwrap();
    std::fs::set_permissions(odd.join("program"), std::fs::Permissions::from_mode(0o744)).unwrap();
    let program = odd.join("program");
    for path in [odd.clone(), store.physical(nix::SYSTEM), program, odd.join("link")] {
        let mut ours = Vec::new();
        nar::dump(&path, &mut ours).unwrap();
        let output = Command::new(tool("nix-store", "nix-bin")).arg("--dump").arg(&path).output();
        assert!(ours == output.unwrap().stdout, "{}", path.display());
        // From any byte on.
        for from in (0..ours.len()).step_by(ours.len() / 61 + 1).chain([ours.len()]) {
            let mut rest = Vec::new();
            nar::dump_from(&path, from as u64, &mut rest).unwrap();
            assert!(rest == ours[from..], "{} from {from}", path.display());
        }
    }
}

#[test]
fn what_is_sent_has_the_registered_hash() {
    use sha2::{Digest, Sha256};
    let store = NixStore::with_system();
    let closure = read(&store).unwrap();
    let source = LocalSource::new(Store::below(store.root()));
    for path in &closure.manifest.paths {
        let mut nar = Vec::new();
        source.dump(path, &mut nar).unwrap();
        assert_eq!(hex::encode(Sha256::digest(&nar)), path.nar_sha256, "{}", path.path);
    }
    std::fs::write(store.physical(nix::KERNEL).join("bzImage"), b"shorter").unwrap();
    let kernel = closure.manifest.paths.iter().find(|p| p.path.ends_with(nix::KERNEL)).unwrap();
    let error = source.dump(kernel, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("the path was changed"), "{error}");
}

/// Breaks a good system and returns what is said.
fn refusal(break_it: impl FnOnce(&NixStore)) -> String {
    let store = NixStore::with_system();
    break_it(&store);
    read(&store).expect_err("must be refused").to_string()
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let top = |store: &NixStore, name: &str| store.physical(nix::SYSTEM).join(name);
    let etc = |store: &NixStore, name: &str| store.physical(nix::ETC).join("etc").join(name);
    let remove = |path: std::path::PathBuf| std::fs::remove_file(path).unwrap();

    assert_says(&refusal(|s| remove(top(s, "init"))), &["not a NixOS system", "no init"]);
    let no_switch = refusal(|s| remove(top(s, "bin/switch-to-configuration")));
    assert_says(&no_switch, &["bin/switch-to-configuration", "system.switch.enable"]);
    let grub =
        "#!/bin/sh\nexec /nix/store/8x3bd0d1p5y5wshdrjbmfnlrq6p0v1ls-install-grub.sh \"$@\"\n";
    let grub = refusal(|s| std::fs::write(top(s, "bin/switch-to-configuration"), grub).unwrap());
    assert_says(&grub, &["installs GRUB", "systemd-boot.enable"]);
    let darwin = refusal(|s| std::fs::write(top(s, "system"), "aarch64-darwin").unwrap());
    assert_says(&darwin, &["aarch64-darwin", "not for Linux"]);
    let no_hostid = refusal(|s| remove(etc(s, "hostid")));
    assert_says(&no_hostid, &["ZFS root", "networking.hostId"]);
    let zero = refusal(|s| std::fs::write(etc(s, "hostid"), [0; 4]).unwrap());
    assert_says(&zero, &["ZFS root", "networking.hostId"]);
    let outside = nix::boot_json(&(logical(nix::OTHER) + "/file"));
    let boot = refusal(|s| std::fs::write(top(s, "boot.json"), outside).unwrap());
    assert_says(&boot, &["boot.json", "kernel", nix::OTHER, "not in the system's closure"]);
    let garbage = refusal(|s| std::fs::write(top(s, "boot.json"), "{}").unwrap());
    assert_says(&garbage, &["boot.json", "bootspec"]);
    let missing = refusal(|s| std::fs::remove_dir_all(s.physical(nix::ZFS)).unwrap());
    assert_says(&missing, &[nix::ZFS, "--verify --repair"]);
    let leads_out = refusal(|s| {
        remove(etc(s, "fstab"));
        symlink(logical(nix::OTHER) + "/file", etc(s, "fstab")).unwrap();
    });
    assert_says(&leads_out, &["fstab", nix::OTHER, "not in the closure"]);
}

#[test]
fn what_is_no_system_of_the_store() {
    let store = NixStore::new();
    store.write_system();
    assert_says(&read(&store).unwrap_err().to_string(), &["not a valid path", "--store"]);
    let empty = tempfile::tempdir().unwrap();
    let error =
        Closure::read(&Store::below(empty.path()), Path::new(&logical(nix::SYSTEM))).unwrap_err();
    assert_says(&error.to_string(), &["no Nix store", "--store ROOT"]);
    let error = Closure::read(&Store::below(store.root()), Path::new("/etc/passwd")).unwrap_err();
    assert_says(&error.to_string(), &["/etc/passwd", "not a store path"]);
}

/// As on a read-only medium: no -wal and no -shm can be made.
#[test]
fn a_read_only_store_is_read() {
    let store = NixStore::with_system();
    let database = Store::below(store.root()).database();
    let expected = read(&store).unwrap().manifest;
    // Checkpoints, and leaves no WAL behind.
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let mount = tempfile::tempdir().unwrap();
    run(Command::new(tool("mount", "mount"))
        .args(["--bind", "-o", "ro"])
        .arg(store.root())
        .arg(mount.path()));
    let found = Closure::read(&Store::below(mount.path()), Path::new(&logical(nix::SYSTEM)));
    run(Command::new(tool("umount", "mount")).arg(mount.path()));
    assert_eq!(found.unwrap().manifest, expected);
}
