//! Systems of flakes, built by real Nix: a flake of our own that exposes what a NixOS flake does,
//! without nixpkgs. The store is `/nix` of a mount namespace of its own.

mod common;

use common::tool;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const LAYOUT: &str = include_str!("../../tests/layouts/keystone/single-disk-root.json");

/// A configuration whose system has the shape of a NixOS system.
const FLAKE: &str = r#"
{
  outputs = { self }:
    let
      sh = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-e" "-c" "PATH=/usr/bin:/bin; ${script}" ];
      };
      kernel = sh "linux-6.12.48" "mkdir $out; echo kernel > $out/bzImage";
      initrd = sh "initrd-linux-6.12.48" "mkdir $out; echo initrd > $out/initrd";
      zfs = sh "zfs-kernel-2.3.4-6.12.48" "mkdir -p $out/lib; echo zfs > $out/lib/zfs.ko";
      etc = sh "etc" ''
        mkdir -p $out/etc; printf 'xV4\022' > $out/etc/hostid; echo nas > $out/etc/hostname
        cat > $out/etc/fstab <<END
        rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0
        rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0
        rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0
        /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2
        END
      '';
      toplevel = sh "nixos-system-nas-25.11" ''
        echo "the builder speaks"
        mkdir -p $out/bin $out/sw
        for program in init activate bin/switch-to-configuration; do
          echo '#!/bin/sh' > $out/$program; chmod 555 $out/$program
        done
        printf x86_64-linux > $out/system; printf 25.11 > $out/nixos-version; touch $out/sw/empty
        ln -s ${etc}/etc $out/etc; ln -s ${kernel}/bzImage $out/kernel
        ln -s ${initrd}/initrd $out/initrd; ln -s ${zfs} $out/kernel-modules
        cat > $out/boot.json <<END
        {"org.nixos.bootspec.v1": {"system": "x86_64-linux", "init": "$out/init",
          "kernel": "${kernel}/bzImage", "kernelParams": [], "label": "NixOS 25.11",
          "toplevel": "$out", "initrd": "${initrd}/initrd"},
         "org.nixos.specialisation.v1": {}}
        END
      '';
      config = toplevel: {
        system.build.toplevel = toplevel;
        system.build.installTest = sh "vm-test-run" "echo tested > $out";
        disko.devices = builtins.fromJSON (builtins.readFile ./layout.json) // { _internal = 1; };
      };
    in
    {
      nixosConfigurations.nas.config = config toplevel;
      nixosConfigurations.broken.config =
        config (sh "broken" "echo the compiler says why; exit 3");
      nixosConfigurations.internal.config.disko.devices = {
        _module = x: x;
        nested = { _a = throw "never evaluated"; a = 1; };
        list = [ { _b = 2; kept = null; } [ true ] ];
      };
      nixosConfigurations.other.config = config toplevel // { disko.devices.disk = 1; };
    };
}
"#;

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        tool("nix", "nix-bin");
        tool("unshare", "util-linux");
        let dir = tempfile::tempdir_in("/var/cache").unwrap();
        for name in ["flake", "nix", "home"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("flake/flake.nix"), FLAKE).unwrap();
        std::fs::write(dir.path().join("flake/layout.json"), LAYOUT).unwrap();
        Place { dir }
    }

    /// `keystone install --flake FLAKE#NAME` to a machine that nobody listens at.
    fn install(&self, name: &str, more: &[&str]) -> (i32, String, String) {
        let machine = ["--target-host", "root@127.0.0.1:1", "--agent", "/bin/cat", "--json"];
        self.keystone("install", name, &[&machine, more].concat())
    }

    /// `keystone COMMAND --flake FLAKE#NAME`.
    fn keystone(&self, command: &str, name: &str, more: &[&str]) -> (i32, String, String) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let script = r#"mkdir -p /nix && mount --bind "$1" /nix && shift && exec "$@""#;
        let Output { status, stdout, stderr } = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", &at("nix")])
            .arg(env!("CARGO_BIN_EXE_keystone"))
            .args([command, "--flake", &format!("{}#{name}", at("flake"))])
            .args(more)
            .env("HOME", at("home"))
            .env("NIX_REMOTE", "")
            .env("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstitute = false")
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn built(&self, suffix: &str) -> bool {
        let store = self.dir.path().join("nix/store");
        let Ok(entries) = std::fs::read_dir(store) else { return false };
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
    }
}

/// The machine is called only when the system is built, its layout evaluated and both agree.
#[test]
fn a_flakes_system_is_built_and_its_layout_evaluated() {
    let place = Place::new();
    let (code, out, err) = place.install("nas", &["-L"]);
    assert_eq!(code, 68, "{out}{err}");
    assert!(err.contains("can't reach 127.0.0.1"), "{err}");
    assert!(place.built("-nixos-system-nas-25.11"));
    for word in ["evaluating the layout of", "building '/nix/store/", "the builder speaks"] {
        assert!(out.contains(word), "{word} is not in {out}");
    }
    assert!(!Path::new(&place.dir.path().join("flake/flake.lock")).exists());
    // What is built already is not built again.
    let (code, out, _) = place.install("nas", &[]);
    assert_eq!(code, 68);
    assert!(!out.contains("building '/nix/store/"), "{out}");
}

#[test]
fn what_nix_can_not_do_is_said_before_any_machine_is_called() {
    let place = Place::new();
    let (code, out, err) = place.install("broken", &[]);
    assert_eq!(code, 78, "{out}{err}");
    for word in ["building", "failed", "last lines", "the compiler says why"] {
        assert!(err.contains(word), "{word} is not in {err}");
    }
    assert!(!err.contains("can't reach"), "{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "build");

    let (code, _, err) = place.install("nobody", &[]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("nobody"), "{err}");
    // A layout that is none is known before anything is built.
    let (code, _, err) = place.install("other", &[]);
    assert_eq!(code, 65, "{err}");
    assert!(err.contains("layout can't be used"), "{err}");
    assert!(!place.built("-nixos-system-nas-25.11"));
    // Nix gets what it is to get.
    let (code, _, err) = place.install("nas", &["--option", "allowed-uris", "x", "--option", "system", "riscv64-linux"]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("riscv64-linux"), "{err}");
}

#[test]
fn the_test_of_a_configuration_is_built_and_nothing_else() {
    let place = Place::new();
    let (code, out, err) = place.install("nas", &["--vm-test"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("-vm-test-run"), "{out}");
    assert!(!place.built("-nixos-system-nas-25.11"));
}

/// The document is what the installer reads: evaluated by nix/layout.nix, internal attributes
/// dropped wherever they are, the rest as the modules have it.
#[test]
fn a_flakes_layout_as_a_document() {
    let place = Place::new();
    let (code, out, err) = place.keystone("layout", "nas", &[]);
    assert_eq!(code, 0, "{out}{err}");
    let expected: serde_json::Value = serde_json::from_str(LAYOUT).unwrap();
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found, expected);
    assert!(!place.built("-nixos-system-nas-25.11"), "built for nothing");

    let (code, out, _) = place.keystone("layout", "internal", &[]);
    assert_eq!(code, 65, "a layout that can't be used");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found, serde_json::json!({"list": [{"kept": null}, [true]], "nested": {"a": 1}}));

    // What it prints is what plan takes.
    let file = place.dir.path().join("layout.json");
    let (_, out, _) = place.keystone("layout", "nas", &[]);
    std::fs::write(&file, out).unwrap();
    let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/../planner/src/fixtures/machine.json");
    let planned = Command::new(env!("CARGO_BIN_EXE_keystone"))
        .args(["plan", "--inventory", machine, "--layout"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(planned.status.success(), "{planned:?}");

    // The disks alone need the layout alone.
    let nowhere = ["root@127.0.0.1:1", "--agent", "/bin/cat"];
    let disko = ["--disko-mode", "mount"];
    for (command, more) in [("rescue", &[][..]), ("disko", &disko)] {
        let (code, _, err) = place.keystone(command, "nas", &[&nowhere[..], more].concat());
        assert_eq!(code, 68, "{command}: {err}");
        let (code, _, err) = place.keystone(command, "other", &[&nowhere[..], more].concat());
        assert_eq!(code, 65, "{command}: {err}");
    }
    assert!(!place.built("-nixos-system-nas-25.11"), "built for nothing");

    let (code, _, err) = place.keystone("layout", "nobody", &["--show-trace"]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("nobody"), "{err}");
    let (code, out, err) = place.keystone("layout", "nobody", &["--json"]);
    assert_eq!(code, 78, "{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "build");
}
