//! `keystone plan` without a machine: the same plans and refusals, for one that a file describes.

mod common;

use common::nix::{self, NixStore, logical};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `keystone plan ARGS`, `input` at its standard input; from a directory without keystone.toml.
fn plan(args: &[&str], input: Option<&Path>) -> Said {
    let home = tempfile::tempdir().unwrap();
    let stdin = match input {
        Some(path) => Stdio::from(std::fs::File::open(path).unwrap()),
        None => Stdio::null(),
    };
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_keystone"))
        .arg("plan")
        .args(args)
        .env("HOME", home.path())
        .env_remove("KEYSTONE_AGENT")
        .current_dir(home.path())
        .stdin(stdin)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

fn layout(name: &str) -> String {
    format!("{ROOT}/tests/layouts/{name}.json")
}

/// A machine as `keystone inventory --json` describes it.
fn machine() -> PathBuf {
    PathBuf::from(format!("{ROOT}/planner/src/fixtures/machine.json"))
}

/// The hash below the heading PLAN.
fn hash(text: &str) -> &str {
    text.trim_end().lines().last().unwrap().trim()
}

#[test]
fn the_disks_alone_without_a_system() {
    let file = machine().display().to_string();
    let layout = layout("keystone/single-disk-root");
    let said = plan(&["--inventory", &file, "--layout", &layout], None);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for word in ["keystone-installer", "virtio-target", "credstore", "mount dataset", "PLAN"] {
        assert!(said.out.contains(word), "{word} is not in {}", said.out);
    }
    assert!(!said.out.contains("SYSTEM"), "{}", said.out);
    let other = ["--inventory", &file, "--layout", &layout, "--disk", "root=serial:a"];
    let other = plan(&other, None);
    assert!(other.out.contains("virtio-a"), "{}", other.out);
    assert_ne!(hash(&said.out), hash(&other.out));
    // From standard input, and for programs: the same plan.
    let args = ["--inventory", "-", "--layout", &layout, "--json"];
    let json = plan(&args, Some(&machine()));
    let lines: Vec<Value> = json.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|l| l["event"].as_str()).collect::<Vec<_>>(),
        [Some("inventory"), Some("plan")]
    );
    assert_eq!(lines[1]["plan"]["hash"], hash(&said.out));
    let expected = keystone_planner::plan_disks(
        &serde_json::from_slice(&std::fs::read(machine()).unwrap()).unwrap(),
        &std::fs::read_to_string(&layout).unwrap(),
        &Default::default(),
    );
    assert_eq!(expected.unwrap().hash, hash(&said.out));
    let mode = plan(&["--inventory", &file, "--layout", &layout, "--disko-mode", "mount"], None);
    assert_eq!(mode.code, 66, "{}{}", mode.out, mode.err);
    assert!(mode.err.contains("next: "), "{}", mode.err);
}

#[test]
fn a_system_with_what_is_added_to_it() {
    let store = NixStore::with_system();
    let fstab = "rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0\n\
         rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0\n\
         rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0\n\
         /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2\n";
    std::fs::write(store.physical(nix::ETC).join("etc/fstab"), fstab).unwrap();
    let (root, system) = (store.root().display().to_string(), logical(nix::SYSTEM));
    let (file, layout) = (machine().display().to_string(), layout("keystone/single-disk-root"));
    let args =
        ["--inventory", &file, "--layout", &layout, "--store", &root, "--store-path", &system];
    let said = plan(&args, None);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for word in [&system[..], "receive the closure", "prove that everything"] {
        assert!(said.out.to_lowercase().contains(word), "{word} is not in {}", said.out);
    }
    let owned = plan(&[&args[..], &["--chown", "/home/alice", "1000:100"]].concat(), None);
    assert_eq!(owned.code, 0, "{}{}", owned.out, owned.err);
    assert!(owned.out.contains("/home/alice"), "{}", owned.out);
    assert_ne!(hash(&said.out), hash(&owned.out));
}

#[test]
fn what_the_machine_would_refuse_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::from_slice(&std::fs::read(machine()).unwrap()).unwrap();
        change(&mut value);
        let path = dir.path().join("machine.json");
        std::fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    };
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let said = plan(args, None);
        assert_eq!(said.code, code, "{}{}", said.out, said.err);
        for word in words {
            assert!(said.err.contains(word), "{word} is not in {}", said.err);
        }
    };
    let good = machine().display().to_string();
    let single = layout("keystone/single-disk-root");
    let on = |file: &str, code: i32, words: &[&str]| {
        refused(&["--inventory", file, "--layout", &single], code, words);
    };
    let full = changed(&|machine| {
        machine["disks"][1]["contents"]["signatures"] = serde_json::json!([
            {"kind": "filesystem", "fstype": "ext4", "label": "photos", "uuid": "1"}
        ]);
    });
    on(&full, 67, &["photos", "--erase"]);
    on(&changed(&|machine| machine["disks"] = serde_json::json!([])), 66, &["virtio-target"]);
    // What is no inventory.
    on(&changed(&|machine| machine["version"] = 99.into()), 64, &["format 99", "inventory root@"]);
    on(&changed(&|machine| machine["disks"] = 1.into()), 64, &["machine.json", "no inventory"]);
    on(&single, 64, &["no inventory"]);
    on("/nonexistent", 65, &["/nonexistent"]);
    refused(&["--inventory", "-", "--layout", "-"], 64, &["standard input"]);
    refused(&["--inventory", &good, "root@nas", "--layout", &single], 64, &["root@HOST"]);
    refused(&["--inventory", &good], 64, &["--layout"]);
    refused(&["--layout", &single], 64, &["which machine"]);
    refused(
        &["--inventory", &good, "--layout", &single, "--chown", "/home", "1"],
        64,
        &["--chown", "--store-path"],
    );
}

/// The texts of all hooks of a document, by their places, each with a second line.
fn hooks(document: &mut Value, at: &str, found: &mut Vec<(String, String)>) {
    let Some(fields) = document.as_object_mut() else { return };
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        match value {
            Value::String(script) if name.ends_with("Hook") => {
                *script = format!("{script}\n: the last line of {at}");
                found.push((at, script.clone()));
            }
            value => hooks(value, &at, found),
        }
    }
}

/// Whoever agrees to a plan has seen all that a layout has run by a shell.
#[test]
fn every_line_of_every_hook_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, value: &Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    };
    let read =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut inventory = read(&machine());
    inventory["tools"]["bash"] = "/run/current-system/sw/bin/bash".into();
    let mut document = read(Path::new(&layout("written/hooks")));
    let mut scripts = Vec::new();
    hooks(&mut document, "", &mut scripts);
    assert_eq!(scripts.len(), 10);
    let (file, layout) = (written("machine.json", &inventory), written("hooks.json", &document));
    let shown = ["disko", "unmount"].map(|mode| {
        let disk = ["--disk", "main=serial:a", "--disko-mode", mode];
        let args = [&["--inventory", &file, "--layout", &layout][..], &disk].concat();
        let said = plan(&args, None);
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        // Long lines are wrapped.
        said.out.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    for (at, script) in scripts {
        let lines: String = script.lines().map(|line| format!(" | {line}")).collect();
        let whole = lines.split_whitespace().collect::<Vec<_>>().join(" ");
        let times = shown.iter().filter(|shown| shown.contains(&whole)).count();
        assert_eq!(times, 1, "{at}: {whole}\nis not in {shown:#?}");
    }
}
