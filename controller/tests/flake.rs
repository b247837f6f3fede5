//! Systems of flakes, built by real Nix.

mod common;

use common::flake::{LAYOUT, Place};
use std::path::Path;
use std::process::Command;

/// A machine, as `keystone inventory --json` describes it.
const MACHINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../planner/src/fixtures/machine.json");

/// The machine is called only when the system is built, its layout evaluated and both agree.
#[test]
fn a_flakes_system_is_built_and_its_layout_evaluated() {
    let place = Place::new();
    let (code, out, err) = place.install("nas", &["-L", "--build-on", "local"]);
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

/// For a machine that is only described the system is built too, and is what the plan installs.
#[test]
fn a_flakes_system_is_planned_for_a_machine_that_a_file_describes() {
    let place = Place::new();
    let (code, out, err) = place.keystone("plan", "nas", &["--inventory", MACHINE, "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(place.built("-nixos-system-nas-25.11"));
    let plan: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let steps = plan["plan"]["steps"].as_array().unwrap();
    let profile = steps.iter().find(|step| step["id"] == "profile").unwrap();
    let toplevel = profile["action"]["toplevel"].as_str().unwrap();
    assert!(toplevel.ends_with("-nixos-system-nas-25.11"), "{profile}");
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
    let (code, _, err) = place
        .install("nas", &["--option", "allowed-uris", "x", "--option", "system", "riscv64-linux"]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("riscv64-linux"), "{err}");
}

/// What Nix shows of an evaluation that failed, and what only a trace has.
#[test]
fn traces_are_shown_where_they_are_asked_for() {
    let place = Place::new();
    let file = place.dir.path().join("flake/flake.nix");
    let wrong = r#"nixosConfigurations.wrong.config.disko.devices =
        builtins.addErrorContext "while asking the oracle" (throw "the oracle is silent");"#;
    let flake = std::fs::read_to_string(&file).unwrap();
    let other = "nixosConfigurations.other.config";
    assert!(flake.contains(other), "{flake}");
    std::fs::write(&file, flake.replacen(other, &format!("{wrong}\n{other}"), 1)).unwrap();
    let [hint, context] = ["use '--show-trace'", "while asking the oracle"];
    for (command, more, traced) in [
        ("layout", &[][..], false),
        ("layout", &["--show-trace"], true),
        ("install", &[], false),
        ("install", &["--show-trace"], true),
        ("install", &["--debug"], true),
    ] {
        let machine = ["root@127.0.0.1:1", "--agent", "/bin/cat"];
        let machine = if command == "install" { &machine[..] } else { &[] };
        let (code, _, err) = place.keystone(command, "wrong", &[machine, more].concat());
        assert_eq!(code, 78, "{err}");
        assert!(err.contains("the oracle is silent"), "{err}");
        assert_eq!(err.contains(context), traced, "{command} {more:?}: {err}");
        assert_eq!(err.contains(hint), !traced, "{command} {more:?}: {err}");
    }
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
    let planned = Command::new(env!("CARGO_BIN_EXE_keystone"))
        .args(["plan", "--inventory", MACHINE, "--layout"])
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

    let (code, out, err) = place.keystone("layout", "nobody", &["--json"]);
    assert_eq!(code, 78, "{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "build");
}

/// The module that keeps copies of the ESP, with as much of nixpkgs' library as it uses: what it
/// sets for copies, and that it sets nothing without.
#[test]
fn the_module_for_copies_of_the_esp_is_evaluated() {
    let expression = r#"
      let
        lib = {
          types = { str = "str"; listOf = of: { inherit of; }; attrsOf = of: { inherit of; }; submodule = module: { inherit module; }; };
          mkOption = option: option;
          mkIf = condition: value: if condition then value else { };
          hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
          escapeShellArgs = builtins.concatStringsSep " ";
        };
        pkgs = {
          coreutils = "coreutils"; rsync = "rsync"; util-linux = "util-linux";
          writeShellApplication = application:
            assert builtins.stringLength application.text > 100;
            "/nix/store/${builtins.concatStringsSep "+" application.runtimeInputs}-${application.name}";
        };
        evaluated = copies:
          let
            module = import MODULE {
              inherit lib pkgs;
              config = {
                keystone.mirrorEsp.copies = copies;
                boot.loader = {
                  efi.efiSysMountPoint = "/boot";
                  systemd-boot.enable = true;
                  grub = { enable = false; efiSupport = false; };
                };
              };
            };
            container = module.options.boot.initrd.luks.devices.type.of.module;
            options = device: (container { config = { inherit device; }; }).config.crypttabExtraOpts;
          in
          {
            inherit (module) config;
            default = module.options.keystone.mirrorEsp.copies.default;
            volume = options "/dev/zvol/rpool/credstore";
            disk = options "/dev/disk/by-partlabel/x";
          };
      in
      { copies = evaluated [ "/dev/a" "/dev/b" ]; without = evaluated [ ]; }
    "#;
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../nix/mirror-esp.nix");
    let ended = Command::new(common::tool("nix-instantiate", "nix-bin"))
        .args(["--eval", "--strict", "--json", "--expr", &expression.replace("MODULE", module)])
        .env("NIX_STATE_DIR", tempfile::tempdir().unwrap().path())
        .env("NIX_REMOTE", "dummy://")
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let value: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let (with, without) = (&value["copies"], &value["without"]);
    let command =
        "/nix/store/coreutils+rsync+util-linux-mirror-esp/bin/mirror-esp /boot /dev/a /dev/b";
    let config = &with["config"];
    assert_eq!(config["boot"]["loader"]["systemd-boot"]["extraInstallCommands"], command);
    assert_eq!(config["boot"]["loader"]["grub"]["extraInstallCommands"], serde_json::json!({}));
    assert_eq!(config["fileSystems"]["/boot"]["options"], serde_json::json!(["nofail"]));
    assert_eq!(config["assertions"][0]["assertion"], true);
    assert_eq!(with["volume"], serde_json::json!(["x-systemd.device-timeout=5min"]));
    assert_eq!(with["disk"], serde_json::json!({}));
    assert_eq!(without["config"], serde_json::json!({}));
    assert_eq!((&without["volume"], &without["default"]), (&with["disk"], &serde_json::json!([])));
}
