//! Waiting for the new system, against real sshds that play it, its installer, and others.

mod common;

use common::sshd::{Sshd, identities, with_people};
use keystone_controller::operator::{Notice, Operator, OperatorError, Proposal};
use keystone_controller::reboot::{Before, RebootError, RebootOptions, wait};
use keystone_controller::ssh::PublicKey;
use keystone_controller::stop::{self, Stop};
use keystone_protocol::plan::Plan;
use keystone_protocol::report::Report;
use keystone_protocol::secret::Secret;
use std::time::Duration;

/// Notes what was seen.
#[derive(Default)]
struct Notes(Vec<String>);

impl Operator for Notes {
    fn notice(&mut self, notice: Notice<'_>) {
        if let Notice::Waiting { seen, .. } = notice {
            self.0.push(seen.to_owned());
        }
    }

    async fn accept_host_key(&mut self, _: &str, _: &PublicKey) -> Result<bool, OperatorError> {
        unreachable!("nothing is asked while waiting")
    }

    nothing_of_an_installation!();
}

const TOPLEVEL: &str = "/run/nixos-system-nas";

/// Where `/run/current-system` leads to `system`, and os-release has `variant`.
fn booted(system: &str, variant: &str) -> Sshd {
    Sshd::in_namespace(&format!(
        "mount -t tmpfs none /run && mkdir /run/nixos-system-nas /run/older && \
         ln -s {system} /run/current-system && \
         echo VARIANT_ID={variant} > /run/os-release && mount --bind /run/os-release /etc/os-release"
    ))
}

fn report(key: &PublicKey) -> Report {
    serde_json::from_value(serde_json::json!({
        "version": 1, "agent_version": "1", "plan": "hash", "toplevel": TOPLEVEL, "disks": {},
        "pools": {}, "containers": {}, "ssh_host_key": key.to_openssh().unwrap(), "steps": [],
        "warnings": [], "ends_at": "sealed", "started_at": 1
    }))
    .unwrap()
}

fn options(sshd: &Sshd, seconds: u64) -> RebootOptions {
    RebootOptions {
        at: sshd.destination(),
        connect: sshd.options(),
        bound: Duration::from_secs(seconds),
    }
}

/// A key of nobody who answers.
fn other_key() -> PublicKey {
    PublicKey::from_openssh(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
    )
    .unwrap()
}

fn before(boot_id: &str) -> Before {
    Before { boot_id: boot_id.into(), installer: other_key() }
}

fn own_boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_new_system_is_proven() {
    let sshd = booted(TOPLEVEL, "");
    let report = report(&sshd.host_key("ed25519"));
    let mut notes = Notes::default();
    let seen = wait(&options(&sshd, 60), &before("old"), &report, &mut notes, &Stop::never()).await;
    let seen = seen.unwrap();
    assert_eq!((seen.system.as_str(), seen.boot_id), (TOPLEVEL, own_boot_id()));
}

/// Who may log in there need not be root: what is asked, anybody may ask.
#[tokio::test]
async fn the_new_system_is_proven_to_who_is_not_root() {
    let sshd = Sshd::configured(
        "PermitRootLogin no\n",
        Some(&with_people(&format!(
            "mkdir /run/nixos-system-nas && ln -s {TOPLEVEL} /run/current-system"
        ))),
    );
    let report = report(&sshd.host_key("ed25519"));
    let mut options = options(&sshd, 60);
    options.at.user = "alice".into();
    let mut notes = Notes::default();
    let seen = wait(&options, &before("old"), &report, &mut notes, &Stop::never()).await.unwrap();
    assert_eq!(seen.system, TOPLEVEL);
}

#[tokio::test]
async fn another_generation_is_not_the_new_system() {
    let sshd = booted("/run/older", "");
    let report = report(&sshd.host_key("ed25519"));
    let mut notes = Notes::default();
    let error =
        wait(&options(&sshd, 60), &before("old"), &report, &mut notes, &Stop::never()).await;
    let RebootError::OtherSystem { found, expected } = error.unwrap_err() else { panic!() };
    assert_eq!((found.as_str(), expected.as_str()), ("/run/older", TOPLEVEL));
}

#[tokio::test]
async fn the_installer_again_is_named() {
    let sshd = booted("/run/older", "installer");
    let report = report(&other_key());
    let mut notes = Notes::default();
    let error =
        wait(&options(&sshd, 60), &before("old"), &report, &mut notes, &Stop::never()).await;
    assert!(matches!(error.unwrap_err(), RebootError::InstallerAgain), "{:?}", notes.0);

    // With the same boot id it has not even gone down.
    let before = Before { boot_id: own_boot_id(), installer: sshd.host_key("ed25519") };
    let error = wait(&options(&sshd, 7), &before, &report, &mut notes, &Stop::never()).await;
    let RebootError::NotInTime { seen, .. } = error.unwrap_err() else { panic!() };
    assert_eq!(seen, "the installer is still going down");
}

#[tokio::test]
async fn who_does_not_prove_it_is_waited_for_in_vain() {
    let sshd = booted(TOPLEVEL, "");
    let mut notes = Notes::default();
    let stranger = report(&other_key());
    let error =
        wait(&options(&sshd, 12), &before("old"), &stranger, &mut notes, &Stop::never()).await;
    let RebootError::NotInTime { seen, .. } = error.unwrap_err() else { panic!() };
    assert!(seen.contains("another host key"), "{seen}");

    let report = report(&sshd.host_key("ed25519"));
    let mut nobody = options(&sshd, 12);
    nobody.connect.identities = identities(&[sshd.dir.path().join("host_ed25519")]);
    let error = wait(&nobody, &before("old"), &report, &mut notes, &Stop::never()).await;
    let RebootError::NotInTime { seen, .. } = error.unwrap_err() else { panic!() };
    assert!(seen.contains("lets nobody in"), "{seen}");

    let mut elsewhere = options(&sshd, 5);
    elsewhere.at.port = 1;
    let error = wait(&elsewhere, &before("old"), &report, &mut notes, &Stop::never()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("nobody answers") && error.contains("--installed-host"), "{error}");
}

#[tokio::test]
async fn waiting_can_be_ended() {
    let sshd = booted(TOPLEVEL, "");
    let (stopper, stop) = stop::channel();
    stopper.ask();
    let report = report(&sshd.host_key("ed25519"));
    let mut notes = Notes::default();
    let error = wait(&options(&sshd, 60), &before("old"), &report, &mut notes, &stop).await;
    assert!(matches!(error.unwrap_err(), RebootError::Interrupted));
}
