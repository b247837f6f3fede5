//! The SSH configuration as OpenSSH itself reads it: `ssh -G` is the judge.

mod common;

use keystone_controller::ssh::config::{Asked, Files, Proxy, Settings, Sources};
use keystone_controller::ssh::route::Given;
use keystone_controller::ssh::{NoPrompt, Via};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn whoami() -> String {
    common::run(Command::new("id").arg("-un")).trim().to_owned()
}

fn ours(file: &Path, host: &str, options: &[&str]) -> Result<Settings, String> {
    let sources = Sources {
        options: options.iter().map(|&option| option.to_owned()).collect(),
        files: Files::Only(file.to_owned()),
    };
    let user = whoami();
    let asked = Asked { host, user: None, port: None, default_user: &user };
    sources.settings(&asked).map_err(|error| error.to_string())
}

/// What `ssh -G` prints; `None` where it refuses the file.
fn theirs(file: &Path, host: &str, options: &[&str]) -> Option<BTreeMap<String, Vec<String>>> {
    let mut command = Command::new(common::tool("ssh", "openssh-client"));
    command.arg("-F").arg(file).arg("-G");
    for option in options {
        command.arg("-o").arg(option);
    }
    let output = command.arg(host).output().unwrap();
    if !output.status.success() {
        return None;
    }
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        map.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Some(map)
}

/// Ours in the words of `ssh -G`, and its defaults where nothing is set.
fn in_their_words(ours: &Settings) -> BTreeMap<&'static str, Vec<String>> {
    let yes = |set: Option<bool>, default: bool| {
        vec![if set.unwrap_or(default) { "yes" } else { "no" }.to_owned()]
    };
    let mut map = BTreeMap::new();
    map.insert("hostname", ours.host_name.iter().cloned().collect());
    map.insert("user", vec![ours.user.clone().unwrap_or_else(whoami)]);
    map.insert("port", vec![ours.port.unwrap_or(22).to_string()]);
    if !ours.identity_files.is_empty() {
        map.insert("identityfile", ours.identity_files.clone());
    }
    map.insert("certificatefile", ours.certificate_files.clone());
    map.insert("identitiesonly", yes(ours.identities_only, false));
    map.insert("identityagent", ours.identity_agent.iter().cloned().collect());
    map.insert("hostkeyalias", ours.host_key_alias.iter().cloned().collect());
    map.insert("batchmode", yes(ours.batch_mode, false));
    map.insert("passwordauthentication", yes(ours.password_authentication, true));
    map.insert("kbdinteractiveauthentication", yes(ours.kbd_interactive_authentication, true));
    let timeout = ours.connect_timeout.map_or("none".into(), |t| t.as_secs().to_string());
    map.insert("connecttimeout", vec![timeout]);
    let family = format!("{:?}", ours.address_family.unwrap_or_default()).to_lowercase();
    map.insert("addressfamily", vec![family]);
    let prompts = ours.number_of_password_prompts.unwrap_or(3);
    map.insert("numberofpasswordprompts", vec![prompts.to_string()]);
    map.insert(
        "preferredauthentications",
        ours.preferred_authentications.iter().map(|methods| methods.join(",")).collect(),
    );
    let (jump, command) = match &ours.proxy {
        Some(Proxy::Jump(jump)) => (vec![jump.clone()], vec![]),
        Some(Proxy::Command(command)) => (vec![], vec![command.clone()]),
        _ => (vec![], vec![]),
    };
    map.insert("proxyjump", jump);
    map.insert("proxycommand", command);
    if let Some(files) = &ours.user_known_hosts_files
        && !files.is_empty()
    {
        map.insert("userknownhostsfile", vec![files.join(" ")]);
    }
    map
}

#[track_caller]
fn agree(text: &str, file: &Path, host: &str, options: &[&str]) {
    std::fs::write(file, text).unwrap();
    let theirs = theirs(file, host, options);
    let ours = ours(file, host, options);
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => {
            for (key, values) in in_their_words(ours) {
                let expected = theirs.get(key).cloned().unwrap_or_default();
                assert_eq!(values, expected, "{key} of {host} with {options:?} in:\n{text}");
            }
        }
        (Err(_), None) => {}
        _ => panic!("{host} with {options:?}: ours {ours:?}, theirs {theirs:?}, in:\n{text}"),
    }
}

const CASES: &[&str] = &[
    "Host a b\n User x\nHost *\n User y\n Port 23\n",
    "Host !a *\n User x\nHost a\n Port=2200\n",
    "Host a\n HostName %h.lab.example\n IdentityFile ~/.ssh/one\n IdentityFile \"/k/two three\"\n",
    "Host a\n\tHostName=10.0.0.5 # the machine\n\tUser \"some one\"\nPort 22\n",
    "Host a\n ProxyJump gw\nHost *\n ProxyCommand nc %h %p\n",
    "Host a\n ProxyCommand nc -x \"p q\" %h %p # not a comment\n ProxyJump none\n",
    "ProxyJump none\nHost a\n ProxyJump u@gw:2222,other\n",
    "ProxyJump u@gw:2222,other\n",
    "Match host a\n User x\nMatch all\n Port 44\n",
    "Match host *.example,!c.example user root\n Port 44\n",
    "Match originalhost a,b !user nobody\n HostKeyAlias alias\n",
    "Host a\n HostName target\nMatch host target\n User late\nMatch host a\n User early\n",
    "Match final host target\n Port 99\nHost a\n HostName target\nHost target\n User twice\n",
    "Match final all\n Port 99\n",
    "Match !final host a\n Port 98\n",
    "Match canonical all\n Port 98\n",
    "Match localuser root,nobody\n IdentitiesOnly yes\n",
    "UserKnownHostsFile /a /b\nUserKnownHostsFile /c\nIdentityAgent none\n",
    "CertificateFile /c1\nCertificateFile /c2\nConnectTimeout 1m30s\nAddressFamily inet6\n",
    "PreferredAuthentications password,publickey\nNumberOfPasswordPrompts 1\nBatchMode yes\n",
    "ChallengeResponseAuthentication no\nPasswordAuthentication no\n",
    "ControlMaster auto\nForwardAgent yes\nSendEnv LANG LC_*\nServerAliveInterval 5\nHost *\n",
    "IgnoreUnknown Use*\nUseKeychain yes\nHost a\n User x\n",
    "UseKeychain yes\n",
    "Host\n",
    "Port none\n",
    "Port 70000\n",
    "Port\n",
    "User a b\n",
    "Host \"a\n",
    "BatchMode perhaps\n",
    "Match all host a\n",
    "Match\n",
    "Match host\n",
    "Match nonsense a\n Port 3\n",
    "ConnectTimeout soon\n",
    "",
];

#[test]
fn every_case_is_read_as_openssh_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    for text in CASES {
        for host in ["a", "b", "c.example", "target", "::1"] {
            agree(text, &file, host, &[]);
        }
        agree(text, &file, "a", &["Port=7", "User = me", "ProxyJump=none", "HostName h2"]);
    }
}

#[test]
fn includes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("1.inc"), "Host b\n Port 2\nHost a\n User included\n").unwrap();
    std::fs::write(at("2.inc"), "Port 5\n").unwrap();
    std::fs::write(at("loop.inc"), format!("Include {}\n", at("loop.inc").display())).unwrap();
    let d = dir.path().display();
    for text in [
        format!("Include {d}/*.none {d}/1.inc {d}/2.inc\nUser after\n"),
        format!("Host a\n Include {d}/[12].inc\n User after\nHost *\n Port 9\n"),
        format!("Host z\n Include {d}/1.inc\n User not\nHost *\n User all\n"),
        format!("Include {d}/loop.inc\n"),
        "Include\n".into(),
    ] {
        for host in ["a", "b", "c"] {
            agree(&text, &at("config"), host, &[]);
        }
    }
}

fn any_line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a", "b", "?", "*", "!a", "!b", "a.lab", "*.lab", "a*", "!*.lab", "A",
    ]);
    let names = prop::collection::vec(name, 1..4);
    prop_oneof![
        3 => names.clone().prop_map(|names| format!("Host {}", names.join(" "))),
        1 => names.clone().prop_map(|names| format!("Match host {}", names.join(","))),
        1 => names.prop_map(|names| format!("Match originalhost {} user x", names.join(","))),
        1 => Just("Match all".to_owned()),
        1 => Just("Match final all".to_owned()),
        8 => prop::sample::select(vec![
            "User x", "User \"y z\"", "  user=x", "Port 23", "port = 24", "HostName a.lab",
            "HostName %h.lab", "HostName x%%y", "IdentityFile ~/.ssh/k", "IdentityFile /k/%h",
            "IdentityFile '/k/a b'", "IdentitiesOnly yes", "IdentitiesOnly no",
            "IdentityAgent /run/agent", "CertificateFile /k/c", "HostKeyAlias one",
            "ProxyJump gw", "ProxyJump none", "ProxyCommand nc %h %p", "ProxyCommand none",
            "UserKnownHostsFile /k/1 /k/2", "ConnectTimeout 7", "# Port 1", "", "BatchMode yes",
            "AddressFamily inet", "PasswordAuthentication no", "Compression yes",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read_as_openssh_reads_it(
        lines in prop::collection::vec(any_line(), 1..12),
        host in prop::sample::select(vec!["a", "b", "a.lab", "b.lab"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        agree(&lines.join("\n"), &dir.path().join("config"), host, &[]);
    }
}

#[test]
fn what_can_not_be_done_is_refused_where_it_applies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ours(&file, "a", &[]).unwrap_err()
    };
    let error = refused("Host b\n BindAddress 10.0.0.1\nHost a\n\n BindAddress 10.0.0.1\n");
    assert!(error.contains("config line 5") && error.contains("bindaddress"), "{error}");
    let error = refused("Match host a exec \"true\"\n");
    assert!(error.contains("Match exec") && error.contains("--ssh-config"), "{error}");
    // Not asked where another criterion decides.
    std::fs::write(&file, "Match host b exec \"true\"\n").unwrap();
    ours(&file, "a", &[]).unwrap();
    std::fs::write(&file, "ProxyUseFdpass no\nCanonicalizeHostname no\n").unwrap();
    ours(&file, "a", &[]).unwrap();

    let option = |text: &str| ours(&file, "a", &[text]).unwrap_err();
    for (text, words) in [
        ("StrictHostKeyChecking=no", "--host-key"),
        ("ForwardAgent=yes", "does nothing"),
        ("Colour=green", "no SSH option colour"),
        ("Port=x", "not a number"),
        ("", "empty"),
    ] {
        let error = option(text);
        assert!(error.contains(words) && error.contains("--ssh-option"), "{error}");
    }
    ours(&file, "a", &["StrictHostKeyChecking=yes"]).unwrap();
    let error = ours(Path::new("/nonexistent/config"), "a", &[]).unwrap_err();
    assert!(error.contains("/nonexistent/config"), "{error}");
}

#[test]
fn tokens_of_a_proxy_command_are_replaced_as_openssh_does() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("config"), dir.path().join("out"));
    let tokens = "%h %n %p %r %%";
    let text = format!(
        "Host a\n HostName %h.lab\n User x\n Port 77\n HostKeyAlias known\n \
         ProxyCommand sh -c 'echo \"$0\" > {}' \"{tokens}\"\n",
        out.display()
    );
    std::fs::write(&file, text).unwrap();
    // It brings no connection, and has written by then what it was given.
    let status = Command::new(common::tool("ssh", "openssh-client"))
        .args(["-F", file.to_str().unwrap(), "-o", "BatchMode=yes", "a"])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    let theirs = std::fs::read_to_string(&out).unwrap();

    let mut given = Given::nothing(Arc::new(NoPrompt));
    given.sources.files = Files::Only(file);
    let (destination, options) = given.resolve(&"a".parse().unwrap()).unwrap();
    assert_eq!(destination.to_string(), "x@a:77");
    let Via::Command(command) = options.via else { panic!("{options:?}") };
    std::fs::remove_file(&out).unwrap();
    common::run(Command::new("/bin/sh").arg("-c").arg(command));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), theirs);
    assert!(theirs.starts_with("a.lab a 77 x "), "{theirs}");
}

#[test]
fn jumps_are_chained_as_written_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let text = "Host target\n ProxyJump one,two@b:24\nHost one\n HostName a\n ProxyJump zero\n\
                Host round\n ProxyJump about\nHost about\n ProxyJump round\n\
                Host self*\n ProxyJump selfgw\nHost bad\n ProxyJump \"\n";
    std::fs::write(&file, text).unwrap();
    let mut given = Given::nothing(Arc::new(NoPrompt));
    given.sources.files = Files::Only(file);
    let resolve = |host: &str| given.resolve(&host.parse().unwrap());

    let (destination, options) = resolve("target").unwrap();
    assert_eq!((destination.to_string(), options.hops()), ("root@target".into(), 3));
    let mut chain = Vec::new();
    let mut via = &options.via;
    while let Via::Jump(hop) = via {
        chain.push(hop.destination.to_string());
        via = &hop.connect.via;
    }
    let me = whoami();
    assert_eq!(chain, ["two@b:24".to_owned(), format!("{me}@one"), format!("{me}@zero")]);
    // The jump host is meant by its own pattern, and is not reached through itself.
    assert_eq!(resolve("self1").unwrap().1.hops(), 1);
    let error = resolve("round").unwrap_err();
    assert!(error.to_string().contains("more than 8 machines"), "{error}");
    let error = resolve("bad").unwrap_err();
    assert!(error.to_string().contains("ProxyJump"), "{error}");
}
