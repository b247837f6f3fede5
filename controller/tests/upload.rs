//! Bringing a program to a machine through a real sshd. `cat` stands for the agent: it is a
//! program, and what it is told comes back.

mod common;

use common::agent;
use common::sshd::Sshd;
use keystone_controller::ssh::Session;
use keystone_controller::ssh::exec::Exit;
use keystone_controller::upload::{RemoteAgent, Trail, UploadError};
use std::time::Duration;
use tokio::io::AsyncReadExt;

async fn connect(sshd: &Sshd) -> Session {
    Session::connect(&sshd.destination(), &sshd.options()).await.unwrap()
}

/// Starts what was placed, talks to it, and sees that nothing is left behind: it ends well, so it is
/// not kept for another connection.
async fn use_and_leave(session: &Session, remote: &mut RemoteAgent) {
    let mode = format!("stat -c '%a %u' {0}; stat -c '%a %u' $(dirname {0})", remote.path());
    let modes = session.script("stat", &mode, BOUND).await.unwrap();
    assert_eq!(String::from_utf8(modes).unwrap(), "700 0\n700 0\n");
    let mut running = remote.start("info", BOUND).await.unwrap();
    running.stdin.send("over and out").await.unwrap();
    running.stdin.eof().await.unwrap();
    let mut said = String::new();
    running.stdout.read_to_string(&mut said).await.unwrap();
    assert_eq!(
        (said.as_str(), tokio::time::timeout(BOUND, running.exit).await.unwrap().unwrap()),
        ("over and out", Exit::Status(0))
    );
    let there = format!("ls -d $(dirname {}) 2>/dev/null || echo gone", remote.path());
    assert_eq!(session.script("ls", &there, BOUND).await.unwrap(), b"gone\n");
}

const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn by_sftp_and_by_cat() {
    let server = common::tool("sftp-server", "openssh-sftp-server");
    for sftp in [Some("internal-sftp"), server.to_str(), Some("/bin/false"), None] {
        let sshd = Sshd::in_namespace_with("mount -t tmpfs none /run", sftp);
        let session = connect(&sshd).await;
        let mut remote =
            RemoteAgent::place(&session, &agent("sftp"), &mut Trail::default()).await.unwrap();
        assert!(remote.sent && remote.path().starts_with("/run/"), "{sftp:?}: {remote:?}");
        use_and_leave(&session, &mut remote).await;
    }
}

#[tokio::test]
async fn elsewhere_where_programs_can_run() {
    let setup = "mount -t tmpfs -o noexec none /run && mount -t tmpfs -o size=16k none /tmp";
    let sshd = Sshd::in_namespace(setup);
    let session = connect(&sshd).await;
    let mut remote =
        RemoteAgent::place(&session, &agent("elsewhere"), &mut Trail::default()).await.unwrap();
    // /run runs nothing, /tmp is full.
    assert!(remote.path().starts_with("/var/tmp/"), "{}", remote.path());
    let left = session.script("ls", "ls /run /tmp", BOUND).await.unwrap();
    assert!(!String::from_utf8(left).unwrap().contains("keystone-agent"));
    use_and_leave(&session, &mut remote).await;

    let everywhere =
        "for d in /run /tmp /var/tmp /dev/shm /root; do mount -t tmpfs -o noexec none $d; done";
    let sshd = Sshd::in_namespace(everywhere);
    let error =
        RemoteAgent::place(&connect(&sshd).await, &agent("elsewhere"), &mut Trail::default())
            .await
            .unwrap_err();
    assert!(matches!(error, UploadError::NoPlace { .. }), "{error}");
    assert!(error.to_string().contains("/dev/shm (mounted noexec)"), "{error}");
}

#[tokio::test]
async fn what_is_there_already_is_used_if_it_is_equal() {
    let old = "/run/keystone-agent.0000";
    let copy = format!("{{ cat /bin/cat; printf 1; }} > {old}/keystone-agent");
    let setup = format!("mount -t tmpfs none /run && mkdir {old} && {copy}");
    let sshd = Sshd::in_namespace(&setup);
    let session = connect(&sshd).await;
    let mut remote =
        RemoteAgent::place(&session, &agent("1"), &mut Trail::default()).await.unwrap();
    assert!(!remote.sent);
    use_and_leave(&session, &mut remote).await;

    // Of the same size, but another program.
    let alter =
        format!("printf x | dd of={old}/keystone-agent bs=1 seek=9999 conv=notrunc 2>/dev/null");
    session.script("altering", &alter, BOUND).await.unwrap();
    let mut remote =
        RemoteAgent::place(&session, &agent("1"), &mut Trail::default()).await.unwrap();
    assert!(remote.sent);
    use_and_leave(&session, &mut remote).await;
}

/// It is neither copied nor compared: it says itself what it is.
#[tokio::test]
async fn the_live_systems_own_is_linked() {
    let (own, store) = ("/usr/libexec/keystone/keystone-agent", "/usr/libexec/store");
    let sshd = Sshd::in_namespace(&format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /usr/libexec && mkdir $(dirname {own}) && \
         {{ cat /bin/cat; printf own; }} > {store} && chmod 755 {store} && ln -s {store} {own}"
    ));
    let session = connect(&sshd).await;
    let place =
        async |trail: &mut Trail| RemoteAgent::place(&session, &agent("own"), trail).await.unwrap();
    let script = async |script: &str| {
        let said = session.script("looking", script, BOUND).await.unwrap();
        String::from_utf8(said).unwrap()
    };
    let mut trail = Trail::default();
    let mut remote = place(&mut trail).await;
    assert!(remote.is_installed() && !remote.sent);
    assert_eq!(script(&format!("readlink {}", remote.path())).await, format!("{own}\n"));
    let mut running = remote.start("info", BOUND).await.unwrap();
    running.stdin.send("over and out").await.unwrap();
    running.stdin.eof().await.unwrap();
    let mut said = String::new();
    running.stdout.read_to_string(&mut said).await.unwrap();
    let ended = tokio::time::timeout(BOUND, running.exit).await.unwrap().unwrap();
    assert_eq!((said.as_str(), ended), ("over and out", Exit::Status(0)));
    let left = "ls -d /run/keystone-agent.* 2>/dev/null || echo gone";
    assert_eq!(script(left).await, "gone\n");
    assert_eq!(script(&format!("tail -c 3 {store}")).await, "own");
    // Once it misled, it is like any other: right, and altered.
    for (alter, sent) in [(": ", false), ("printf O | dd bs=1 conv=notrunc seek=9999 of=", true)] {
        script(&format!("{alter}{store} 2>/dev/null")).await;
        let mut trail = Trail::default();
        let remote = place(&mut trail).await;
        assert!(remote.is_installed() && !remote.sent);
        trail.misled = true;
        let mut remote = place(&mut trail).await;
        assert_eq!((remote.is_installed(), remote.sent), (false, sent));
        let dirs = script("ls -d /run/keystone-agent.*").await;
        assert_eq!(
            dirs.trim(),
            std::path::Path::new(remote.path()).parent().unwrap().to_str().unwrap()
        );
        use_and_leave(&session, &mut remote).await;
    }
    // Who else may alter it may put anything there.
    let dir = own.rsplit_once('/').unwrap().0;
    for alter in [
        format!("chown 1 {store}"),
        format!("chown 0 {store}; chmod 775 {store}"),
        format!("chmod 757 {store}"),
        format!("chmod 755 {store}; chmod 777 {dir}"),
        format!("chmod 755 {dir}; chown 1 {dir}"),
    ] {
        script(&alter).await;
        assert!(!place(&mut Trail::default()).await.is_installed(), "{alter}");
    }
    script(&format!("chown 0 {dir}")).await;
    let remote = place(&mut Trail::default()).await;
    assert!(remote.is_installed());
    // A connection that ends before it is started takes the link with it, and nothing else.
    let watch = connect(&sshd).await;
    session.disconnect().await;
    let dir = std::path::Path::new(remote.path()).parent().unwrap().display().to_string();
    let gone = format!(
        "n=0; while [ -e {dir} ]; do [ $n -lt 100 ] || exit 1; sleep 0.1; n=$((n+1)); done; ls {store}"
    );
    watch.script("waiting until it is gone", &gone, BOUND).await.unwrap();
}

/// Kills what was started, as no agent ends that was told goodbye.
async fn kill(watch: &Session, remote: &RemoteAgent) {
    // The shell that starts it may not have got that far: until it is there.
    let kill = format!(
        "while :; do for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = {} ] && \
         kill -9 ${{p#/proc/}} && exit 0; done 2>/dev/null; sleep 0.1; done",
        remote.path()
    );
    watch.script("killing", &kill, BOUND).await.unwrap();
}

#[tokio::test]
async fn killed_or_cut_off_it_leaves_nothing() {
    let sshd = Sshd::start();
    let session = connect(&sshd).await;
    let watch = connect(&sshd).await;
    let gone = |path: String| {
        let watch = watch.clone();
        async move {
            let script = format!(
                "for i in 1 2 3 4 5 6 7 8 9; do [ -e $(dirname {path}) ] || exit 0; sleep 0.3; done; exit 1"
            );
            watch.script("waiting until it is gone", &script, BOUND).await.unwrap();
        }
    };
    let mut remote =
        RemoteAgent::place(&session, &agent("killed"), &mut Trail::default()).await.unwrap();
    let running = remote.start("info", Duration::ZERO).await.unwrap();
    kill(&watch, &remote).await;
    assert_eq!(
        tokio::time::timeout(BOUND, running.exit).await.unwrap().unwrap(),
        Exit::Status(128 + 9)
    );
    gone(remote.path().to_owned()).await;

    let mut remote =
        RemoteAgent::place(&session, &agent("killed"), &mut Trail::default()).await.unwrap();
    let running = remote.start("info", Duration::ZERO).await.unwrap();
    session.disconnect().await;
    drop(running);
    gone(remote.path().to_owned()).await;
}

/// As images do that let root in only to say who to log in as.
#[tokio::test]
async fn a_login_that_runs_nothing_is_told_at_once() {
    let sshd = Sshd::start();
    let keys = sshd.dir.path().join("authorized_keys");
    let key = std::fs::read_to_string(&keys).unwrap();
    for (command, told) in [
        ("echo Please log in as admin.; exit 142", "142: Please log in as admin."),
        ("echo Please log in as admin.", "0: Please log in as admin."),
        // It says what it was told, and waits for more.
        ("echo Please log in as admin.; cat >/dev/null", "0: Please log in as admin."),
    ] {
        std::fs::write(&keys, format!("command=\"{command}\" {key}")).unwrap();
        let session = connect(&sshd).await;
        let placed = RemoteAgent::place(&session, &agent("nothing"), &mut Trail::default()).await;
        let error = placed.unwrap_err().to_string();
        assert!(error.ends_with(told), "{error}");
    }
}

#[tokio::test]
async fn an_agent_for_another_processor_is_not_sent() {
    let sshd = Sshd::start();
    let mut agent = agent("processor");
    agent.machine = if agent.machine == "x86_64" { "aarch64" } else { "x86_64" };
    let error =
        RemoteAgent::place(&connect(&sshd).await, &agent, &mut Trail::default()).await.unwrap_err();
    assert!(matches!(error, UploadError::OtherMachine { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_follows_a_broken_one_goes_on_with_what_it_sent() {
    let other = "/tmp/keystone-agent.other";
    let sshd = Sshd::in_namespace(&format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /tmp && mkdir {other}"
    ));
    let (agent, mut trail) = (agent("broken"), Trail::default());
    let watch = connect(&sshd).await;
    // Of the same size, it is taken for the agent until it is compared.
    let script = format!("{{ cat /bin/cat; printf BROKEN; }} > {other}/keystone-agent");
    watch.script("another agent", &script, BOUND).await.unwrap();
    let dirs = async || {
        let found = watch.script("ls", "ls -d /run/keystone-agent.*", BOUND).await.unwrap();
        String::from_utf8(found).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // Broken while the agent ran.
    let session = connect(&sshd).await;
    let mut first = RemoteAgent::place(&session, &agent, &mut trail).await.unwrap();
    assert!(first.sent && !trail.gets_on);
    let running = first.start("info", Duration::from_secs(600)).await.unwrap();
    kill(&watch, &first).await;
    // Who waits for the next connection holds nothing of this one.
    let mut output = Vec::new();
    let mut stdout = running.stdout;
    tokio::time::timeout(BOUND, stdout.read_to_end(&mut output)).await.unwrap().unwrap();
    session.disconnect().await;
    let session = connect(&sshd).await;
    let second = RemoteAgent::place(&session, &agent, &mut trail).await.unwrap();
    assert!(!second.sent && trail.gets_on && first.path() != second.path());
    assert_eq!(dirs().await.len(), 1);
    // Broken while it was sent; then in a part that is not what was sent.
    for (alter, part) in
        [("head -c 1000 F > t", true), ("{ echo other; head -c 999 F; } > t", false)]
    {
        let dir = dirs().await.remove(0);
        let script =
            format!("cd {dir} && {} && mv t keystone-agent", alter.replace('F', "keystone-agent"));
        watch.script("altering", &script, BOUND).await.unwrap();
        let next = RemoteAgent::place(&session, &agent, &mut trail).await.unwrap();
        assert!(next.sent, "{part}");
        // 1000 bytes are less than there were before, and 1005 more.
        assert_ne!(trail.gets_on, part);
        let hash =
            watch.script("hash", &format!("sha256sum < {}", next.path()), BOUND).await.unwrap();
        assert!(hash.starts_with(agent.sha256().as_bytes()), "{part}");
        assert_eq!(dirs().await.len(), 1);
    }
    // If nobody comes, it goes.
    let mut last = RemoteAgent::place(&session, &agent, &mut trail).await.unwrap();
    let running = last.start("info", Duration::from_secs(4)).await.unwrap();
    kill(&watch, &last).await;
    assert_eq!(dirs().await.len(), 1);
    session.disconnect().await;
    drop(running);
    let gone = "for i in 1 2 3 4 5 6 7 8 9; do ls -d /run/keystone-agent.* 2>/dev/null || exit 0; sleep 1; done; exit 1";
    watch.script("waiting until it is gone", gone, BOUND).await.unwrap();
}
