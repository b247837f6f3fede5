//! The way to the machine: where it is, who it is, and who logs in.

use super::*;

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
