//! Waits for the installer, and proves that it is the same machine, booted anew.

use super::error::KexecError;
use super::look::{self, Machine};
use super::old::{Fate, Old};
use super::start::{RUN, Said};
use super::{BOUND, Progress};
use crate::operator::{Notice, Operator};
use crate::ssh::{ConnectOptions, Destination, Pin, PublicKey, Session, SshError};
use crate::stop::Stop;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Bound of one look.
const LOOK: Duration = Duration::from_secs(20);
/// Between two looks while nobody answers.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two looks while somebody does: sshd slows down who fails to log in often.
const LONG_PAUSE: Duration = Duration::from_secs(8);
/// Looks in a row that have to see the same before it is believed to stay.
const LOOKS: u32 = 3;
/// A system that still runs so long after it was to end goes on running.
const STAYS: Duration = Duration::from_secs(120);

/// What is waited for, and what was before.
pub struct Waiting<'a> {
    /// Where the installer will answer.
    pub at: &'a Destination,
    /// How it is reached, with the host keys of before.
    pub connect: ConnectOptions,
    /// The system that ends.
    pub old: &'a Old,
    /// How long to wait.
    pub bound: Duration,
    /// What the image's program said.
    pub said: &'a Said,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Nobody, and why.
    Nobody(String),
    /// The system that is to end.
    Old,
    /// Somebody with another host key: its fingerprint.
    OtherKey(String),
    /// The right host key, but no login.
    NotLetIn(String),
    /// A system that was booted since.
    Booted(Box<Machine>),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Nobody(why) => write!(f, "nobody answers ({why})"),
            Seen::Old => f.write_str("the old system still answers"),
            Seen::OtherKey(found) => write!(f, "somebody with another host key answers ({found})"),
            Seen::NotLetIn(why) => write!(f, "the machine answers, but lets nobody in: {why}"),
            Seen::Booted(machine) => write!(f, "{} runs", machine.system()),
        }
    }
}

/// Whether an error says that a login was refused there, not that the machine can't be reached: a
/// machine on the way that lets nobody in keeps it out of reach.
pub(super) fn is_about_login(error: &SshError, at: &Destination) -> bool {
    match error {
        SshError::NotAuthenticated { host, .. } | SshError::NoIdentity { host, .. } => {
            *host == at.host
        }
        SshError::NoPassphrase { .. } | SshError::Identity { .. } => true,
        _ => false,
    }
}

/// What to make of a look.
fn judge(looked: Result<Machine, SshError>, boot: &str, at: &Destination) -> Seen {
    match looked {
        Ok(machine) if machine.boot.is_empty() => {
            Seen::Nobody("it does not say its boot id".into())
        }
        Ok(machine) if machine.boot == boot => Seen::Old,
        Ok(machine) => Seen::Booted(Box::new(machine)),
        Err(SshError::NotThePinnedKey { found, .. }) => Seen::OtherKey(found),
        Err(error) if is_about_login(&error, at) => Seen::NotLetIn(crate::chain(&error)),
        Err(error) => Seen::Nobody(crate::chain(&error)),
    }
}

/// Why it is not waited any longer.
enum Over {
    /// The installer runs, and has this host key.
    Booted(PublicKey),
    /// Something else answers.
    Failed(KexecError),
    /// Time is up: what was seen last.
    TooLong(String),
    /// The operator asked to stop.
    Stopped,
}

impl Waiting<'_> {
    /// Waits until the installer answers.
    ///
    /// # Errors
    /// Something else does, or nobody in time, or the operator asked to stop. If the old system
    /// still runs then, the image is taken away from it.
    pub async fn wait<O: Operator>(
        &self,
        operator: &mut O,
        stop: &Stop,
    ) -> Result<PublicKey, KexecError> {
        let began = Instant::now();
        let over = tokio::select! {
            over = self.watch(began, operator) => over,
            () = stop.asked(1) => Over::Stopped,
        };
        let at = self.at.to_string();
        let seen = match over {
            Over::Booted(key) => return Ok(key),
            Over::Failed(error) => return Err(error),
            Over::Stopped => {
                return Err(KexecError::NotWaiting { at, left: self.old.clear().await });
            }
            Over::TooLong(seen) => seen,
        };
        let left = self.old.clear().await;
        if !left.runs() {
            return Err(KexecError::NotInTime { at, bound: self.bound, seen, left });
        }
        let why = match self.said.is_promised() {
            true => "the image's kexec/run said that the machine will boot the image",
            false => "the connection broke while the image's kexec/run worked",
        };
        Err(KexecError::Stayed { why, after: began.elapsed(), left, said: self.said.lines() })
    }

    async fn watch<O: Operator>(&self, began: Instant, operator: &mut O) -> Over {
        let at = self.at.to_string();
        // A program whose end nobody saw may still be at work.
        let (first, stays) = match self.said.is_promised() {
            true => ("the machine is about to jump", STAYS),
            false => ("the connection broke while kexec/run worked", RUN),
        };
        let mut seen = Seen::Nobody(first.into());
        let (mut same, mut words) = (0, String::new());
        loop {
            let now = seen.to_string();
            if now != words {
                let bound = self.bound;
                let waiting = Progress::Waiting { at: &at, bound, seen: &now };
                operator.notice(Notice::Kexec(waiting));
                words = now;
            }
            if let Err(error) = self.is_over(&seen, same).await {
                return Over::Failed(error);
            }
            let elapsed = began.elapsed();
            if elapsed >= self.bound || elapsed >= stays && self.old.fate().await == Fate::Runs {
                return Over::TooLong(words);
            }
            let pause = match seen {
                Seen::Nobody(_) => PAUSE,
                _ => LONG_PAUSE,
            };
            sleep(pause.min(self.bound - elapsed)).await;
            let before = std::mem::discriminant(&seen);
            let looked = self.look().await;
            let key = looked.as_ref().ok().map(|(_, key)| key.clone());
            seen = judge(looked.map(|(machine, _)| machine), &self.old.machine.boot, self.at);
            same = if std::mem::discriminant(&seen) == before { same + 1 } else { 1 };
            if let (Seen::Booted(machine), Some(key)) = (&seen, key)
                && machine.is_installer()
            {
                return Over::Booted(key);
            }
        }
    }

    /// Whether there is nothing to wait for after `same` looks that saw this.
    async fn is_over(&self, seen: &Seen, same: u32) -> Result<(), KexecError> {
        let at = self.at.to_string();
        match seen {
            Seen::Booted(machine) => {
                Err(KexecError::NotAnInstaller { at, system: machine.system() })
            }
            // At another address somebody else may have been all the time, until the machine comes.
            Seen::OtherKey(found)
                if same >= LOOKS
                    && (self.is_same_place() || self.old.fate().await != Fate::Runs) =>
            {
                let expected = self.connect.host_key.pinned.as_ref().map(Pin::to_string);
                let expected = expected.unwrap_or_default();
                Err(KexecError::OtherKey { at, expected, found: found.clone() })
            }
            // The old system may let in another user alone, and refuse root as long as it runs.
            Seen::NotLetIn(why) if same >= LOOKS && self.is_gone().await => {
                Err(KexecError::NotLetIn { at, why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    fn is_same_place(&self) -> bool {
        let old = self.old.session.destination();
        (&old.host, old.port) == (&self.at.host, self.at.port)
    }

    /// Whether the old system is known not to run, where its host key answers at the new place.
    async fn is_gone(&self) -> bool {
        match self.old.fate().await {
            Fate::Gone => true,
            Fate::Silent => !self.is_same_place(),
            Fate::Runs => false,
        }
    }

    async fn look(&self) -> Result<(Machine, PublicKey), SshError> {
        let mut options = self.connect.clone();
        options.timeout = LOOK;
        let bound = LOOK + BOUND;
        let what = || "looking at the machine".to_owned();
        let look = async {
            let session = Session::connect(self.at, &options).await?;
            let said = session.script("asking what runs there", look::SCRIPT, BOUND).await;
            session.disconnect().await;
            Ok((Machine::parse(&String::from_utf8_lossy(&said?)), session.host_key().clone()))
        };
        timeout(bound, look)
            .await
            .unwrap_or_else(|_| Err(SshError::TimedOut { what: what(), bound }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Destination {
        "root@h".parse().unwrap()
    }

    #[test]
    fn another_boot_id_is_another_boot() {
        let at = |boot: &str, variant: &str| {
            judge(
                Ok(Machine::parse(&format!("boot={boot}\nvariant={variant}\nname=N\n"))),
                "a",
                &place(),
            )
        };
        assert_eq!(at("a", "installer"), Seen::Old);
        assert!(matches!(at("b", ""), Seen::Booted(machine) if !machine.is_installer()));
        assert!(matches!(at("b", "installer"), Seen::Booted(machine) if machine.is_installer()));
        assert!(matches!(at("", "installer"), Seen::Nobody(_)));
    }

    #[test]
    fn a_refused_login_is_not_silence() {
        let refused = |host: &str| SshError::NotAuthenticated {
            user: "root".into(),
            host: host.into(),
            tried: "k".into(),
            offers: "publickey".into(),
        };
        let judge = |looked| judge(looked, "a", &place());
        assert!(matches!(judge(Err(refused("h"))), Seen::NotLetIn(_)));
        // One on the way says nothing of the machine.
        assert!(matches!(judge(Err(refused("bastion"))), Seen::Nobody(_)));
        let other = SshError::NotThePinnedKey {
            host: "h".into(),
            expected: "SHA256:a".into(),
            found: "SHA256:b".into(),
            algorithm: "ssh-ed25519".into(),
        };
        assert_eq!(judge(Err(other)), Seen::OtherKey("SHA256:b".into()));
        let silence = SshError::TimedOut { what: "x".into(), bound: LOOK };
        assert!(matches!(judge(Err(silence)), Seen::Nobody(_)));
    }
}
