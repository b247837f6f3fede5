//! Help, wrong words, completions, manual pages, and the exit codes of `verify`.

use super::*;

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
