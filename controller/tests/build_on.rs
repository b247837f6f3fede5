//! Systems of flakes, built on the machine: a real sshd whose sessions see another `/nix` than
//! keystone does, and real Nix at both ends.

mod common;

use common::flake::{Place, has, said};
use common::sshd::{Sshd, with_people};
use keystone_controller::ssh::host_key::fingerprint;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SYSTEM: &str = "-nixos-system-nas-25.11";

/// Of the machine's Nix: it has neither users to build as nor a network.
const CONF: &str = "sandbox = false\nbuild-users-group =\nsubstitute = false\n";

/// A machine with a store of its own.
struct Machine {
    sshd: Sshd,
    nix: PathBuf,
}

impl Machine {
    fn new(place: &Place, rest: &str) -> Self {
        Self::configured(place, "", CONF, |mount| format!("{mount}{rest}"))
    }

    /// In the namespace that `setup` makes of what mounts the store.
    fn configured(
        place: &Place,
        lines: &str,
        nix_conf: &str,
        setup: impl FnOnce(&str) -> String,
    ) -> Self {
        let [nix, conf] = ["machine-nix", "machine-conf"].map(|name| place.dir.path().join(name));
        std::fs::create_dir_all("/nix").unwrap();
        std::fs::create_dir_all(&nix).unwrap();
        std::fs::create_dir_all(&conf).unwrap();
        let file = conf.join("nix.conf");
        std::fs::write(&file, nix_conf).unwrap();
        let lines = format!("{lines}\nSetEnv NIX_USER_CONF_FILES={}\n", file.display());
        let setup = setup(&format!("mount --bind {} /nix", nix.display()));
        Machine { sshd: Sshd::configured(&lines, Some(&setup)), nix }
    }

    fn has(&self, suffix: &str) -> bool {
        has(&self.nix, suffix)
    }

    fn port(&self) -> String {
        self.sshd.port.to_string()
    }

    /// `keystone install --build-on remote` there, with an agent that is none.
    fn install(&self, place: &Place, name: &str, more: &[&str]) -> (i32, String, String) {
        said(self.command(place, name, more).output().unwrap())
    }

    /// The same, to be run.
    fn command(&self, place: &Place, name: &str, more: &[&str]) -> Command {
        let key = self.sshd.key().display().to_string();
        let pin = fingerprint(&self.sshd.host_key("ed25519"));
        let port = self.port();
        let link = ["root@127.0.0.1", "-p", &port, "-i", &key, "--host-key", &pin];
        place.command("install", name, &[HERE, &link, &["--ssh-config", "none"], more].concat())
    }
}

const HERE: &[&str] = &["--build-on", "remote", "--agent", "/bin/cat", "--json"];

fn build_on(place: &Place, name: &str, more: &[&str]) -> (i32, String, String) {
    place.keystone("install", name, &[HERE, more].concat())
}

/// What is built is in the machine's store and in none here; what came back is a system that can be
/// installed, or the agent would not be brought; and nothing of it stays here.
#[track_caller]
fn assert_built_there(place: &Place, machine: &Machine, said: (i32, String, String)) {
    let (code, out, err) = said;
    assert_eq!(code, 71, "{out}{err}");
    assert!(machine.has(SYSTEM), "not built there: {out}{err}");
    assert!(place.built(&format!("{SYSTEM}.drv")), "not evaluated here");
    assert!(!place.built(SYSTEM), "built here");
    for word in ["the system is built on", "free for its store", "building '/nix/store/"] {
        assert!(out.contains(word), "{word} is not in {out}{err}");
    }
    let left: Vec<_> = std::fs::read_dir(place.dir.path().join("tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_machine_builds_and_the_result_comes_back() {
    let place = Place::new();
    let machine = Machine::new(&place, "");
    let said = machine.install(&place, "nas", &["-L"]);
    let out = said.1.clone();
    assert_built_there(&place, &machine, said);
    let store = format!("to 'ssh-ng://root@127.0.0.1:{}'", machine.port());
    for word in ["the builder speaks", &store] {
        assert!(out.contains(word), "{word} is not in {out}");
    }
    // What is there already is not built again.
    let (code, out, err) = machine.install(&place, "nas", &[]);
    assert_eq!(code, 71, "{out}{err}");
    assert!(!out.contains("building '/nix/store/"), "{out}");
}

/// Nix's way there is the connection that is there: an alias, a jump, another port, a password, and
/// root by sudo are no obstacles.
#[test]
fn by_an_alias_a_jump_a_password_and_sudo() {
    let place = Place::new();
    let lines = "UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication yes\n\
                 PubkeyAuthentication no";
    let machine = Machine::configured(&place, lines, CONF, |mount| {
        let rules = "printf 'Defaults env_keep += NIX_USER_CONF_FILES\\nroot ALL=(ALL) ALL\\n\
                     alice ALL=(ALL) ALL\\n' > /etc/sudoers";
        with_people(&format!("{rules} && mkdir -p /run/sshd && {mount}"))
    });
    let jump = Sshd::start();
    let at = |name: &str| place.dir.path().join(name);
    let known = format!(
        "[127.0.0.1]:{} {}\n[127.0.0.1]:{} {}\n",
        jump.port,
        jump.host_key("ed25519").to_openssh().unwrap(),
        machine.sshd.port,
        machine.sshd.host_key("ed25519").to_openssh().unwrap(),
    );
    std::fs::write(at("known_hosts"), known).unwrap();
    let config = format!(
        "Host nas\n  HostName 127.0.0.1\n  Port {}\n  User alice\n  ProxyJump way\n\
         Host way\n  HostName 127.0.0.1\n  Port {}\n  User root\n  IdentityFile {}\n\
         Host *\n  UserKnownHostsFile {}\n",
        machine.sshd.port,
        jump.port,
        jump.key().display(),
        at("known_hosts").display(),
    );
    std::fs::write(at("ssh_config"), config).unwrap();
    std::fs::write(at("password"), "wren under ivy\n").unwrap();
    let [config, password] = ["ssh_config", "password"].map(|name| at(name).display().to_string());
    let link = ["nas", "--ssh-config", &config, "--ssh-password-file", &password];
    assert_built_there(&place, &machine, build_on(&place, "nas", &link));
}

#[test]
fn a_machine_that_can_not_build_is_refused_before_anything_is() {
    let place = Place::new();
    let without = " && mount --bind /dev/null /usr/bin/nix-daemon";
    let machine = Machine::new(&place, without);
    let (code, out, err) = machine.install(&place, "nas", &[]);
    assert_eq!(code, 66, "{out}{err}");
    for word in ["127.0.0.1 has no nix-daemon", "--kexec", "leave --build-on out"] {
        assert!(err.contains(word), "{word} is not in {err}");
    }
    assert!(!place.built(&format!("{SYSTEM}.drv")), "evaluated for nothing");

    // Not the machine that is meant: nothing goes there.
    let other = Machine::new(&Place::new(), "");
    let pin = fingerprint(&machine.sshd.host_key("ed25519"));
    let key = other.sshd.key().display().to_string();
    let port = other.port();
    let link = ["root@127.0.0.1", "-p", &port, "-i", &key, "--ssh-config", "none"];
    let (code, out, err) = build_on(&place, "nas", &[&link[..], &["--host-key", &pin]].concat());
    assert_eq!(code, 69, "{out}{err}");
    let (code, out, err) = build_on(&place, "nas", &link);
    assert_eq!(code, 69, "a key that nobody knows: {out}{err}");
    assert!(!other.has(&format!("{SYSTEM}.drv")) && !other.has(SYSTEM));
}

#[test]
fn what_fails_there_is_said_here() {
    let place = Place::new();
    let machine = Machine::new(&place, "");
    let (code, out, err) = machine.install(&place, "broken", &[]);
    assert_eq!(code, 78, "{out}{err}");
    for word in ["building", "on root@127.0.0.1", "failed", "the compiler says why"] {
        assert!(err.contains(word), "{word} is not in {err}");
    }
    assert!(machine.has("-broken.drv"));

    // Nix there does not start at all.
    let place = Place::new();
    let machine = Machine::configured(&place, "", "sandbox = perhaps\n", str::to_owned);
    let (code, out, err) = machine.install(&place, "nas", &[]);
    assert_eq!(code, 78, "{out}{err}");
    assert!(err.contains("perhaps"), "{err}");
}

/// A builder's process that waits, of those below `sshd`; `None` once there is none.
fn waiting(sshd: &Sshd, within: Duration, wanted: bool) -> Option<u32> {
    let began = Instant::now();
    loop {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let sleeps = |&pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == b"sleep\x0030417\0" && ancestors(pid).contains(&sshd.pid())
        };
        let found = pids.into_iter().find(sleeps);
        if found.is_some() == wanted {
            return found;
        }
        assert!(began.elapsed() < within, "after {within:?}: {found:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A process's ancestors, nearest first.
fn ancestors(mut pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    while let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        match parent.and_then(|parent| parent.trim().parse().ok()) {
            Some(parent @ 1..) => pid = parent,
            _ => break,
        }
        all.push(pid);
    }
    all
}

fn signal(pid: u32, name: &str) {
    common::run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
}

/// Stopped, or without its connection, keystone ends and says so, and the machine builds no more.
#[test]
fn a_build_there_ends_with_the_operator_and_with_the_connection() {
    let place = Place::new();
    let machine = Machine::new(&place, "");
    let begin = || {
        let mut command = machine.command(&place, "slow", &[]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = child.spawn().unwrap();
        let builder = waiting(&machine.sshd, Duration::from_secs(60), true).unwrap();
        (child, builder)
    };
    let bound = Duration::from_secs(30);

    let (child, _) = begin();
    let began = Instant::now();
    signal(child.id(), "INT");
    let (code, out, err) = said(child.wait_with_output().unwrap());
    assert_eq!(code, 130, "{out}{err}");
    assert!(err.contains("was stopped; nothing was written"), "{err}");
    assert!(began.elapsed() < bound, "{:?}", began.elapsed());
    waiting(&machine.sshd, bound, false);

    let (child, builder) = begin();
    let began = Instant::now();
    // The connection's process is the one below the listener.
    let above = ancestors(builder);
    let listener = above.iter().position(|&pid| pid == machine.sshd.pid()).unwrap();
    signal(above[listener - 1], "KILL");
    let (code, out, err) = said(child.wait_with_output().unwrap());
    assert_eq!(code, 78, "{out}{err}");
    assert!(err.contains("the connection to 127.0.0.1 broke"), "{err}");
    while std::path::Path::new(&format!("/proc/{builder}")).exists() {
        assert!(began.elapsed() < bound, "it goes on building");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() < bound, "{:?}", began.elapsed());
    let left: Vec<_> = std::fs::read_dir(place.dir.path().join("tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Options that leave no machine to build on, before any is called or anything evaluated.
#[test]
fn where_no_machine_can_build() {
    let place = Place::new();
    let remote = ["--build-on", "remote"];
    let (code, _, err) = place.install("nas", &[&remote[..], &["--vm-test"]].concat());
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("--vm-test"), "{err}");
    let described = concat!(env!("CARGO_MANIFEST_DIR"), "/../planner/src/fixtures/machine.json");
    let inventory = ["--inventory", described];
    let (code, _, err) = place.keystone("plan", "nas", &[&remote[..], &inventory].concat());
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("no machine is called"), "{err}");
    assert!(!place.built(&format!("{SYSTEM}.drv")));
}

/// An installer that is to be booted is what builds: the phase kexec comes first.
#[test]
fn kexec_comes_before_the_build() {
    let place = Place::new();
    let [release, image] = ["os-release", "image.tar.gz"]
        .map(|name| place.dir.path().join(name).display().to_string());
    std::fs::write(&release, "VARIANT_ID=installer\n").unwrap();
    std::fs::write(&image, "").unwrap();
    let machine = Machine::new(&place, &format!(" && mount --bind {release} /etc/os-release"));
    let said = machine.install(&place, "nas", &["--kexec", &image]);
    let find = |words: &str| said.1.find(words);
    let at = |words: &str| find(words).unwrap_or_else(|| panic!("no {words} in {said:?}"));
    assert!(at("nothing to do for kexec") < at("the system is built on"));
    assert_built_there(&place, &machine, said);
}

/// With a daemon here, as on NixOS and macOS, an operator whom it does not trust.
#[test]
fn no_daemon_here_has_to_trust_the_operator() {
    let place = Place::new();
    let machine = Machine::new(&place, "");
    let at = |name: &str| place.dir.path().join(name);
    // What a user gets at: the place, but no directory of root's.
    let program = at("keystone");
    std::fs::copy(env!("CARGO_BIN_EXE_keystone"), &program).unwrap();
    let key = at("home/id");
    std::fs::copy(machine.sshd.key(), &key).unwrap();
    let script = r#"umask 022; mkdir -p /nix && mount --bind nix /nix || exit 120
        nix-daemon </dev/null >daemon.log 2>&1 & daemon=$!
        trap 'kill $daemon' 0
        for try in $(seq 100); do
          [ -S /nix/var/nix/daemon-socket/socket ] && break; sleep 0.1
        done
        chmod 711 . && chown -R 65534 home tmp && export NIX_REMOTE=daemon
        user="setpriv --reuid 65534 --regid 65534 --clear-groups"
        $user "$@"; status=$?
        # It does distrust: what was built there, unsigned, does not get into its store.
        there='mount --bind machine-nix /nix; NIX_REMOTE= exec nix-store --export /nix/store/*-etc'
        unshare --mount sh -ec "$there" >exported || exit 121
        $user nix-store --import <exported >import.log 2>&1 && exit 122
        grep -q "signature" import.log || exit 123
        exit $status"#;
    let pin = fingerprint(&machine.sshd.host_key("ed25519"));
    let flake = format!("{}#nas", at("flake").display());
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&program)
        .args(["install", "--flake", &flake, "root@127.0.0.1", "-p", &machine.port()])
        .args(["--host-key", &pin, "--ssh-config", "none", "-i"])
        .arg(&key)
        .args(HERE)
        .env("HOME", at("home"))
        .env("TMPDIR", at("tmp"))
        .env("NIX_CONFIG", CONF)
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    assert_built_there(&place, &machine, said(output));
}

/// A computer of another kind is told of the way out, and takes it.
#[test]
fn another_platform_here_is_no_obstacle() {
    let place = Place::new();
    let file = place.dir.path().join("flake/flake.nix");
    let text = std::fs::read_to_string(&file).unwrap();
    // For this computer's Nix a system of that name is foreign; for the machine's it is its own.
    std::fs::write(&file, text.replace("x86_64-linux\";", "armv7l-linux\";")).unwrap();
    let (code, out, err) = place.install("nas", &[]);
    assert_eq!(code, 78, "{out}{err}");
    assert!((out + &err).contains("with --build-on remote the machine does"), "{err}");
    let conf = format!("{CONF}system = armv7l-linux\n");
    let machine = Machine::configured(&place, "", &conf, str::to_owned);
    let said = machine.install(&place, "nas", &[]);
    assert_built_there(&place, &machine, said);
}

/// What is kept here meanwhile is in `TMPDIR`.
#[test]
fn a_directory_for_temporary_files_that_can_not_be_used_is_named() {
    let place = Place::new();
    let machine = Machine::new(&place, "");
    let mut command = machine.command(&place, "nas", &[]);
    let (code, out, err) = said(command.env("TMPDIR", "/dev/null/no").output().unwrap());
    let text = out + &err;
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("name another one in TMPDIR"), "{text}");
}
