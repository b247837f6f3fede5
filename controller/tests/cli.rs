//! The `keystone` command: what it refuses, how it says so, and with which exit code.

mod common;

use common::nix::{self, NixStore, logical};
use common::sshd::{Sshd, with_people};
use common::tool;
use keystone_controller::ssh::host_key::fingerprint;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LAYOUT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/layouts/keystone/single-disk-root.json");

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `keystone` without a terminal and without the machine's own keys.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keystone"));
    command
        .args(args)
        .env("HOME", "/nonexistent")
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("SSH_PRIVATE_KEY")
        .env_remove("KEYSTONE_AGENT")
        .stdin(Stdio::null());
    command
}

fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// Runs `keystone`, with a home of its own.
fn keystone(args: &[&str]) -> Said {
    let home = tempfile::tempdir().unwrap();
    said(command(args).env("HOME", home.path()))
}

#[track_caller]
fn assert_refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{}{}", said.out, said.err);
    for word in words {
        assert!(said.err.contains(word), "'{word}' is not in: {}", said.err);
    }
}

/// `fstab` as Keystone's layout wants it.
const FSTAB: &str = "rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0\n\
     rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0\n\
     rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0\n\
     /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2\n";

fn store() -> NixStore {
    let store = NixStore::with_system();
    std::fs::write(store.physical(nix::ETC).join("etc/fstab"), FSTAB).unwrap();
    store
}

/// A machine that must not be contacted: nobody listens there.
const NOWHERE: &str = "root@127.0.0.1:1";

fn install(store: &NixStore, destination: &str, more: &[&str]) -> Said {
    let root = store.root().display().to_string();
    let system = logical(nix::SYSTEM);
    let mut args = vec!["install", destination, "--store", &root, "--store-path", &system];
    if !more.contains(&"--layout") {
        args.extend(["--layout", LAYOUT]);
    }
    args.extend(more);
    keystone(&args)
}

#[test]
fn usage_and_help() {
    assert_eq!(keystone(&["install"]).code, 64);
    assert_eq!(keystone(&["erase-everything"]).code, 64);
    assert_refused(&keystone(&["inventory", "root@host:nine"]), 64, &["port"]);
    let help = keystone(&["install", "--help"]);
    assert_eq!(help.code, 0);
    for word in ["Examples:", "Exit codes:", " 68  the machine can't be reached"] {
        assert!(help.out.contains(word), "{word}");
    }
    assert_eq!(keystone(&["version"]).out, format!("keystone {}\n", env!("CARGO_PKG_VERSION")));
    let version: serde_json::Value =
        serde_json::from_str(&keystone(&["version", "--json"]).out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn programs_are_told_of_wrong_options_too() {
    for args in [
        &["install", "--json"][..],
        &["inventory", "root@host:nine", "--json"],
        &["plan", "--jsn", "--json"],
    ] {
        let said = keystone(args);
        assert_eq!(said.code, 64, "{}", said.err);
        let line: serde_json::Value =
            serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&line["event"], &line["kind"], &line["exit"]),
            (&"error".into(), &"usage".into(), &64.into())
        );
        let message = line["message"].as_str().unwrap();
        assert!(
            message.len() > 10 && said.err.contains(message.lines().next().unwrap()),
            "{message}: {}",
            said.err
        );
    }
    assert_eq!(keystone(&["install"]).out, "");
}

/// 0 is seen by the machines that were installed.
#[test]
fn verify_has_exit_codes_of_its_own() {
    for json in [&[][..], &["--json"]] {
        assert_eq!(keystone(&[&["verify", NOWHERE][..], json].concat()).code, 2);
        let report =
            keystone(&[&["verify", NOWHERE, "--expect", "/nonexistent"][..], json].concat());
        assert_refused(&report, 2, &["/nonexistent"]);
    }
    // A machine that has next to nothing of what is looked for.
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let at = format!("root@127.0.0.1:{}", sshd.port);
    let args = ["verify", &at, "--host-key", &print, "-i", &key, "--hostname", "another"];
    let said = keystone(&args);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("FAIL: hostname"), "{}", said.out);
    let said = keystone(&[&args[..], &["--json"]].concat());
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let verified: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(verified["good"], false);
}

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

#[test]
fn machines_that_are_not_reached() {
    let store = store();
    let agent = ["--agent", "/bin/cat"];
    let nobody = install(&store, NOWHERE, &agent);
    assert_refused(&nobody, 68, &["can't reach 127.0.0.1 on port 1", "Connection refused"]);
    let json = install(&store, NOWHERE, &[&agent[..], &["--json"]].concat());
    let last: serde_json::Value = serde_json::from_str(json.out.lines().last().unwrap()).unwrap();
    assert_eq!((last["event"].as_str(), last["exit"].as_i64()), (Some("error"), Some(68)));
    assert_eq!(last["kind"], "unreachable");
    let no_name = install(&store, "root@no-such-host.invalid", &agent);
    assert_refused(&no_name, 68, &["no-such-host.invalid"]);
    let no_agent = install(&store, NOWHERE, &["--agent", "/nonexistent/agent"]);
    assert_refused(&no_agent, 71, &["/nonexistent/agent"]);
}

#[test]
fn host_keys_and_logins() {
    let store = store();
    let sshd = Sshd::start();
    let destination = sshd.destination().to_string();
    let key = sshd.key().display().to_string();
    let known = sshd.dir.path().join("known").display().to_string();
    let with = |more: &[&str]| {
        let mut all = vec!["--agent", "/bin/cat", "--known-hosts", &known];
        all.extend(more);
        install(&store, &destination, &all)
    };
    let print = fingerprint(&sshd.host_key("ed25519"));
    // Nobody can be asked, so it is refused, and says what it saw.
    assert_refused(&with(&["-i", &key]), 69, &["is not known", &print, "--host-key"]);
    let other = Sshd::start();
    let line = format!(
        "{} {}\n",
        sshd.destination().known_hosts_name(),
        other.host_key("ed25519").to_openssh().unwrap()
    );
    std::fs::write(&known, line).unwrap();
    assert_refused(&with(&["-i", &key]), 69, &["has changed", "ssh-keygen -R", &print]);
    // What the operator pins counts more than what a file says.
    let stranger = other.key().display().to_string();
    let refused = with(&["--host-key", &print, "-i", &stranger]);
    assert_refused(&refused, 69, &["accepts none of these", "authorized_keys"]);
    assert_refused(&with(&["--host-key", &print]), 69, &["no key to log in to"]);
}

/// The key itself in the environment, as nixos-anywhere takes it: used if no other is named.
#[test]
fn a_key_in_the_environment() {
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let print = fingerprint(&sshd.host_key("ed25519"));
    let at = sshd.destination().to_string();
    let other = sshd.dir.path().join("other");
    common::sshd::keygen(&other, "ed25519", "");
    let other = other.display().to_string();
    let with = |key: &str, more: &[&str]| {
        let mut args = vec!["inventory", &at, "--agent", "/bin/cat", "--host-key", &print];
        args.extend(more);
        said(command(&args).env("SSH_PRIVATE_KEY", key))
    };
    let key = std::fs::read_to_string(sshd.key()).unwrap();
    // Logged in: `cat` is no agent.
    assert_refused(&with(&key, &[]), 71, &["can't understand the agent"]);
    assert_refused(&with(&key, &["-i", &other]), 69, &["accepts none of these"]);
    assert_refused(&with("", &[]), 69, &["no key to log in to"]);
    let none = with("no key", &[]);
    assert_refused(&none, 67, &["SSH_PRIVATE_KEY", "-i"]);
    let wrong = with(&std::fs::read_to_string(&other).unwrap(), &[]);
    assert_refused(&wrong, 69, &["accepts none of these", "SSH_PRIVATE_KEY"]);
}

/// The password in the environment, as nixos-anywhere takes it: used if that is asked for.
#[test]
fn a_password_in_the_environment() {
    let lines = "UsePAM yes\nPasswordAuthentication yes\nPubkeyAuthentication no\n";
    let setup = with_people(
        "mkdir -p /run/sshd && usermod -p \"$(getent shadow alice | cut -d: -f2)\" root",
    );
    let sshd = Sshd::configured(lines, Some(&setup));
    let print = fingerprint(&sshd.host_key("ed25519"));
    let at = sshd.destination().to_string();
    let with = |password: Option<&str>, more: &[&str]| {
        let link = ["--agent", "/bin/cat", "--host-key", &print, "--ssh-config", "none"];
        let args = [&["inventory", at.as_str()], &link[..], more].concat();
        let mut command = command(&args);
        match password {
            Some(password) => command.env("SSHPASS", password),
            None => command.env_remove("SSHPASS"),
        };
        let said = said(&mut command);
        assert!(!format!("{}{}", said.out, said.err).contains("wren"), "{}{}", said.out, said.err);
        said
    };
    let (right, env) = (Some("wren under ivy"), &["--env-password"][..]);
    // Logged in: `cat` is no agent.
    assert_refused(&with(right, env), 71, &["can't understand the agent"]);
    assert_refused(&with(Some("staple"), env), 69, &["SSHPASS"]);
    assert_refused(&with(None, env), 67, &["--env-password", "SSHPASS is not set"]);
    let unasked = with(right, &[]);
    assert!([67, 69].contains(&unasked.code), "{} {}", unasked.code, unasked.err);
}

/// What lies at the usual places below the home directory: a `Host` of the configuration, the
/// machine's key and the operator's. Each is used, so that nothing of it need be given.
#[test]
fn the_usual_files_of_ssh() {
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    let config = format!("Host nas.invalid\n HostName 127.0.0.1\n Port {}\n", sshd.port);
    let host_key = sshd.host_key("ed25519").to_openssh().unwrap();
    let known = format!("{} {host_key}\n", sshd.destination().known_hosts_name());
    std::fs::write(ssh.join("config"), config).unwrap();
    std::fs::write(ssh.join("known_hosts"), known).unwrap();
    std::fs::copy(sshd.key(), ssh.join("id_ed25519")).unwrap();
    let inventory = || {
        let args = ["inventory", "nas.invalid", "--agent", "/bin/cat"];
        said(command(&args).env("HOME", home.path()))
    };
    // Logged in: `cat` is no agent.
    assert_refused(&inventory(), 71, &["can't understand the agent"]);
    for (name, code, words) in [
        ("config", 68, "nas.invalid"),
        ("known_hosts", 69, "is not known"),
        ("id_ed25519", 69, "no key to log in to"),
    ] {
        let (there, away) = (ssh.join(name), home.path().join(name));
        std::fs::rename(&there, &away).unwrap();
        assert_refused(&inventory(), code, &[words]);
        std::fs::rename(&away, &there).unwrap();
    }
}

/// `cat` sends our own hello back: not an agent, and nothing of it is left behind.
#[test]
fn what_is_no_agent_is_not_talked_to() {
    let store = store();
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let args = ["--agent", "/bin/cat", "--host-key", &print, "-i", &key];
    let said = install(&store, &sshd.destination().to_string(), &args);
    assert_refused(&said, 71, &["can't understand the agent"]);
    // As the machine sees it, where agents are put first. It removes this one when it has ended.
    let run = PathBuf::from(format!("/proc/{}/root/run", sshd.pid()));
    let left = || {
        let entries = std::fs::read_dir(&run).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let began = Instant::now();
    while left() != ["sshd"] {
        assert!(began.elapsed() < Duration::from_secs(20), "left behind: {:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What speaks for the agent says hello as one of another protocol version does, and listens: the
/// sentence names the end to update.
#[test]
fn an_agent_of_another_version_is_refused() {
    use keystone_protocol::{frame, version::PROTOCOL_VERSION};
    let store = store();
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let agent = sshd.dir.path().join("agent").display().to_string();
    for (theirs, update) in
        [(PROTOCOL_VERSION - 1, "update keystone-agent"), (PROTOCOL_VERSION + 1, "update keystone")]
    {
        let hello = format!(r#"{{"say":"hello","what":{{"protocol":{theirs},"more":[]}}}}"#);
        let framed = frame::encode_control(hello.as_bytes()).unwrap();
        let bytes: String = framed.0.iter().map(|byte| format!("{byte},")).collect();
        let source = format!(
            "#include <unistd.h>\nstatic const unsigned char hello[] = {{ {bytes} }};\n\
             int main(void) {{\n\
             char c;\n\
             if (write(1, hello, sizeof hello) != sizeof hello) return 1;\n\
             while (read(0, &c, 1) > 0) {{ }}\n\
             return 0;\n}}\n"
        );
        let file = format!("{agent}.c");
        std::fs::write(&file, source).unwrap();
        common::run(Command::new(tool("cc", "build-essential")).args(["-o", &agent, &file]));
        let args = ["--agent", &agent, "--host-key", &print, "-i", &key];
        let said = install(&store, &sshd.destination().to_string(), &args);
        let sentence = format!(
            "keystone-agent speaks protocol version {theirs}, keystone speaks {PROTOCOL_VERSION}: \
             {update}"
        );
        assert_refused(&said, 71, &[&sentence]);
        assert!(said.err.lines().any(|line| line.ends_with(update)), "{}", said.err);
    }
}

/// Shells complete every command, and each command has a manual page.
#[test]
fn completions_and_manual_pages() {
    let run = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_keystone")).args(args).output().unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        for word in ["install", "verify", "plan-hash"] {
            assert!(text.contains(word), "{shell} does not complete {word}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let ended = run(&["manual", dir.path().to_str().unwrap()]);
    assert!(ended.status.success(), "{ended:?}");
    let page = std::fs::read_to_string(dir.path().join("keystone-install.1")).unwrap();
    assert!(page.contains("recovery"), "{page}");
    let ended = run(&["manual", "/nonexistent"]);
    assert_eq!(ended.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("/nonexistent"));
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

/// The machine has one place on the command line, and two ways to be given.
#[test]
fn the_machine_by_either_way() {
    let inventory = |more: &[&str]| {
        let args = ["inventory", "--agent", "/bin/cat", "--ssh-config", "none"];
        keystone(&[&args[..], more].concat())
    };
    for (given, said) in [
        ("root@127.0.0.1:1", "127.0.0.1"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("root@[::1]:1", "::1"),
        ("[::1]:1", "::1"),
    ] {
        let said = format!("can't reach {said} on port 1");
        for words in [&[given][..], &["--target-host", given]] {
            assert_refused(&inventory(words), 68, &[&said]);
        }
    }
    // Without a port of its own the brackets say nothing more.
    for given in ["root@[::1]", "root@::1"] {
        let found = inventory(&["--target-host", given, "-p", "1"]);
        assert_refused(&found, 68, &["can't reach ::1 on port 1"]);
    }
    let both = inventory(&[NOWHERE, "--target-host", NOWHERE]);
    assert_refused(&both, 64, &["--target-host", "cannot be used with"]);
    assert_refused(&inventory(&[]), 64, &["which machine"]);
}

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
