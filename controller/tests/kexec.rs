//! The phase kexec against real sshds that play a running system, and what comes after it. The
//! image is a real tarball; what a kernel would do by jumping, the test does: it ends one sshd and
//! starts another at its place, with another boot id.

mod common;

use common::sshd::{Sshd, identities, keygen, with_people};
use common::web::Nginx;
use keystone_controller::install::InstallError;
use keystone_controller::kexec::{Ending, KexecError, KexecRequest, Outcome, Progress, kexec};
use keystone_controller::operator::{Notice, Operator, OperatorError, Proposal};
use keystone_controller::ssh::host_key::fingerprint;
use keystone_controller::ssh::login::Given;
use keystone_controller::ssh::{Destination, HostKeyPolicy, Login, PublicKey, Session};
use keystone_controller::stop::{self, Stop};
use keystone_protocol::plan::Plan;
use keystone_protocol::secret::Secret;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use zeroize::Zeroizing;

const BOUND: Duration = Duration::from_secs(30);
const OLD: &str = "11111111-1111-4111-8111-111111111111";
const NEW: &str = "22222222-2222-4222-8222-222222222222";

/// Notes what happens, and tells when the image says that the machine will boot.
struct Notes {
    agrees: bool,
    asked: Vec<String>,
    said: Vec<String>,
    seen: Vec<String>,
    sent: u64,
    jumps: Option<mpsc::Sender<()>>,
    /// What is said when the test jumps.
    at: &'static str,
}

impl Notes {
    fn new(agrees: bool) -> Self {
        let (asked, said, seen) = Default::default();
        Notes { agrees, asked, said, seen, sent: 0, jumps: None, at: "will boot into nixos" }
    }
}

impl Operator for Notes {
    fn notice(&mut self, notice: Notice<'_>) {
        let Notice::Kexec(progress) = notice else { return };
        match progress {
            Progress::Said { line } => {
                self.said.push(line.to_owned());
                if let Some(jumps) = self.jumps.take_if(|_| line.contains(self.at)) {
                    jumps.send(()).unwrap();
                }
            }
            Progress::Waiting { seen, .. } => self.seen.push(seen.to_owned()),
            Progress::Sending { done, total } => {
                assert!(done <= total);
                self.sent = done;
            }
            Progress::Reading { .. } | Progress::Booted { .. } => {}
        }
    }

    async fn confirm_end(&mut self, ending: &Ending<'_>) -> Result<(), OperatorError> {
        self.asked.push(format!("{} at {}", ending.system, ending.host));
        match self.agrees {
            true => Ok(()),
            false => Err(OperatorError::NotConfirmed("no".into())),
        }
    }

    async fn accept_host_key(&mut self, _: &str, _: &PublicKey) -> Result<bool, OperatorError> {
        unreachable!("the host key is pinned")
    }

    nothing_of_an_installation!();
}

/// What a namespace needs to be a machine that was booted as `boot` and runs `variant`. Whether it
/// is a container, is answered as it would be on a machine: these tests may run in one.
fn machine(boot: &str, variant: &str, container: &str) -> String {
    format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /var/tmp && mount -t tmpfs none /root && \
         mkdir -m 700 /root/.ssh && cp $SSHD_DIR/id.pub /root/.ssh/authorized_keys && \
         mkdir /run/ssh && for f in $SSHD_DIR/host_*; do n=${{f##*/host_}}; \
         case $n in *.pub) n=${{n%.pub}}_key.pub ;; *) n=${{n}}_key ;; esac; \
         cp $f /run/ssh/ssh_host_$n || exit; done && mount --bind /run/ssh /etc/ssh && \
         printf 'PRETTY_NAME=\"Some Linux 1\"\\nVARIANT_ID={variant}\\n' > /run/os-release && \
         mount --bind /run/os-release /etc/os-release && \
         echo {boot} > /run/boot && mount --bind /run/boot /proc/sys/kernel/random/boot_id && \
         printf '#!/bin/sh\\necho {container}\\n' > /run/virt && chmod 755 /run/virt && \
         mount --bind /run/virt {}",
        common::tool("systemd-detect-virt", "systemd").display()
    )
}

/// An image whose `kexec/run` is this script.
struct Image {
    dir: TempDir,
}

impl Image {
    fn new(run: &str) -> Self {
        common::tool("cpio", "cpio");
        let dir = tempfile::tempdir_in("/var/cache").unwrap();
        let kexec = dir.path().join("kexec");
        std::fs::create_dir(&kexec).unwrap();
        std::fs::write(kexec.join("run"), format!("#!/bin/sh\n{run}\n")).unwrap();
        std::fs::set_permissions(kexec.join("run"), PermissionsExt::from_mode(0o555)).unwrap();
        std::fs::write(kexec.join("initrd"), vec![3; 3_000_000]).unwrap();
        Image { dir }
    }

    fn pack(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        common::run(
            Command::new("tar").arg("-caf").arg(&file).arg("-C").arg(self.dir.path()).arg("kexec"),
        );
        file
    }
}

fn at(sshd: &Sshd, user: &str) -> Destination {
    Destination { user: user.into(), ..sshd.destination() }
}

fn request(sshd: &Sshd, image: &str) -> KexecRequest {
    KexecRequest {
        destination: sshd.destination(),
        connect: sshd.options(),
        then: at(sshd, "root"),
        then_connect: sshd.options(),
        sha256: None,
        image: Some(image.parse().unwrap()),
        flags: None,
        force: false,
        dry_run: false,
        wipes: Vec::new(),
        bound: Duration::from_secs(90),
    }
}

fn never() -> Stop {
    stop::channel().1
}

fn error(outcome: Result<Outcome, InstallError>) -> KexecError {
    match outcome {
        Err(InstallError::Kexec(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_says(error: &KexecError, words: &[&str]) {
    let text = keystone_controller::chain(error);
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

/// What lies on the machine of an image.
async fn left(sshd: &Sshd) -> String {
    let session = Session::connect(&sshd.destination(), &sshd.options()).await.unwrap();
    let script = "ls -d /var/tmp/keystone-kexec* /tmp/keystone-kexec* /root/keystone-kexec* /run/keystone-kexec* 2>/dev/null; exit 0";
    String::from_utf8(session.script("ls", script, BOUND).await.unwrap()).unwrap()
}

/// Runs it; when the image says that the machine will boot, `jump` does what a kernel would.
async fn run_and_jump(
    sshd: Sshd,
    request: KexecRequest,
    jump: impl FnOnce(Sshd) -> Sshd + Send + 'static,
) -> (Result<Outcome, InstallError>, Notes, Sshd) {
    run_and_jump_at("will boot into nixos", Duration::from_secs(1), sshd, request, jump).await
}

/// The same, so long after the image said something else.
async fn run_and_jump_at(
    at: &'static str,
    after: Duration,
    sshd: Sshd,
    request: KexecRequest,
    jump: impl FnOnce(Sshd) -> Sshd + Send + 'static,
) -> (Result<Outcome, InstallError>, Notes, Sshd) {
    let mut notes = Notes { at, ..Notes::new(true) };
    let (sender, jumps) = mpsc::channel();
    notes.jumps = Some(sender);
    let machine = std::thread::spawn(move || {
        jumps.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(after);
        jump(sshd)
    });
    let outcome = kexec(&request, &mut notes, &never()).await;
    (outcome, notes, machine.join().unwrap())
}

const RUN: &str = "echo \"as $(id -u), for ${SUDO_USER:-nobody}, in $(stat -c '%a %u' .)\"\n\
    for word; do echo \"<$word>\"; done\n\
    [ $(stat -c %s kexec/initrd) = 3000000 ] && echo to standard error >&2\n\
    echo 'machine will boot into nixos in 6s...'";

#[tokio::test]
async fn a_machine_is_booted_into_the_image() {
    let image = Image::new(RUN);
    let web = Nginx::serve(image.dir.path());
    image.pack("image.tar.gz");
    let places = [
        image.pack("image.tar.xz").display().to_string(),
        format!("file://{}", image.pack("image.tar.zst").display()),
        format!("{}/image.tar.gz?from=here", web.http()),
    ];
    for place in places {
        let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
        let mut request = request(&sshd, &place);
        request.flags = Some("--no-sync --append='a b'".into());
        let key = sshd.host_key("ed25519");
        let (outcome, notes, sshd) = run_and_jump(sshd, request, |mut sshd| {
            sshd.boot_as(&machine(NEW, "installer", "none"));
            sshd
        })
        .await;
        match outcome {
            Ok(Outcome::Booted(found)) => assert_eq!(found.key_data(), key.key_data()),
            other => panic!("{place}: {other:?}, {:?}", notes.said),
        }
        let wanted = [
            "as 0, for nobody, in 700 0",
            "<--kexec-extra-flags>",
            "<--no-sync --append='a b'>",
            "to standard error",
            "machine will boot into nixos in 6s...",
        ];
        assert_eq!(notes.said, wanted);
        assert!(notes.sent > 3_000_000 && notes.asked.len() == 1, "{:?}", notes.asked);
        assert!(notes.asked[0].starts_with("Some Linux 1 ("), "{:?}", notes.asked);
        drop(sshd);
    }
}

/// What comes back at another address is followed there, and is the same machine by its host key.
#[tokio::test]
async fn another_address_afterwards() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let key = sshd.host_key("ed25519");
    let mut request = request(&sshd, &place);
    request.then.host = "127.0.0.2".to_owned();
    let (outcome, notes, sshd) = run_and_jump(sshd, request, |mut sshd| {
        let [config, lines] = ["sshd_config", "lines"].map(|name| sshd.dir.path().join(name));
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("127.0.0.1", "127.0.0.2")).unwrap();
        std::fs::write(&lines, "ListenAddress 127.0.0.2\n").unwrap();
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", sshd.port)).is_err(), "the old address");
    match outcome {
        Ok(Outcome::Booted(found)) => assert_eq!(found.key_data(), key.key_data()),
        other => panic!("{other:?}, {:?}", notes.seen),
    }
}

#[tokio::test]
async fn who_is_not_root_becomes_it() {
    let image = Image::new(RUN);
    let rest =
        format!("printf 'alice ALL=(ALL) ALL\\n' > /etc/sudoers && {}", machine(OLD, "", "none"));
    let keys = "mkdir /home/alice/.ssh && cp $SSHD_DIR/id.pub /home/alice/.ssh/authorized_keys";
    let sshd = Sshd::configured("UsePAM yes\n", Some(&with_people(&format!("{rest} && {keys}"))));
    let place = image.pack("image.tar").display().to_string();
    let mut request = request(&sshd, &place);
    request.destination = at(&sshd, "alice");
    let password =
        Given { password: Zeroizing::new("wren under ivy".into()), from: "a test".into() };
    request.connect.login = Login::default().with_root_password(Some(password));
    let (outcome, notes, _sshd) = run_and_jump(sshd, request, |mut sshd| {
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert!(matches!(outcome, Ok(Outcome::Booted(_))), "{outcome:?}, {:?}", notes.said);
    assert_eq!(notes.said[0], "as 0, for alice, in 700 0");
}

#[tokio::test]
async fn a_run_that_fails_leaves_the_machine_as_it_was() {
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    for (run, words) in [
        (
            "echo the kernel says no >&2; exit 7",
            &["exit status 7", "still runs Some Linux 1", "is removed from its disk"][..],
        ),
        ("echo done", &["without having said", "still runs"]),
        ("echo machine will boot into nixos; exit 1", &["exit status 1"]),
    ] {
        let image = Image::new(run);
        let place = image.pack("image.tar.gz").display().to_string();
        let outcome = kexec(&request(&sshd, &place), &mut Notes::new(true), &never()).await;
        let error = error(outcome);
        assert_says(&error, words);
        assert_eq!(error.said().len(), 1, "{error:?}");
        assert_eq!(left(&sshd).await, "");
    }
}

#[tokio::test]
async fn nothing_is_done_where_nothing_may_or_must_be() {
    let image = Image::new("touch /run/it-ran; echo machine will boot into nixos");
    let place = image.pack("image.tar.gz").display().to_string();
    // Not agreed to.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let outcome = kexec(&request(&sshd, &place), &mut Notes::new(false), &never()).await;
    assert!(matches!(outcome, Err(InstallError::Operator(OperatorError::NotConfirmed(_)))));
    // Only looked at.
    let dry = KexecRequest { dry_run: true, ..request(&sshd, &place) };
    let mut notes = Notes::new(false);
    assert_eq!(kexec(&dry, &mut notes, &never()).await.unwrap(), Outcome::Planned);
    assert_eq!((notes.asked.len(), notes.sent), (0, 0));
    // Nothing to boot, or something that is no image.
    let none = KexecRequest { image: None, ..request(&sshd, &place) };
    let said = error(kexec(&none, &mut Notes::new(true), &never()).await);
    assert_says(&said, &["runs Some Linux 1", "--kexec FILE|URL", "nixos-kexec-installer"]);
    let other = image.dir.path().join("other.tar.gz");
    std::fs::write(&other, "no archive").unwrap();
    let other = request(&sshd, other.to_str().unwrap());
    assert_says(&error(kexec(&other, &mut Notes::new(true), &never()).await), &["other.tar.gz"]);
    let web = Nginx::serve(image.dir.path());
    let nowhere = request(&sshd, &format!("{}/nothing.tar.gz", web.http()));
    assert_says(
        &error(kexec(&nowhere, &mut Notes::new(true), &never()).await),
        &["no image at", "nothing.tar.gz"],
    );
    // Nobody would get in.
    let session = Session::connect(&sshd.destination(), &sshd.options()).await.unwrap();
    session.script("rm", "rm /root/.ssh/authorized_keys", BOUND).await.unwrap();
    let said = error(kexec(&request(&sshd, &place), &mut Notes::new(true), &never()).await);
    assert_says(&said, &["let nobody in", "authorized_keys"]);
    assert_eq!(left(&sshd).await, "");
    session.script("looking", "test ! -e /run/it-ran", BOUND).await.unwrap();

    let sshd = Sshd::in_namespace(&machine(OLD, "installer", "none"));
    let outcome = kexec(&request(&sshd, &place), &mut Notes::new(false), &never()).await;
    assert!(matches!(outcome, Ok(Outcome::NothingToDo(_))), "{outcome:?}");
    let sshd = Sshd::in_namespace(&machine(OLD, "", "lxc"));
    let outcome = kexec(&request(&sshd, &place), &mut Notes::new(true), &never()).await;
    assert_says(&error(outcome), &["container (lxc)"]);
}

/// Where what comes after would be refused, the machine goes on as it was.
#[tokio::test]
async fn a_disk_that_is_not_blank_and_may_not_be_erased_is_refused_before_anything_ends() {
    let image = Image::new("touch /run/it-ran; echo machine will boot into nixos");
    let place = image.pack("image.tar.gz").display().to_string();
    let disks = "mount -t tmpfs none /sys/block && cd /sys/block && \
        mkdir -p old/device old/old1 whole/device whole/holders/dm-0 blank/device && \
        touch old/old1/partition && echo A1 > old/serial && cd /";
    let sshd = Sshd::in_namespace(&format!("{} && {disks}", machine(OLD, "", "none")));
    for (words, disk) in [
        (vec!["/dev/old"], Some("/dev/old is not blank")),
        (vec!["/dev/blank", "serial:A1"], Some("serial:A1 (/dev/old now) is not blank")),
        (vec!["/dev/whole"], Some("/dev/whole is not blank")),
        (vec!["/dev/blank", "serial:A", "size:largest"], None),
        (vec![], None),
    ] {
        let wipes = words.iter().map(|word| (*word).to_owned()).collect();
        let request = KexecRequest { wipes, ..request(&sshd, &place) };
        let mut notes = Notes::new(false);
        match (kexec(&request, &mut notes, &never()).await, disk) {
            (Err(InstallError::Refused(refusal)), Some(disk)) => {
                assert!(refusal.message.starts_with(disk), "{refusal}");
                assert!(refusal.message.contains("Some Linux 1"), "{refusal}");
                assert!(refusal.hint.unwrap().contains("--erase"));
            }
            // It gets as far as asking.
            (Err(InstallError::Operator(OperatorError::NotConfirmed(_))), None) => {}
            (other, _) => panic!("{words:?}: {other:?}"),
        }
        assert_eq!(notes.sent, 0);
    }
    assert_eq!(left(&sshd).await, "");
}

#[tokio::test]
async fn an_installer_is_replaced_if_that_is_wanted() {
    let place = Image::new(RUN);
    let place = place.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::in_namespace(&machine(OLD, "installer", "none"));
    let forced = KexecRequest { force: true, ..request(&sshd, &place) };
    // The same variant of before does not count, another boot id does.
    let (outcome, notes, _sshd) = run_and_jump(sshd, forced, |mut sshd| {
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert!(matches!(outcome, Ok(Outcome::Booted(_))), "{outcome:?}, {:?}", notes.seen);
}

#[tokio::test]
async fn an_image_without_room_is_not_sent() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let small = "for d in /var/tmp /tmp /run; do mount -t tmpfs -o size=2m none $d; done && \
                 mount -t tmpfs -o noexec none /root && mkdir -m 700 /root/.ssh && \
                 cp $SSHD_DIR/id.pub /root/.ssh/authorized_keys";
    let setup = format!("{} && {small}", machine(OLD, "", "none"));
    let sshd = Sshd::in_namespace(&setup);
    let mut notes = Notes::new(true);
    let said = error(kexec(&request(&sshd, &place), &mut notes, &never()).await);
    assert_says(&said, &["no directory", "/var/tmp: 2048 KiB are free", "/root: mounted noexec"]);
    assert_eq!((notes.sent, left(&sshd).await.as_str()), (0, ""));
}

#[tokio::test]
async fn who_answers_afterwards_is_looked_at() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let (key, wanted) = (fingerprint(&sshd.host_key("ed25519")), request(&sshd, &place));
    let (outcome, notes, sshd) = run_and_jump(sshd, wanted, Sshd::with_new_host_keys).await;
    let found = fingerprint(&sshd.host_key("ed25519"));
    assert_says(&error(outcome), &["another host key", &key, &found, "--host-key"]);
    assert!(notes.seen.iter().any(|seen| seen.contains(&found)), "{:?}", notes.seen);

    // Booted anew, but not into an installer.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let wanted = request(&sshd, &place);
    let (outcome, ..) = run_and_jump(sshd, wanted, |mut sshd| {
        sshd.boot_as(&machine(NEW, "", "none"));
        sshd
    })
    .await;
    assert_says(&error(outcome), &["booted anew", "no installer", "Some Linux 1"]);

    // It said that it would, and did not, in the time that it had.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let short = KexecRequest { bound: Duration::from_secs(5), ..request(&sshd, &place) };
    let outcome = kexec(&short, &mut Notes::new(true), &never()).await;
    assert_says(
        &error(outcome),
        &["did not boot it within ", "still runs Some Linux 1", "is removed"],
    );
    assert_eq!(left(&sshd).await, "");
}

/// Ends what serves the connection that this came by.
const CUT: &str = "echo loading; sleep 3; p=$$\n\
    while case $(cat /proc/$p/comm) in sshd*) false ;; esac; do\n\
    p=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$p/stat)\n\
    done\nkill -9 $p";

#[tokio::test]
async fn a_connection_that_breaks_says_nothing_of_the_machine() {
    let image = Image::new(CUT);
    let place = image.pack("image.tar.gz").display().to_string();
    // It was about to jump.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let wanted = request(&sshd, &place);
    let second = Duration::from_secs(1);
    let (outcome, notes, _sshd) = run_and_jump_at("loading", second, sshd, wanted, |mut sshd| {
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert!(matches!(outcome, Ok(Outcome::Booted(_))), "{outcome:?}, {:?}", notes.seen);
    assert!(notes.seen[0].contains("the connection broke"), "{:?}", notes.seen);
    // It goes on as it was: the image is removed by another connection.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let short = KexecRequest { bound: Duration::from_secs(5), ..request(&sshd, &place) };
    let outcome = kexec(&short, &mut Notes::new(true), &never()).await;
    assert_says(
        &error(outcome),
        &["the connection broke while", "still runs Some Linux 1", "is removed"],
    );
    assert_eq!(left(&sshd).await, "");
    // It is gone, and nobody knows where to.
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let short = KexecRequest { bound: Duration::from_secs(5), ..request(&sshd, &place) };
    let (outcome, _, nobody) = run_and_jump_at("loading", second, sshd, short, |mut sshd| {
        sshd.end();
        sshd
    })
    .await;
    let error = error(outcome);
    assert_says(&error, &["within 5 s", "nobody answers", "is not known", "--unload; rm -rf /"]);
    drop(nobody);
}

#[tokio::test]
async fn who_stops_waiting_hears_what_is_left() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let (stopper, stop) = stop::channel();
    let mut notes = Notes::new(true);
    let (sender, jumps) = mpsc::channel();
    notes.jumps = Some(sender);
    let asking = std::thread::spawn(move || {
        jumps.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        stopper.ask();
    });
    let outcome = kexec(&request(&sshd, &place), &mut notes, &stop).await;
    asking.join().unwrap();
    assert_says(&error(outcome), &["any longer", "still runs Some Linux 1", "is removed"]);
    assert_eq!(left(&sshd).await, "");
}

/// A sshd that lets alice in and refuses root, and alice's request.
fn of_alice(place: &str) -> (Sshd, KexecRequest) {
    let rest = format!(
        "printf 'alice ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers && {}",
        machine(OLD, "", "none")
    );
    let keys = "mkdir /home/alice/.ssh && cp /root/.ssh/authorized_keys /home/alice/.ssh/";
    let setup = with_people(&format!("{rest} && {keys}"));
    let sshd = Sshd::configured("UsePAM yes\nPermitRootLogin no\n", Some(&setup));
    let mut request = request(&sshd, place);
    request.destination = at(&sshd, "alice");
    (sshd, request)
}

#[tokio::test]
async fn an_old_system_that_refuses_root_is_no_installer_that_does() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let (sshd, wanted) = of_alice(&place);
    // Longer than three refusals take.
    let long = Duration::from_secs(30);
    let (outcome, notes, _sshd) = run_and_jump_at("will boot", long, sshd, wanted, |mut sshd| {
        sshd.configure("UsePAM no\nPermitRootLogin yes\n");
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert!(matches!(outcome, Ok(Outcome::Booted(_))), "{outcome:?}, {:?}", notes.seen);
    assert!(notes.seen.iter().any(|seen| seen.contains("lets nobody in")), "{:?}", notes.seen);
}

#[tokio::test]
async fn an_installer_that_lets_nobody_in_is_told() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let (sshd, wanted) = of_alice(&place);
    let (outcome, notes, _sshd) = run_and_jump(sshd, wanted, |mut sshd| {
        std::fs::write(sshd.dir.path().join("authorized_keys"), "").unwrap();
        // What a kernel would end with everything else.
        common::run(Command::new("sh").args([
            "-c",
            "for p in $(pgrep -x -P \"$0\" 'sshd|sshd-session'); do kill -9 $p; done",
            &sshd.pid().to_string(),
        ]));
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    assert_says(&error(outcome), &["answers at", "lets nobody in"]);
    assert!(notes.seen.len() > 1, "{:?}", notes.seen);
}

#[tokio::test]
async fn the_installer_has_to_know_the_key_and_the_machine() {
    let image = Image::new("touch /run/it-ran; echo machine will boot into nixos");
    let place = image.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::in_namespace(&machine(OLD, "", "none"));
    let session = Session::connect(&sshd.destination(), &sshd.options()).await.unwrap();
    let there = |script: &'static str| session.script("a change", script, BOUND);
    let refused = async |request: KexecRequest, words: &[&str]| {
        let mut notes = Notes::new(true);
        let said = error(kexec(&request, &mut notes, &never()).await);
        assert_says(&said, words);
        assert_eq!((notes.asked.len(), notes.sent), (0, 0));
    };
    // Another key than the one that logs in: sshd reads its keys elsewhere.
    let other = sshd.dir.path().join("other");
    keygen(&other, "ed25519", "");
    let public = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let script = format!(
        "cp -p /root/.ssh/authorized_keys /run/kept; echo '{public}' > /root/.ssh/authorized_keys"
    );
    session.script("a change", &script, BOUND).await.unwrap();
    refused(request(&sshd, &place), &["let nobody in", "none of those opens it"]).await;
    there("cp -p /run/kept /root/.ssh/authorized_keys").await.unwrap();
    // One that was unlocked for the first connection, and is locked afterwards.
    let locked = sshd.dir.path().join("locked");
    std::fs::copy(sshd.key(), &locked).unwrap();
    common::run(
        Command::new(common::tool("ssh-keygen", "openssh-client"))
            .args(["-q", "-p", "-P", "", "-N", "a passphrase", "-f"])
            .arg(&locked),
    );
    let mut typed = request(&sshd, &place);
    typed.then_connect.identities = identities(&[locked]);
    refused(typed, &["let nobody in", "without asking", "ssh-agent"]).await;
    // A host key that is not where the image takes them from.
    there("mv /etc/ssh/ssh_host_ed25519_key /run/").await.unwrap();
    let print = fingerprint(&sshd.host_key("ed25519"));
    refused(request(&sshd, &place), &["told from another machine", &print]).await;
    there("test ! -e /run/it-ran").await.unwrap();
    assert_eq!(left(&sshd).await, "");
}

#[tokio::test]
async fn any_host_key_that_was_taken_along_is_the_machine_s() {
    let image = Image::new(RUN);
    let place = image.pack("image.tar.gz").display().to_string();
    let sshd = Sshd::configured("", Some(&machine(OLD, "", "none")));
    let mut request = request(&sshd, &place);
    request.connect.host_key = HostKeyPolicy::exactly(&sshd.host_key("ecdsa"));
    let wanted = sshd.host_key("ed25519");
    let (outcome, notes, _sshd) = run_and_jump(sshd, request, |mut sshd| {
        sshd.without_host_key("ecdsa");
        sshd.boot_as(&machine(NEW, "installer", "none"));
        sshd
    })
    .await;
    match outcome {
        Ok(Outcome::Booted(key)) => assert_eq!(key.key_data(), wanted.key_data()),
        other => panic!("{other:?}, {:?}", notes.seen),
    }
}
