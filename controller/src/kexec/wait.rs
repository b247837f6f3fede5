//! Waits for the installer, and proves that it is the same machine, booted anew.

use super::error::KexecError;
use super::look::{self, Machine};
use super::start::Said;
use super::{BOUND, Progress};
use crate::operator::{Notice, Operator};
use crate::ssh::host_key::fingerprint;
use crate::ssh::{ConnectOptions, Destination, Session, SshError};
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
    /// How it is reached, with the host key of before.
    pub connect: ConnectOptions,
    /// The connection to the system that ends.
    pub old: &'a Session,
    /// The boot id of that system.
    pub boot: &'a str,
    /// What it was, to be shown.
    pub system: &'a str,
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

/// Whether an error says that a login was refused, not that the machine can't be reached.
pub(super) fn is_about_login(error: &SshError) -> bool {
    matches!(
        error,
        SshError::NotAuthenticated { .. }
            | SshError::NoIdentity { .. }
            | SshError::NoPassphrase { .. }
            | SshError::Identity { .. }
    )
}

/// What to make of a look.
fn judge(looked: Result<Machine, SshError>, boot: &str) -> Seen {
    match looked {
        Ok(machine) if machine.boot.is_empty() => Seen::Nobody("it does not say its boot id".into()),
        Ok(machine) if machine.boot == boot => Seen::Old,
        Ok(machine) => Seen::Booted(Box::new(machine)),
        Err(SshError::NotThePinnedKey { found, .. }) => Seen::OtherKey(found),
        Err(error) if is_about_login(&error) => Seen::NotLetIn(crate::chain(&error)),
        Err(error) => Seen::Nobody(crate::chain(&error)),
    }
}

impl Waiting<'_> {
    /// Waits until the installer answers.
    ///
    /// # Errors
    /// Something else does, or nobody in time, or the operator asked to stop.
    pub async fn wait<O: Operator>(
        &self,
        operator: &mut O,
        stop: &Stop,
    ) -> Result<(), KexecError> {
        let began = Instant::now();
        let at = self.at.to_string();
        let mut seen = Seen::Nobody("the machine is about to jump".into());
        let (mut same, mut words) = (0, String::new());
        loop {
            let now = seen.to_string();
            if now != words {
                let bound = self.bound;
                let waiting = Progress::Waiting { at: &at, bound, seen: &now };
                operator.notice(Notice::Kexec(waiting));
                words = now;
            }
            self.is_over(&seen, same).await?;
            if began.elapsed() >= STAYS && self.stays().await {
                let said = self.said.lines();
                return Err(KexecError::Stayed { system: self.system.to_owned(), said });
            }
            if began.elapsed() >= self.bound {
                return Err(KexecError::NotInTime { at, bound: self.bound, seen: words });
            }
            let pause = match seen {
                Seen::Nobody(_) => PAUSE,
                _ => LONG_PAUSE,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.asked(1) => return Err(KexecError::NotWaiting { at }),
            }
            let before = std::mem::discriminant(&seen);
            seen = tokio::select! {
                looked = self.look() => judge(looked, self.boot),
                () = stop.asked(1) => return Err(KexecError::NotWaiting { at }),
            };
            same = if std::mem::discriminant(&seen) == before { same + 1 } else { 1 };
            if let Seen::Booted(machine) = &seen
                && machine.is_installer()
            {
                return Ok(());
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
            Seen::OtherKey(found) if same >= LOOKS && (self.is_same_place() || !self.stays().await) => {
                let expected = fingerprint(self.old.host_key());
                Err(KexecError::OtherKey { at, expected, found: found.clone() })
            }
            Seen::NotLetIn(why) if same >= LOOKS => {
                Err(KexecError::NotLetIn { at, why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    fn is_same_place(&self) -> bool {
        let old = self.old.destination();
        (&old.host, old.port) == (&self.at.host, self.at.port)
    }

    /// Whether the old system still runs, by the connection that was made to it.
    async fn stays(&self) -> bool {
        if self.old.is_closed() {
            return false;
        }
        let boot = "cat /proc/sys/kernel/random/boot_id";
        let said = self.old.script("asking the old system", boot, LOOK).await;
        said.is_ok_and(|said| String::from_utf8_lossy(&said).trim() == self.boot)
    }

    async fn look(&self) -> Result<Machine, SshError> {
        let mut options = self.connect.clone();
        options.timeout = LOOK;
        let bound = LOOK + BOUND;
        let what = || "looking at the machine".to_owned();
        let look = async {
            let session = Session::connect(self.at, &options).await?;
            let said = session.script("asking what runs there", look::SCRIPT, BOUND).await;
            session.disconnect().await;
            Ok(Machine::parse(&String::from_utf8_lossy(&said?)))
        };
        timeout(bound, look).await.unwrap_or_else(|_| Err(SshError::TimedOut { what: what(), bound }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_id_is_another_boot() {
        let at = |boot: &str, variant: &str| {
            judge(Ok(Machine::parse(&format!("boot={boot}\nvariant={variant}\nname=N\n"))), "a")
        };
        assert_eq!(at("a", "installer"), Seen::Old);
        assert!(matches!(at("b", ""), Seen::Booted(machine) if !machine.is_installer()));
        assert!(matches!(at("b", "installer"), Seen::Booted(machine) if machine.is_installer()));
        assert!(matches!(at("", "installer"), Seen::Nobody(_)));
    }

    #[test]
    fn a_refused_login_is_not_silence() {
        let refused = SshError::NotAuthenticated {
            user: "root".into(),
            host: "h".into(),
            tried: "k".into(),
            offers: "publickey".into(),
        };
        assert!(matches!(judge(Err(refused), "a"), Seen::NotLetIn(_)));
        let other = SshError::NotThePinnedKey {
            host: "h".into(),
            expected: "SHA256:a".into(),
            found: "SHA256:b".into(),
            algorithm: "ssh-ed25519".into(),
        };
        assert_eq!(judge(Err(other), "a"), Seen::OtherKey("SHA256:b".into()));
        let silence = SshError::TimedOut { what: "x".into(), bound: LOOK };
        assert!(matches!(judge(Err(silence), "a"), Seen::Nobody(_)));
    }
}
