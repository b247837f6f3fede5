//! What else is given: files, defaults, and where to write what is found.

use super::*;

/// What is added is read and checked before the machine is called; a support bundle tells of the
/// failure and keeps the key to itself.
#[test]
fn additions_and_a_support_bundle() {
    let store = store();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir_all(dir.path().join("files/var")).unwrap();
    std::fs::write(dir.path().join("files/var/secret"), "value").unwrap();
    let made = Command::new(common::tool("ssh-keygen", "openssh-client"))
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &at("host")])
        .status();
    assert!(made.unwrap().success());
    let layout = std::fs::read_to_string(LAYOUT).unwrap();
    let mut layout: serde_json::Value = serde_json::from_str(&layout).unwrap();
    let luks = &mut layout["zpool"]["rpool"]["datasets"]["credstore"]["content"];
    assert_eq!(luks["type"], "luks", "{luks:#}");
    luks["passwordFile"] = "/tmp/disk.key".into();
    std::fs::write(at("layout.json"), layout.to_string()).unwrap();
    std::fs::write(at("disk.key"), "correct horse battery staple\n").unwrap();
    let (files, host, layout, key, bundle) =
        (at("files"), at("host"), at("layout.json"), at("disk.key"), at("bundle.tar.zst"));
    let args = [
        "--agent",
        "/bin/cat",
        "--layout",
        &layout,
        "--extra-files",
        &files,
        "--host-key-file",
        &host,
        "--chown",
        "/home/a user with spaces and a rather long name/.config",
        "1000:100",
        "--disk-encryption-keys",
        "/tmp/disk.key",
        &key,
        "--support-bundle",
        &bundle,
    ];
    let said = install(&store, NOWHERE, &args);
    assert_refused(&said, 68, &["can't reach", "support bundle: "]);
    let file = std::fs::File::open(&bundle).unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).unwrap());
    let mut all = String::new();
    for entry in archive.entries().unwrap() {
        std::io::Read::read_to_string(&mut entry.unwrap(), &mut all).unwrap();
    }
    assert!(all.contains("can't reach 127.0.0.1") && all.contains("unreachable"), "{all}");
    assert!(!all.contains("horse"), "{all}");

    let other = install(
        &store,
        NOWHERE,
        &["--agent", "/bin/cat", "--layout", &layout, "--disk-encryption-keys", "/tmp/other", &key],
    );
    assert_refused(&other, 64, &["/tmp/other", "it asks for /tmp/disk.key"]);
}

/// Defaults come from a file, and the command line wins.
#[test]
fn a_file_has_defaults_for_hosts() {
    let store = store();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("keystone.toml").display().to_string();
    let root = store.root().display().to_string();
    let text = format!(
        "[defaults]\nagent = '/bin/cat'\nstore = '{root}'\nlayout = '{LAYOUT}'\n\
         [host.'127.0.0.1']\nport = 1\nstore-path = '{}'\n",
        logical(nix::SYSTEM)
    );
    std::fs::write(&config, text).unwrap();
    let said = keystone(&["install", "root@127.0.0.1", "--config", &config]);
    assert_refused(&said, 68, &["can't reach 127.0.0.1 on port 1"]);
    let said = keystone(&["install", "root@127.0.0.1", "--config", &config, "-p", "2"]);
    assert_refused(&said, 68, &["on port 2"]);
    std::fs::write(&config, "[defaults]\nlayuot = 'x'\n").unwrap();
    let said = keystone(&["install", "root@127.0.0.1", "--config", &config]);
    assert_refused(&said, 64, &["layuot", "layout, perhaps?"]);
}

/// A machine's own tool describes it: what it says, and nothing of what it says besides. One
/// without the tool is refused, before anything else is done.
#[test]
fn hardware_described_by_the_machines_own_tool() {
    let store = store();
    // What stands for NixOS's tools prints what it is called with, where these print a description.
    let stand = |name: &str, text: &str| {
        let file = format!("/run/current-system/sw/bin/{name}");
        let script = format!(r#"#!/bin/sh\necho progress >&2\necho "{text}"\n"#);
        format!("\nprintf '{script}' > {file} && chmod +x {file}")
    };
    let bare = "mount -t tmpfs none /run && mkdir -p /run/current-system/sw/bin".to_owned();
    let module = bare + &stand("nixos-generate-config", "{ } # $*");
    let both = module.clone() + &stand("nixos-facter", "{ $# }");
    let machines = [module, both].map(|setup| Sshd::in_namespace(&setup));
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let git = common::tool("git", "git");
        common::run(Command::new(git).arg("-C").arg(dir.path()).args(args))
    };
    git(&["init", "--quiet"]);
    std::fs::write(dir.path().join(".gitignore"), "hardware*\n").unwrap();
    let with = |sshd: &Sshd, tool: &str, file: &str| {
        let file = dir.path().join(file).display().to_string();
        let key = sshd.key().display().to_string();
        let print = fingerprint(&sshd.host_key("ed25519"));
        let link = ["--agent", "/bin/cat", "--host-key", &print, "-i", &key];
        let args = [&link[..], &["--generate-hardware-config", tool, &file]].concat();
        // The bare host: root is who logs in, unless another is named.
        install(&store, &format!("127.0.0.1:{}", sshd.port), &args)
    };
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    let [nix, json] = ["not there yet/hardware.nix", "not there yet/hardware.json"];
    let refused = with(&machines[0], "nixos-facter", json);
    assert_refused(&refused, 66, &["no nixos-facter", "--hardware-report"]);
    assert!(!dir.path().join("not there yet").exists());
    // `cat` is no agent, but the description is there by then.
    let agent = &["can't understand the agent"];
    assert_refused(&with(&machines[0], "nixos-generate-config", nix), 71, agent);
    assert_eq!(read(nix), "{ } # --show-hardware-config --no-filesystems\n");
    assert_refused(&with(&machines[1], "nixos-facter", json), 71, agent);
    assert_eq!(read(json), "{ 0 }\n");
    // Who logs in need not be root, but the tool is run as root: it reads what only root may.
    let rules = "printf 'alice ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers";
    let who = stand("nixos-facter", "{ $(id -un) }");
    let sshd = Sshd::configured(
        "UsePAM yes\n",
        Some(&with_people(&format!("{rules} && mkdir -p /run/current-system/sw/bin {who}"))),
    );
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let file = dir.path().join("by root.json").display().to_string();
    let link = ["--agent", "/bin/cat", "--host-key", &print, "-i", &key];
    let args = [&link[..], &["--generate-hardware-config", "nixos-facter", &file]].concat();
    let said = install(&store, &format!("alice@127.0.0.1:{}", sshd.port), &args);
    assert!(std::fs::read_to_string(&file).is_ok_and(|text| text == "{ root }\n"), "{}", said.err);
    std::fs::remove_file(&file).unwrap();
    git(&["rm", "--quiet", "--cached", "by root.json"]);
    // A flake in Git has only what Git knows of, ignored or not.
    let known = git(&["ls-files"]);
    assert_eq!(known, format!("{json}\n{nix}\n"), "{known}");
}
