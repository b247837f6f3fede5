//! Connecting to a real sshd.

mod common;

use common::sshd::{Sshd, identities, keygen};
use keystone_controller::ssh::exec::Exit;
use keystone_controller::ssh::host_key::fingerprint;
use keystone_controller::ssh::{
    HostKeyPolicy, Identities, Prompt, Question, Session, SshError, connect,
};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const BOUND: Duration = Duration::from_secs(20);

#[track_caller]
fn assert_says(error: &SshError, words: &[&str]) {
    for word in words {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

#[tokio::test]
async fn a_pinned_key_of_any_type_is_accepted_and_another_refused() {
    let sshd = Sshd::start();
    let destination = sshd.destination();
    for kind in ["ed25519", "ecdsa"] {
        let mut options = sshd.options();
        // The fingerprint does not tell the type: the machine is asked for each.
        options.host_key = HostKeyPolicy {
            pinned: Some(fingerprint(&sshd.host_key(kind)).parse().unwrap()),
            ..HostKeyPolicy::default()
        };
        let session = Session::connect(&destination, &options).await.unwrap();
        assert_eq!(session.host_key().key_data(), sshd.host_key(kind).key_data(), "{kind}");
    }
    let other = Sshd::start();
    let mut options = sshd.options();
    options.host_key.pinned = Some(fingerprint(&other.host_key("ed25519")).parse().unwrap());
    let error = Session::connect(&destination, &options).await.unwrap_err();
    let found = fingerprint(&sshd.host_key("ed25519"));
    assert_says(&error, &["not the given one", &found]);
}

#[tokio::test]
async fn known_hosts_decide() {
    let sshd = Sshd::start();
    let destination = sshd.destination();
    let known = sshd.dir.path().join("known_hosts");
    let mut options = sshd.options();
    options.host_key =
        HostKeyPolicy { known_hosts: vec![known.clone()], ..HostKeyPolicy::default() };

    let error = Session::connect(&destination, &options).await.unwrap_err();
    let SshError::UnknownHostKey { key, .. } = &error else { panic!("{error}") };
    assert_says(&error, &["is not known", "--host-key", &fingerprint(key)]);

    // Only the ECDSA key is known: that is the one asked for.
    let line = |kind: &str| {
        let key = sshd.host_key(kind).to_openssh().unwrap();
        format!("{} {key}\n", destination.known_hosts_name())
    };
    std::fs::write(&known, line("ecdsa")).unwrap();
    let session = Session::connect(&destination, &options).await.unwrap();
    assert_eq!(session.host_key().key_data(), sshd.host_key("ecdsa").key_data());

    // Hashed, as Debian's ssh writes them.
    std::fs::write(&known, line("ed25519")).unwrap();
    let hash = std::process::Command::new("ssh-keygen").arg("-H").arg("-f").arg(&known).output();
    assert!(hash.unwrap().status.success());
    assert!(std::fs::read_to_string(&known).unwrap().starts_with("|1|"));
    Session::connect(&destination, &options).await.unwrap();

    std::fs::write(
        &known,
        format!(
            "@revoked * {}\n{}",
            sshd.host_key("ed25519").to_openssh().unwrap(),
            line("ed25519")
        ),
    )
    .unwrap();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["revoked", "line 1"]);

    std::fs::write(&known, line("ed25519")).unwrap();
    let sshd = sshd.with_new_host_keys();
    let known = sshd.dir.path().join("known_hosts");
    options.host_key.known_hosts = vec![known];
    options.identities = identities(&[sshd.key()]);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    let found = fingerprint(&sshd.host_key("ed25519"));
    assert_says(&error, &["has changed", "line 1", "ssh-keygen -R", &found]);
}

#[tokio::test]
async fn nobody_there_and_nobody_let_in() {
    let sshd = Sshd::start();
    let mut destination = sshd.destination();
    let mut options = sshd.options();
    let stranger = sshd.dir.path().join("stranger");
    keygen(&stranger, "ed25519", "");
    options.identities = identities(&[stranger]);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["accepts none of these", "stranger", "authorized_keys", "publickey"]);
    options.identities = identities(&[sshd.dir.path().join("no-such-key")]);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["can't use the key", "no-such-key"]);

    // A port at which nobody listens.
    destination.port =
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["can't reach 127.0.0.1", &destination.port.to_string()]);
    destination.host = "no-such-host.invalid".into();
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["address of no-such-host.invalid"]);

    // Somebody who accepts and says nothing: the bound holds.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    destination.host = "127.0.0.1".into();
    destination.port = mute.local_addr().unwrap().port();
    options.timeout = Duration::from_secs(1);
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["the SSH handshake with 127.0.0.1 took longer than 1 s"]);
}

struct Answers(&'static str);

impl Prompt for Answers {
    fn available(&self) -> bool {
        true
    }

    fn ask(&self, question: &Question<'_>) -> Option<Zeroizing<String>> {
        let Question::Passphrase { again, .. } = question else { panic!("{question:?}") };
        // Wrong once.
        Some(Zeroizing::new(if *again { self.0 } else { "wrong" }.to_owned()))
    }
}

/// Must not be asked.
struct Silent;

impl Prompt for Silent {
    fn available(&self) -> bool {
        true
    }

    fn ask(&self, question: &Question<'_>) -> Option<Zeroizing<String>> {
        panic!("asked {question:?}")
    }
}

#[tokio::test]
async fn protected_keys_and_agents() {
    let sshd = Sshd::start();
    let destination = sshd.destination();
    let mut options = sshd.options();
    let protected = sshd.dir.path().join("protected");
    for kind in ["ed25519", "rsa"] {
        let _ = std::fs::remove_file(&protected);
        keygen(&protected, kind, "correct horse");
        std::fs::copy(protected.with_extension("pub"), sshd.dir.path().join("authorized_keys"))
            .unwrap();
        options.identities =
            Identities::new(std::slice::from_ref(&protected), Arc::new(Answers("correct horse")))
                .with_agent(None);
        Session::connect(&destination, &options).await.unwrap();
        // Unlocked once, it is not asked for again.
        options.identities = options.identities.without_prompt();
        Session::connect(&destination, &options).await.unwrap();
    }
    options.identities = identities(std::slice::from_ref(&protected));
    let error = Session::connect(&destination, &options).await.unwrap_err();
    assert_says(&error, &["protected by a passphrase", "ssh-add"]);
    // A key that the machine would not take is not worth asking for.
    let strange = sshd.dir.path().join("strange");
    keygen(&strange, "ed25519", "not asked");
    options.identities = Identities::new(&[strange, sshd.key()], Arc::new(Silent)).with_agent(None);
    std::fs::copy(sshd.key().with_extension("pub"), sshd.dir.path().join("authorized_keys"))
        .unwrap();
    Session::connect(&destination, &options).await.unwrap();

    // The key that was let in first, from an agent.
    std::fs::copy(sshd.key().with_extension("pub"), sshd.dir.path().join("authorized_keys"))
        .unwrap();
    let socket = sshd.dir.path().join("agent");
    let mut agent = std::process::Command::new(common::tool("ssh-agent", "openssh-client"))
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !common::listens(&socket) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    common::run(
        std::process::Command::new("ssh-add")
            .arg("-q")
            .arg(sshd.key())
            .env("SSH_AUTH_SOCK", &socket),
    );
    options.identities = Identities::new(&[], Arc::new(Answers("no"))).with_agent(Some(socket));
    let through_agent = Session::connect(&destination, &options).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    through_agent.unwrap();
}

#[tokio::test]
async fn programs_run() {
    let sshd = Sshd::start();
    let session = Session::connect(&sshd.destination(), &sshd.options()).await.unwrap();
    let out = session
        .script("greeting", "printf '%s ' hello; printf '%s' \"it's $((6*7))\"", BOUND)
        .await
        .unwrap();
    assert_eq!(out, b"hello it's 42");
    // The script itself can't be read by what it runs.
    assert_eq!(session.script("cat", "cat; echo end", BOUND).await.unwrap(), b"end\n");
    let error = session.script("failing", "echo why >&2; exit 3", BOUND).await.unwrap_err();
    assert_says(&error, &["failing failed on 127.0.0.1 with exit status 3: why"]);

    let data: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
    let back = session.output("echoing", "cat", data.clone(), data.len(), BOUND).await.unwrap();
    assert!(back.stdout == data && back.exit == Exit::Status(0));
    // Ends before it has read its input.
    let early = session.output("early", "head -c 3", data, 100, BOUND).await.unwrap();
    assert_eq!(early.stdout.len(), 3);
    let killed = session.output("killed", "kill -9 $$", "", 100, BOUND).await.unwrap();
    assert_eq!(killed.exit, Exit::Signal("KILL".into()));
    let error =
        session.script("sleeping", "sleep 30", Duration::from_millis(300)).await.unwrap_err();
    assert_says(&error, &["sleeping took longer than"]);
}

#[tokio::test]
async fn a_stranger_can_be_looked_at() {
    let sshd = Sshd::start();
    let destination = sshd.destination();
    let look = connect::look(&destination, &sshd.options(), BOUND).await.unwrap();
    assert_eq!(look.host_key.key_data(), sshd.host_key("ed25519").key_data());
    let session = look.login.unwrap();
    assert_eq!(session.script("looking", "echo there", BOUND).await.unwrap(), b"there\n");
}
