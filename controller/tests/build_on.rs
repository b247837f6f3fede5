//! Systems of flakes, built on the machine: a real sshd whose sessions see another `/nix` than
//! keystone does, and real Nix at both ends.

mod common;

use common::flake::{Place, has};
use common::sshd::{Sshd, with_people};
use keystone_controller::ssh::host_key::fingerprint;
use std::path::PathBuf;

const SYSTEM: &str = "-nixos-system-nas-25.11";

/// A machine with a store of its own.
struct Machine {
    sshd: Sshd,
    nix: PathBuf,
}

impl Machine {
    fn new(place: &Place, rest: &str) -> Self {
        Self::configured(place, "", "sandbox = false\nbuild-users-group =\nsubstitute = false\n", |s| {
            format!("{s}{rest}")
        })
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
        std::fs::write(conf.join("nix.conf"), nix_conf).unwrap();
        let lines = format!("{lines}\nSetEnv NIX_USER_CONF_FILES={}\n", conf.join("nix.conf").display());
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
        let key = self.sshd.key().display().to_string();
        let pin = fingerprint(&self.sshd.host_key("ed25519"));
        let port = self.port();
        let link = ["root@127.0.0.1", "-p", &port, "-i", &key, "--host-key", &pin];
        build_on(place, name, &[&link[..], &["--ssh-config", "none"], more].concat())
    }
}

fn build_on(place: &Place, name: &str, more: &[&str]) -> (i32, String, String) {
    let here = ["--build-on", "remote", "--agent", "/bin/cat", "--json"];
    place.keystone("install", name, &[&here, more].concat())
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
    let conf = "sandbox = false\nbuild-users-group =\nsubstitute = false\n";
    let machine = Machine::configured(&place, lines, conf, |mount| {
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
    let conf = "sandbox = false\nbuild-users-group =\nsubstitute = false\nsystem = armv7l-linux\n";
    let machine = Machine::configured(&place, "", conf, str::to_owned);
    let said = machine.install(&place, "nas", &[]);
    assert_built_there(&place, &machine, said);
}
