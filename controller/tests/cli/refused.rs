//! What is refused before any machine is called.

use super::*;

#[test]
fn wrong_systems_and_layouts_are_refused_before_connecting() {
    let good = store();
    let refused = |break_it: &dyn Fn(&NixStore), words: &[&str]| {
        let store = store();
        break_it(&store);
        assert_refused(&install(&store, NOWHERE, &[]), 65, words);
    };
    let top = |store: &NixStore, name: &str| store.physical(nix::SYSTEM).join(name);
    let remove = |path: PathBuf| std::fs::remove_file(path).unwrap();
    refused(&|s| remove(top(s, "init")), &["not a NixOS system"]);
    refused(&|s| remove(top(s, "bin/switch-to-configuration")), &["switch-to-configuration"]);
    refused(&|s| remove(s.physical(nix::ETC).join("etc/hostid")), &["ZFS root", "hostId"]);
    let fstab = |s: &NixStore, text: &str| {
        std::fs::write(s.physical(nix::ETC).join("etc/fstab"), text).unwrap();
    };
    let other_type = FSTAB.replace("vfat", "ext4");
    refused(&|s| fstab(s, &other_type), &["disagree", "/boot", "vfat", "ext4"]);
    let other_place = FSTAB.replace("/var ", "/srv ");
    refused(&|s| fstab(s, &other_place), &["disagree", "/var", "/srv"]);

    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout.json");
    let with_layout = |text: &str| {
        std::fs::write(&layout, text).unwrap();
        install(&good, NOWHERE, &["--layout", layout.to_str().unwrap()])
    };
    assert_refused(&with_layout("{"), 65, &["the layout can't be used"]);
    let unknown =
        std::fs::read_to_string(LAYOUT).unwrap().replace("\"zfs_volume\"", "\"zfs_cube\"");
    assert_refused(&with_layout(&unknown), 65, &["zfs_cube", "rpool", "credstore"]);
    let missing = install(&good, NOWHERE, &["--layout", "/nonexistent.json"]);
    assert_refused(&missing, 65, &["/nonexistent.json"]);
    let elsewhere = keystone(&[
        "install",
        NOWHERE,
        "--store",
        "/nonexistent",
        "--store-path",
        &logical(nix::SYSTEM),
        "--layout",
        LAYOUT,
    ]);
    assert_refused(&elsewhere, 65, &["no Nix store", "--store ROOT"]);
}

/// From a cache and a bundle everything is checked that is checked from a store.
#[test]
fn other_places_are_checked_before_connecting() {
    let broken = NixStore::with_system();
    let good = store();
    good.register_again(nix::ETC, &[]);
    let dir = tempfile::tempdir().unwrap();
    let (cache, bundle) = (dir.path().join("cache"), dir.path().join("system.ksb"));
    let (url, bundle) = (format!("file://{}", cache.display()), bundle.display().to_string());
    let system = logical(nix::SYSTEM);
    let install = |args: &[&str]| {
        let all = ["install", NOWHERE, "--agent", "/bin/cat", "--layout", LAYOUT];
        keystone(&[&all[..], args].concat())
    };
    let root = |store: &NixStore| store.root().display().to_string();
    let make = |store: &NixStore| {
        store.copy_to_cache(&system, &cache, "zstd");
        let made =
            keystone(&["bundle", &system, "--store", &root(store), "-o", &bundle, "--force"]);
        assert_eq!(made.code, 0, "{}", made.err);
    };
    make(&broken);
    // Its fstab is not the layout's.
    assert_refused(&install(&["--from", &url, "--store-path", &system]), 65, &["fstab disagree"]);
    assert_refused(&install(&["--from", &bundle]), 65, &["fstab disagree"]);
    std::fs::remove_dir_all(&cache).unwrap();
    make(&good);
    let key = "stranger-1:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    let signed = ["--require-signatures", key];
    for place in [
        &["--from", &url, "--store-path", &system][..],
        &["--from", &bundle],
        &["--store-path", &bundle],
    ] {
        assert_refused(&install(place), 68, &["can't reach 127.0.0.1 on port 1"]);
        let refused = install(&[place, &signed].concat());
        assert_refused(&refused, 65, &["no signature by stranger-1", "nothing was sent"]);
        let copied =
            keystone(&[&["copy", NOWHERE, "--agent", "/bin/cat"], place, &signed].concat());
        assert_refused(&copied, 65, &["no signature by stranger-1"]);
    }
    assert_refused(&install(&["--from", &url]), 65, &["--store-path"]);
    assert_eq!(install(&["--from", &url, "--store", "/"]).code, 64);
    assert_eq!(install(&[]).code, 64);
}

/// What would be refused once the running system has ended is refused before any machine is called;
/// what is asked for there is enough.
#[test]
fn a_kexec_that_can_not_be_gone_on_with_is_refused() {
    let store = store();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (image, there, fresh) = (at("image.tar"), at("there"), at("fresh"));
    std::fs::write(&image, "").unwrap();
    std::fs::write(&there, "").unwrap();
    let with = |more: &[&str]| install(&store, NOWHERE, &[&["--agent", "/bin/cat"], more].concat());
    let refused = |more: &[&str], words: &[&str]| assert_refused(&with(more), 64, words);
    let calls = |more: &[&str]| assert_refused(&with(more), 68, &["can't reach 127.0.0.1"]);

    let clear = ["--kexec", "http://127.0.0.1:1/image.tar"];
    refused(&clear, &["http://", "--kexec-sha256"]);
    let sum = "0".repeat(64);
    calls(&[&clear[..], &["--kexec-sha256", &sum]].concat());
    calls(&["--kexec", "https://127.0.0.1:1/image.tar"]);

    refused(&["--force-kexec"], &["--force-kexec", "--kexec FILE|URL"]);
    let image = ["--kexec", &image];
    calls(&[&image[..], &["--force-kexec"]].concat());

    let ends = [&image[..], &["--yes", "--end-system", "web1"]].concat();
    refused(&ends, &["--yes --end-system", "--disk-id", "--plan-hash", "--phases kexec"]);
    calls(&[&ends[..], &["--phases", "kexec"]].concat());
    calls(&[&ends[..], &["--dry-run"]].concat());
    calls(&[&ends[..], &["--disk-id", "virtio-a"]].concat());
    calls(&[&ends[..], &["--plan-hash", "0"]].concat());

    let keeps = [&image[..], &["--recovery-key-file", &there]].concat();
    refused(&keeps, &["--recovery-key-file", &there, "is not overwritten"]);
    // Nothing is made then.
    calls(&[&keeps[..], &["--phases", "kexec"]].concat());
    calls(&[&image[..], &["--recovery-key-file", &fresh]].concat());
}

/// Options of nixos-anywhere that can't be obeyed say what to do instead, before any machine is
/// called.
#[test]
fn the_peers_options_are_obeyed_or_refused() {
    let store = store();
    let refused = |more: &[&str], words: &[&str]| {
        let mut all = vec!["--agent", "/bin/cat"];
        all.extend(more);
        assert_refused(&install(&store, NOWHERE, &all), 64, words);
    };
    refused(
        &["--kexec", "/nonexistent/x.tar.gz"],
        &["the image /nonexistent/x.tar.gz can't be read"],
    );
    refused(&["--kexec", "x.zip"], &["x.zip", ".tar.gz"]);
    refused(&["--kexec", "ftp://host/x.tar"], &["ftp:// is not fetched"]);
    refused(&["--end-system", "web1"], &["--yes"]);
    refused(&["--ssh-store-setting", "max-connections", "2"], &["max-connections"]);
    refused(&["--phases", "disko,reboot"], &["add install"]);
    refused(&["--phases", "disko", "--verify"], &["--verify", "reboot"]);
    refused(&["--phases", "dsko"], &["dsko", "disko"]);
    refused(&["--build-on", "remote"], &["--build-on remote", "nothing is built without --flake"]);
    // nixos-anywhere's older word is taken with what is built already, as there.
    let said = install(&store, NOWHERE, &["--agent", "/bin/cat", "--build-on-remote"]);
    assert_refused(&said, 68, &["--build-on-remote changes nothing"]);
    refused(&["--chown", "home", "1"], &["absolute"]);
    refused(&["--chown", "/nix/store/x", "1"], &["root's"]);
    refused(
        &["--disk-encryption-keys", "/tmp/disk.key", "/dev/null"],
        &["/tmp/disk.key", "asks for"],
    );
    refused(&["--extra-files", "/nonexistent"], &["--extra-files", "/nonexistent"]);
    refused(&["--host-key-file", "/nonexistent"], &["--host-key-file", "/nonexistent"]);
    refused(&["--generate-hardware-config", "lspci", "x"], &["nixos-facter"]);
    let nowhere = "/nonexistent/machine.json";
    refused(&["--hardware-report", nowhere], &["--hardware-report /nonexistent/machine.json"]);
    refused(&["--fetch", "on-target"], &["--fetch on-target", "http://", "give one with --from"]);
    refused(&["--extra-file", "x"], &["--extra-files"]);
    refused(&["--bogus"], &["--bogus"]);

    // Both ways to say who fetches.
    let from = ["--from", "https://cache.invalid", "--store-path", "x", "--layout", LAYOUT];
    let both = ["--fetch", "on-target", "--no-substitute-on-destination", "--agent", "/bin/cat"];
    let said = keystone(&[&["install", NOWHERE], &from[..], &both].concat());
    assert_refused(&said, 64, &["contradict each other"]);

    let root = store.root().display().to_string();
    let script = ["--store-paths", "./disko-script", &logical(nix::SYSTEM)];
    let mut args = vec!["install", NOWHERE, "--store", &root, "--agent", "/bin/cat"];
    args.extend(script);
    assert_refused(&keystone(&args), 64, &["./disko-script", "--layout"]);
    args.extend(["--layout", LAYOUT, "-t", "--no-substitute-on-destination"]);
    args.push("--no-use-machine-substituters");
    let said = keystone(&args);
    assert_refused(
        &said,
        68,
        &[
            "./disko-script is not run",
            "--tty changes nothing",
            "--no-substitute-on-destination is always so without",
            "--no-use-machine-substituters is always so without",
        ],
    );
    assert_refused(&keystone(&["inventory"]), 64, &["which machine", "--target-host"]);
}
