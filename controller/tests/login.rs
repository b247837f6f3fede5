//! Logging in as people do: passwords, questions, certificates, agents, through other machines;
//! and becoming root afterwards. A real sshd, real PAM, real sudo and doas.

mod common;
mod token;

use common::agent;
use common::sshd::{Sshd, identities, keygen, with_people};
use keystone_controller::ssh::config::Files;
use keystone_controller::ssh::exec::Exit;
use keystone_controller::ssh::login::Given as GivenPassword;
use keystone_controller::ssh::route::Given;
use keystone_controller::ssh::{
    ConnectOptions, Destination, HostKeyPolicy, Identities, Login, NoPrompt, Prompt, Question,
    Session, SshError,
};
use keystone_controller::upload::{RemoteAgent, Trail};
use keystone_controller::verify::{Expected, verify};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use token::User;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

const BOUND: Duration = Duration::from_secs(30);

#[track_caller]
fn assert_says(error: &SshError, words: &[&str]) {
    for word in words {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

/// Gives its answers in order, and keeps what it was asked.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(Vec<&'static str>, Vec<String>)>>);

impl Script {
    fn new(answers: &[&'static str]) -> Self {
        let mut answers = answers.to_vec();
        answers.reverse();
        Script(Arc::new(Mutex::new((answers, Vec::new()))))
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Prompt for Script {
    fn available(&self) -> bool {
        true
    }

    fn ask(&self, question: &Question<'_>) -> Option<Zeroizing<String>> {
        let mut script = self.0.lock().unwrap();
        script.1.push(format!("{question:?}"));
        script.0.pop().map(|answer| Zeroizing::new(answer.to_owned()))
    }
}

fn at(sshd: &Sshd, user: &str) -> Destination {
    Destination { user: user.into(), ..sshd.destination() }
}

/// Without any key.
fn keyless(sshd: &Sshd, login: Login) -> ConnectOptions {
    ConnectOptions {
        identities: Identities::with_listed(&[], Some(&[]), Arc::new(NoPrompt)).with_agent(None),
        login,
        ..sshd.options()
    }
}

fn given(password: &str) -> Option<GivenPassword> {
    Some(GivenPassword { password: Zeroizing::new(password.into()), from: "a test".into() })
}

async fn whoami(session: &Session) -> String {
    let out = session.script("asking who", "id -un", BOUND).await.unwrap();
    String::from_utf8(out).unwrap().trim().to_owned()
}

#[tokio::test]
async fn by_password() {
    let sshd = Sshd::configured(
        "UsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n",
        Some(&with_people("true")),
    );
    let alice = at(&sshd, "alice");
    // Typed, the second time right; then not asked for again.
    let script = Script::new(&["wrong", "wren under ivy"]);
    let options = keyless(&sshd, Login::new(Arc::new(script.clone())));
    let session = Session::connect(&alice, &options).await.unwrap();
    assert_eq!(whoami(&session).await, "alice");
    assert_eq!(script.asked().len(), 2);
    assert!(script.asked()[1].contains("again: true"), "{:?}", script.asked());
    Session::connect(&alice, &options.without_prompt()).await.unwrap();
    assert_eq!(script.asked().len(), 2);

    // Given.
    let login = Login::default().with_password(given("wren under ivy"));
    Session::connect(&alice, &keyless(&sshd, login)).await.unwrap();
    let login = Login::default().with_password(given("nonsense"));
    let error = Session::connect(&alice, &keyless(&sshd, login)).await.unwrap_err();
    assert_says(&error, &["alice@127.0.0.1", "password (of a test)", "offers publickey, password"]);
    assert!(!error.to_string().contains("nonsense"), "{error}");

    // Three times wrong; and nobody to ask.
    let script = Script::new(&["1", "2", "3", "wren under ivy"]);
    let login = Login::new(Arc::new(script.clone()));
    let error = Session::connect(&alice, &keyless(&sshd, login)).await.unwrap_err();
    assert_eq!(script.asked().len(), 3);
    assert_says(&error, &["password (typed), password (typed), password (typed)"]);
    let error = Session::connect(&alice, &keyless(&sshd, Login::default())).await.unwrap_err();
    assert_says(&error, &["none could be tried", "--ssh-password-file"]);
}

#[tokio::test]
async fn by_the_machines_questions() {
    let sshd = Sshd::configured(
        "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes\n",
        Some(&with_people("true")),
    );
    let alice = at(&sshd, "alice");
    let script = Script::new(&["wrong", "wren under ivy"]);
    let login = Login::new(Arc::new(script.clone()));
    let session = Session::connect(&alice, &keyless(&sshd, login)).await.unwrap();
    assert_eq!(whoami(&session).await, "alice");
    let asked = script.asked();
    assert!(asked.len() == 2 && asked[0].contains("Password: "), "{asked:?}");
    assert!(asked[0].contains("echo: false"), "{asked:?}");

    let login = Login::default().with_password(given("wren under ivy"));
    Session::connect(&alice, &keyless(&sshd, login)).await.unwrap();
    let login = Login::default().with_password(given("wrong"));
    let error = Session::connect(&alice, &keyless(&sshd, login)).await.unwrap_err();
    assert_says(&error, &["keyboard-interactive (of a test)"]);
}

#[tokio::test]
async fn a_key_and_a_password_where_both_are_asked() {
    let sshd = Sshd::configured(
        "UsePAM yes\nPasswordAuthentication yes\nAuthenticationMethods publickey,password\n",
        Some(&with_people("true")),
    );
    let login = Login::default().with_password(given("wren under ivy"));
    let options = ConnectOptions { login, ..sshd.options() };
    Session::connect(&at(&sshd, "alice"), &options).await.unwrap();
    let options = ConnectOptions { login: Login::default(), ..sshd.options() };
    let error = Session::connect(&at(&sshd, "alice"), &options).await.unwrap_err();
    assert_says(&error, &["accepted, but more is asked", "offers password"]);
}

/// Signs `key` (its public half) as `principals`; `more` are options of ssh-keygen.
fn certify(authority: &Path, key: &Path, principals: &str, more: &[&str]) {
    common::run(
        Command::new(common::tool("ssh-keygen", "openssh-client"))
            .args(["-q", "-s"])
            .arg(authority)
            .args(["-I", "test", "-n", principals])
            .args(more)
            .arg(key.with_extension("pub")),
    );
}

#[tokio::test]
async fn by_certificate() {
    let sshd = Sshd::configured("TrustedUserCAKeys DIR/ca.pub\nAuthorizedKeysFile none\n", None);
    let dir = sshd.dir.path();
    let ca = dir.join("ca");
    keygen(&ca, "ed25519", "");
    let destination = sshd.destination();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = dir.join(format!("certified_{kind}"));
        keygen(&key, kind, "");
        let mut options = sshd.options();
        options.identities = identities(std::slice::from_ref(&key));
        Session::connect(&destination, &options).await.unwrap_err();
        // Beside the key.
        certify(&ca, &key, &destination.user, &[]);
        Session::connect(&destination, &options).await.unwrap();
        // Elsewhere.
        let beside = dir.join(format!("certified_{kind}-cert.pub"));
        let elsewhere = dir.join("elsewhere.pub");
        std::fs::rename(&beside, &elsewhere).unwrap();
        Session::connect(&destination, &options).await.unwrap_err();
        options.identities =
            identities(std::slice::from_ref(&key)).with_certificates(vec![elsewhere.clone()]);
        Session::connect(&destination, &options).await.unwrap();
        // The key only in an agent; and the certificate there too.
        for both in [false, true] {
            if both {
                std::fs::rename(&elsewhere, &beside).unwrap();
            }
            let agent = Agent::with(dir, &key);
            let only_certificate = if both { vec![] } else { vec![elsewhere.clone()] };
            options.identities = Identities::with_listed(&[], Some(&[]), Arc::new(NoPrompt))
                .with_agent(Some(agent.socket.clone()))
                .with_certificates(only_certificate);
            Session::connect(&destination, &options)
                .await
                .unwrap_or_else(|e| panic!("{kind}, certificate in the agent: {both}: {e}"));
        }
    }
}

struct Agent {
    child: Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn with(dir: &Path, key: &Path) -> Self {
        let socket = dir.join("agent");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(common::tool("ssh-agent", "openssh-client"))
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Agent { child, socket };
        while !common::listens(&agent.socket) {
            std::thread::sleep(Duration::from_millis(20));
        }
        agent.add(key);
        agent
    }

    fn add(&self, key: &Path) {
        let mut add = Command::new("ssh-add");
        common::run(add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The key is one that software makes; whether what it signs is a FIDO key's, sshd says.
#[tokio::test]
async fn by_a_security_key_in_an_agent() {
    let sshd = Sshd::configured("", None);
    let dir = sshd.dir.path();
    let mut options = sshd.options();
    let mut login = async |name: &str, user: User| {
        let token = token::start(&dir.join(name), [7; 32], user);
        std::fs::write(dir.join("authorized_keys"), format!("{}\n", token.authorized)).unwrap();
        options.identities = Identities::with_listed(&[], Some(&[]), Arc::new(NoPrompt))
            .with_agent(Some(token.socket.clone()));
        Session::connect(&sshd.destination(), &options).await
    };
    login("touched", User::Present).await.unwrap();
    // sshd wants the touch, unless told otherwise: it did look at the signature.
    let error = login("not touched", User::Unasked).await.unwrap_err();
    assert_says(&error, &["token (agent)"]);
}

#[tokio::test]
async fn a_full_agent_does_not_use_up_the_machines_patience() {
    let sshd = Sshd::configured("MaxAuthTries 3\n", None);
    let dir = sshd.dir.path();
    let stranger = dir.join("stranger0");
    keygen(&stranger, "ed25519", "");
    let agent = Agent::with(dir, &stranger);
    for number in 1..6 {
        let stranger = dir.join(format!("stranger{number}"));
        keygen(&stranger, "ed25519", "");
        agent.add(&stranger);
    }
    let mut options = sshd.options();
    // What was named comes first.
    options.identities = identities(&[sshd.key()]).with_agent(Some(agent.socket.clone()));
    Session::connect(&sshd.destination(), &options).await.unwrap();
    // What is only listed comes last, too late; unless only what is listed counts.
    let listed = Identities::with_listed(&[], Some(&[sshd.key()]), Arc::new(NoPrompt))
        .with_agent(Some(agent.socket.clone()));
    options.identities = listed.clone();
    let error = Session::connect(&sshd.destination(), &options).await.unwrap_err();
    assert_says(&error, &["ended the connection", "-i", "IdentitiesOnly", "test (agent)"]);
    options.identities = listed.only_files(true);
    Session::connect(&sshd.destination(), &options).await.unwrap();
}

#[tokio::test]
async fn a_host_known_by_its_certificate() {
    let certified = "HostCertificate DIR/host_ed25519-cert.pub\n";
    let mut sshd = Sshd::configured(certified, None);
    let dir = sshd.dir.path().to_owned();
    let ca = dir.join("ca");
    keygen(&ca, "ed25519", "");
    let known = dir.join("known_hosts");
    let authority = std::fs::read_to_string(ca.with_extension("pub")).unwrap();
    std::fs::write(&known, format!("@cert-authority [127.0.0.*]:* {authority}")).unwrap();
    let mut options = sshd.options();
    options.host_key =
        HostKeyPolicy { known_hosts: vec![known.clone()], ..HostKeyPolicy::default() };
    let destination = sshd.destination();

    // It has none yet: its key is not known.
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert!(matches!(error, SshError::UnknownHostKey { .. }), "{error}");

    let key = dir.join("host_ed25519");
    for (principals, more, why) in [
        ("127.0.0.1,nas", &["-h"][..], None),
        ("127.0.0.?", &["-h", "-V", "-1h:+1h"], None),
        ("nas", &["-h"], Some("it is for nas")),
        ("127.0.0.1", &["-h", "-V", "-2h:-1h"], Some("expired")),
        ("127.0.0.1", &["-h", "-V", "+1h:+2h"], Some("not valid yet")),
    ] {
        certify(&ca, &key, principals, more);
        sshd.restart();
        let connected = Session::connect(&destination, &options).await;
        match (connected, why) {
            (Ok(session), None) => {
                assert_eq!(session.host_key().key_data(), sshd.host_key("ed25519").key_data());
            }
            (Err(error), Some(why)) => assert_says(&error, &[why, "certificate of"]),
            (other, why) => panic!("{principals} {more:?}: {other:?}, expected {why:?}"),
        }
    }
    // Another authority's; then the key itself counts, as with OpenSSH.
    let other = dir.join("other");
    keygen(&other, "ed25519", "");
    certify(&other, &key, "127.0.0.1", &["-h"]);
    sshd.restart();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert!(matches!(error, SshError::UnknownHostKey { .. }), "{error}");
    let line = format!(
        "{} {}\n@cert-authority * {authority}",
        destination.known_hosts_name(),
        sshd.host_key("ed25519").to_openssh().unwrap()
    );
    std::fs::write(&known, line).unwrap();
    Session::connect(&destination, &options).await.unwrap();
    // A revoked authority.
    certify(&ca, &key, "127.0.0.1", &["-h"]);
    sshd.restart();
    std::fs::write(&known, format!("@revoked * {authority}@cert-authority * {authority}")).unwrap();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["revoked"]);
}

/// With an SSH configuration and nothing else.
fn configured(dir: &Path, text: &str) -> Given {
    let file = dir.join("ssh_config");
    std::fs::write(&file, text).unwrap();
    let mut given = Given::nothing(Arc::new(NoPrompt));
    given.sources.files = Files::Only(file);
    given
}

fn record(known: &Path, name: &str, sshd: &Sshd) {
    let key = sshd.host_key("ed25519").to_openssh().unwrap();
    let text = std::fs::read_to_string(known).unwrap_or_default();
    std::fs::write(known, format!("{text}{name} {key}\n")).unwrap();
}

#[tokio::test]
async fn through_other_machines() {
    let (gate, inner, target) = (Sshd::start(), Sshd::start(), Sshd::start());
    let dir = target.dir.path();
    let known = dir.join("known");
    let user = target.destination().user;
    let text = format!(
        "Host gate\n Port {}\n IdentityFile {}\nHost inner\n Port {}\n IdentityFile {}\n\
         Host target\n Port {}\n IdentityFile {}\n User {user}\n ProxyJump gate,inner\n\
         Host *\n HostName 127.0.0.1\n IdentityAgent none\n \
         UserKnownHostsFile {}\n GlobalKnownHostsFile none\n",
        gate.port,
        gate.key().display(),
        inner.port,
        inner.key().display(),
        target.port,
        target.key().display(),
        known.display()
    );
    let given = configured(dir, &text);
    let (destination, options) = given.resolve(&"target".parse().unwrap()).unwrap();
    // Each machine's key is checked, in the order of the way.
    for sshd in [&gate, &inner, &target] {
        let error = Session::connect(&destination, &options).await.unwrap_err();
        let name = format!("[127.0.0.1]:{}", sshd.port);
        let SshError::UnknownHostKey { host, key } = &error else { panic!("{error}") };
        assert_eq!((host, key.key_data()), (&name, sshd.host_key("ed25519").key_data()));
        record(&known, &name, sshd);
    }
    let session = Session::connect(&destination, &options).await.unwrap();
    assert_eq!(session.destination().to_string(), format!("{user}@target:{}", target.port));
    let data = vec![7u8; 3_000_000];
    let back = session.output("echoing", "cat", data.clone(), data.len(), BOUND).await.unwrap();
    assert!(back.stdout == data && back.exit == Exit::Status(0));
    session.disconnect().await;

    // Nobody listens behind the last machine on the way.
    let mut nowhere = destination.clone();
    nowhere.port = 1;
    let error = Session::connect(&nowhere, &options).await.unwrap_err();
    assert_says(&error, &["inner", "does not reach 127.0.0.1 on port 1"]);

    // A changed key on the way.
    std::fs::write(&known, "").unwrap();
    for sshd in [&inner, &target] {
        record(&known, &format!("[127.0.0.1]:{}", sshd.port), sshd);
    }
    record(&known, &format!("[127.0.0.1]:{}", gate.port), &target);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["has changed", &gate.port.to_string()]);
}

#[tokio::test]
async fn through_a_program() {
    let (gate, target) = (Sshd::start(), Sshd::start());
    let dir = target.dir.path();
    let known = dir.join("known");
    let user = target.destination().user;
    let start = |command: &str| {
        let text = format!(
            "Host target\n HostName 127.0.0.1\n Port {}\n User {user}\n IdentityFile {}\n \
             IdentityAgent none\n HostKeyAlias target-by-alias\n ProxyCommand {command}\n \
             UserKnownHostsFile {}\n GlobalKnownHostsFile none\n",
            target.port,
            target.key().display(),
            known.display()
        );
        configured(dir, &text).resolve(&"target".parse().unwrap()).unwrap()
    };
    record(&known, "target-by-alias", &target);
    // What people write: ssh itself.
    let ssh = format!(
        "{} -F none -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {} -W \
         [%h]:%p {user}@127.0.0.1",
        common::tool("ssh", "openssh-client").display(),
        gate.key().display(),
        gate.port
    );
    let (destination, options) = start(&ssh);
    let session = Session::connect(&destination, &options).await.unwrap();
    assert_eq!(whoami(&session).await, user);
    session.disconnect().await;

    let (destination, options) = start("echo it is closed >&2; exit 3");
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["ProxyCommand", "brings no SSH connection: it is closed"]);
    // One that stays silent is ended when the bound is reached.
    let pid = dir.join("pid");
    let (destination, mut options) =
        start(&format!("sh -c 'echo $$ > {}; exec sleep 600'", pid.display()));
    options.timeout = Duration::from_secs(2);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["ProxyCommand", "brings no SSH connection"]);
    let pid = std::fs::read_to_string(pid).unwrap();
    let process = format!("/proc/{}", pid.trim());
    for _ in 0..50 {
        let state = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the ProxyCommand still runs as {pid}");
}

#[tokio::test]
async fn by_ipv6() {
    let sshd = Sshd::configured("ListenAddress ::1\n", None);
    let known = sshd.dir.path().join("known");
    record(&known, &format!("[::1]:{}", sshd.port), &sshd);
    let mut given = configured(
        sshd.dir.path(),
        &format!("IdentityFile {}\nIdentityAgent none\n", sshd.key().display()),
    );
    given.known_hosts = vec![known];
    let user = sshd.destination().user;
    let (destination, options) =
        given.resolve(&format!("{user}@[::1]:{}", sshd.port).parse().unwrap()).unwrap();
    let session = Session::connect(&destination, &options).await.unwrap();
    let out = session.script("asking", "echo $SSH_CONNECTION", BOUND).await.unwrap();
    assert!(out.starts_with(b"::1 "), "{}", String::from_utf8_lossy(&out));
    given.sources.options = vec!["AddressFamily=inet".into()];
    let (destination, options) =
        given.resolve(&format!("{user}@[::1]:{}", sshd.port).parse().unwrap()).unwrap();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["can't reach ::1"]);
}

/// In a network namespace of this thread's own, where a link-local address can be had.
#[test]
fn by_link_local_address() {
    let ip = common::tool("ip", "iproute2");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for line in ["link set lo up", "address add fe80::7/64 dev lo nodad"] {
        common::run(Command::new(&ip).args(line.split(' ')));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sshd = Sshd::configured("ListenAddress fe80::7%lo\n", None);
    let destination: Destination =
        format!("{}@[fe80::7%lo]:{}", sshd.destination().user, sshd.port).parse().unwrap();
    runtime.block_on(async {
        let session = Session::connect(&destination, &sshd.options()).await.unwrap();
        let out = session.script("asking", "echo $SSH_CONNECTION", BOUND).await.unwrap();
        assert!(out.starts_with(b"fe80::7%"), "{}", String::from_utf8_lossy(&out));
    });
}

/// Brings an agent as root, talks to it, looks at where it lies and that nothing is left.
async fn bring(session: &Session, mark: &str) {
    let place =
        async || RemoteAgent::place(session, &agent(mark), &mut Trail::default()).await.unwrap();
    let root = session.as_root().await.unwrap();
    assert_eq!(whoami(&root).await, "root");
    assert_ne!(whoami(session).await, "root");
    // The second one finds the first, and is started by the shell that found it.
    let placed = [place().await, place().await];
    assert_eq!(placed.each_ref().map(|remote| remote.sent), [true, false]);
    for mut remote in placed {
        let look =
            format!("stat -c '%a %u %g' {0}; stat -c '%a %u %g' $(dirname {0})", remote.path());
        let modes = root.script("looking", &look, BOUND).await.unwrap();
        assert_eq!(String::from_utf8(modes).unwrap(), "700 0 0\n700 0 0\n");
        let mut running = remote.start("info", Duration::ZERO).await.unwrap();
        // No line break that a terminal could change, and every byte.
        let data: Vec<u8> = (0..200_000u32).map(|n| (n % 256) as u8).collect();
        let sent = data.clone();
        let feed = async {
            running.stdin.send(sent).await.unwrap();
            running.stdin.eof().await.unwrap();
        };
        let mut said = Vec::new();
        let (_, read) = tokio::join!(feed, running.stdout.read_to_end(&mut said));
        read.unwrap();
        assert!(said == data, "{} bytes of {}", said.len(), data.len());
        let exit = tokio::time::timeout(BOUND, running.exit).await.unwrap().unwrap();
        assert_eq!(exit, Exit::Status(0));
        let gone = format!("ls -d $(dirname {}) 2>/dev/null; true", remote.path());
        assert_eq!(root.script("looking", &gone, BOUND).await.unwrap(), b"");
    }
    let left = "ls -d /run/keystone-tty.* 2>/dev/null; true";
    assert_eq!(root.script("looking", left, BOUND).await.unwrap(), b"");
    // Its output and error output are apart, and its status is its own.
    let apart = root.output("apart", "/bin/sh -s", "echo out; echo err >&2; exit 9", 99, BOUND);
    let apart = apart.await.unwrap();
    assert_eq!(
        (apart.stdout.as_slice(), apart.stderr.as_str(), apart.exit),
        (&b"out\n"[..], "err", Exit::Status(9))
    );
}

/// While `during` runs, no process's arguments or environment hold `secret`.
async fn unseen<T>(secret: &str, during: impl Future<Output = T>) -> T {
    let secret = secret.to_owned();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let own = std::process::id().to_string();
    let watch = std::thread::spawn(move || {
        let mut looks = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for process in std::fs::read_dir("/proc").unwrap().flatten() {
                let name = process.file_name().into_string().unwrap_or_default();
                if name == own || !name.bytes().all(|b| b.is_ascii_digit()) {
                    continue;
                }
                for file in ["cmdline", "environ"] {
                    let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
                    let text = String::from_utf8_lossy(&bytes);
                    assert!(!text.contains(&secret), "seen in {file} of {name}: {text}");
                }
            }
            looks += 1;
        }
        looks
    });
    let out = during.await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(watch.join().unwrap() > 0);
    out
}

fn people(rules: &str) -> Sshd {
    for (tool, package) in [("sudo", "sudo"), ("doas", "opendoas")] {
        common::tool(tool, package);
    }
    let lines = "UsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n";
    Sshd::configured(lines, Some(&with_people(rules)))
}

/// Without the tool that is not tested: it is not there in the namespace.
fn without(tool: &str) -> String {
    format!("mount --bind /dev/null {}", common::tool(tool, tool).display())
}

#[tokio::test]
async fn root_by_sudo_with_a_password() {
    let rules = "printf 'Defaults secure_path=/usr/sbin:/usr/bin\\nalice ALL=(ALL) ALL\\n' > \
                 /etc/sudoers";
    let sshd = people(&format!("{rules} && {}", without("doas")));
    let key = sshd.options();
    // Asked once, the second answer right.
    let script = Script::new(&["wrong", "wren under ivy"]);
    let login = Login::new(Arc::new(script.clone()));
    let options = ConnectOptions { login, ..key.clone() };
    let session = Session::connect(&at(&sshd, "alice"), &options).await.unwrap();
    unseen("wren under ivy", bring(&session, "sudo")).await;
    let asked = script.asked();
    assert!(asked.len() == 2 && asked[0].contains("\"sudo\""), "{asked:?}");
    // Another connection remembers.
    let session = Session::connect(&at(&sshd, "alice"), &options).await.unwrap();
    session.as_root().await.unwrap();
    assert_eq!(script.asked().len(), 2);

    // Who logged in by password is not asked for it again; or it is given.
    let login = Login::default().with_password(given("wren under ivy"));
    let session = Session::connect(&at(&sshd, "alice"), &keyless(&sshd, login)).await.unwrap();
    session.as_root().await.unwrap();
    let login = Login::default().with_root_password(given("wren under ivy"));
    let options = ConnectOptions { login, ..key.clone() };
    Session::connect(&at(&sshd, "alice"), &options).await.unwrap().as_root().await.unwrap();

    // Nobody can be asked; and somebody who may not.
    let session = Session::connect(&at(&sshd, "alice"), &key).await.unwrap();
    let error = session.as_root().await.unwrap_err();
    assert_says(&error, &["alice can't become root", "sudo asks", "--sudo-password-file"]);
    let login = Login::default().with_root_password(given("staple"));
    let options = ConnectOptions { login, ..key };
    let session = Session::connect(&at(&sshd, "bob"), &options).await.unwrap();
    let error = session.as_root().await.unwrap_err();
    assert_says(&error, &["bob can't become root", "sudo says", "sudoers"]);
}

#[tokio::test]
async fn root_by_sudo_and_doas_without_a_password() {
    let rules = "printf 'alice ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers";
    let sshd = people(&format!("{rules} && {}", without("doas")));
    let session = Session::connect(&at(&sshd, "alice"), &sshd.options()).await.unwrap();
    bring(&session, "free sudo").await;

    // sudo would ask, doas does not.
    let rules = "printf 'alice ALL=(ALL) ALL\\n' > /etc/sudoers && \
                 printf 'permit nopass alice\\n' > /etc/doas.conf";
    let sshd = people(rules);
    let session = Session::connect(&at(&sshd, "alice"), &sshd.options()).await.unwrap();
    bring(&session, "free doas").await;
}

#[tokio::test]
async fn root_by_doas_with_a_password() {
    let rules = "printf 'permit alice\\n' > /etc/doas.conf";
    let sshd = people(&format!("{rules} && {}", without("sudo")));
    let script = Script::new(&["wrong", "wren under ivy"]);
    let login = Login::new(Arc::new(script.clone()));
    let options = ConnectOptions { login, ..sshd.options() };
    let session = Session::connect(&at(&sshd, "alice"), &options).await.unwrap();
    unseen("wren under ivy", bring(&session, "doas")).await;
    let asked = script.asked();
    assert!(asked.len() == 2 && asked[0].contains("\"doas\""), "{asked:?}");

    // Cut off, what it started ends and nothing is left.
    let watch = Session::connect(&at(&sshd, "alice"), &options).await.unwrap();
    let watch = watch.as_root().await.unwrap();
    let mut remote =
        RemoteAgent::place(&session, &agent("cut"), &mut Trail::default()).await.unwrap();
    let running = remote.start("info", Duration::ZERO).await.unwrap();
    session.disconnect().await;
    drop(running);
    let gone = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e $(dirname {}) ] || exit 0; sleep 1; done; \
         exit 1",
        remote.path()
    );
    watch.script("waiting until it is gone", &gone, BOUND).await.unwrap();
}

#[tokio::test]
async fn nobody_becomes_root_where_there_is_no_way() {
    let sshd = people(&format!("{} && {}", without("sudo"), without("doas")));
    let session = Session::connect(&at(&sshd, "alice"), &sshd.options()).await.unwrap();
    let error =
        RemoteAgent::place(&session, &agent("none"), &mut Trail::default()).await.unwrap_err();
    assert!(error.to_string().contains("neither sudo nor doas"), "{error}");
}

/// What only root may see is seen by who is not root, too.
#[tokio::test]
async fn a_machine_is_verified_as_root_by_who_is_not() {
    let rules = "printf 'alice ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers && mkdir -p /run/sshd";
    let sshd = people(&format!("{rules} && {}", without("doas")));
    let session = Session::connect(&at(&sshd, "alice"), &sshd.options()).await.unwrap();
    let unprivileged = session.script("asking", "/usr/sbin/sshd -T; exit 0", BOUND).await.unwrap();
    assert!(!String::from_utf8_lossy(&unprivileged).contains("permitrootlogin"));
    let verified = verify(&session, &Expected::default()).await.unwrap();
    let login = verified.checks.iter().find(|check| check.check == "root-login").unwrap();
    assert!(login.evidence.starts_with("PermitRootLogin"), "{login:?}");

    let session = Session::connect(&at(&sshd, "bob"), &sshd.options()).await.unwrap();
    let error = verify(&session, &Expected::default()).await.unwrap_err();
    assert_says(&error, &["bob can't become root"]);
}
