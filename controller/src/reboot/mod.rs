//! Waits for the new system and proves that it is the one that was installed.
//!
//! Proof is: SSH answers with exactly the host key that was made during the installation, the
//! boot id is another one, and `/run/current-system` is the toplevel. Everything else that
//! answers is named for what it is: the installer that came up again, a system with another key
//! (an initrd that waits for its password, say).
//!
//! | module | job |
//! |---|---|
//! | [`look`] | one look at whoever answers |

pub mod look;

use crate::conversation::ConversationError;
use crate::operator::{Notice, Operator};
use crate::ssh::{ConnectOptions, Destination, PublicKey};
use crate::stop::Stop;
use keystone_protocol::report::Report;
use look::Seen;
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// Where the new system is waited for.
#[derive(Debug, Clone)]
pub struct RebootOptions {
    /// Where it will answer.
    pub at: Destination,
    /// How to get there and what to log in with; its host key is the installed one.
    pub connect: ConnectOptions,
    /// How long to wait.
    pub bound: Duration,
}

/// What was there before the reboot.
#[derive(Debug, Clone)]
pub struct Before {
    /// The installer's boot id.
    pub boot_id: String,
    /// The installer's host key.
    pub installer: PublicKey,
}

/// What was seen of the new system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Where it answered.
    pub at: String,
    /// Its boot id.
    pub boot_id: String,
    /// The installer's boot id.
    pub boot_id_before: String,
    /// `/run/current-system`, resolved.
    pub system: String,
    /// Its host name.
    pub hostname: String,
    /// From the reboot until it answered, in milliseconds.
    pub waited_ms: u64,
}

/// The new system was not seen running.
#[derive(Debug, Error)]
pub enum RebootError {
    /// The agent does not restart the machine.
    #[error("the machine was installed, but could not be told to restart: restart it by hand")]
    NotRestarted(#[from] ConversationError),
    /// Nothing to compare with.
    #[error("the machine was installed, but its report has no SSH host key to know it by")]
    NoHostKey,
    /// Not in time.
    #[error(
        "the new system did not answer at {at} within {} s; seen last: {seen}. Look at the \
         machine's console: it may be asking for a password or the recovery key, or have another \
         address (--installed-host)", bound.as_secs()
    )]
    NotInTime {
        /// Where it was waited for.
        at: String,
        /// How long.
        bound: Duration,
        /// What was seen last.
        seen: String,
    },
    /// The installer came up again.
    #[error(
        "the machine came up from the installer again, not from its disk: take the installer's \
         medium out, or put the disk first in the firmware's boot order, and restart it"
    )]
    InstallerAgain,
    /// Another system was booted.
    #[error(
        "the machine runs {found}, not the installed {expected}: an older entry of its boot menu?"
    )]
    OtherSystem {
        /// What runs.
        found: String,
        /// What was installed.
        expected: String,
    },
    /// The operator does not wait any longer.
    #[error("not waiting for the new system any longer; the machine is installed and sealed")]
    Interrupted,
}

/// Between two looks while nobody answers.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two looks while somebody else answers: sshd slows down who fails to log in often.
const LONG_PAUSE: Duration = Duration::from_secs(8);
/// Looks in a row that have to see the installer before it is believed to stay.
const INSTALLER_LOOKS: u32 = 2;

/// Waits.
pub async fn wait<O: Operator>(
    options: &RebootOptions,
    before: &Before,
    report: &Report,
    operator: &mut O,
    stop: &Stop,
) -> Result<Verification, RebootError> {
    let expected = report
        .ssh_host_key
        .as_deref()
        .and_then(|text| PublicKey::from_openssh(text).ok())
        .ok_or(RebootError::NoHostKey)?;
    let at = options.at.to_string();
    let started = Instant::now();
    let mut seen = Seen::Nobody("the machine is going down".into());
    let mut installer_looks = 0;
    let mut said = String::new();
    loop {
        let words = seen.to_string();
        if words != said {
            operator.notice(Notice::Waiting { at: &at, bound: options.bound, seen: &words });
            said.clone_from(&words);
        }
        let pause = match &seen {
            Seen::Nobody(_) | Seen::GoingDown | Seen::Starting => PAUSE,
            _ => LONG_PAUSE,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.asked(1) => return Err(RebootError::Interrupted),
        }
        if started.elapsed() >= options.bound {
            return Err(RebootError::NotInTime { at, bound: options.bound, seen: words });
        }
        seen = tokio::select! {
            seen = look::look(&options.at, &options.connect, &expected, before) => seen,
            () = stop.asked(1) => return Err(RebootError::Interrupted),
        };
        match &seen {
            Seen::Installed(machine) if machine.system == report.toplevel => {
                let elapsed = started.elapsed();
                operator.notice(Notice::Verified { destination: &at, elapsed });
                return Ok(Verification {
                    at,
                    boot_id: machine.boot_id.clone(),
                    boot_id_before: before.boot_id.clone(),
                    system: machine.system.clone(),
                    hostname: machine.hostname.clone(),
                    waited_ms: elapsed.as_millis() as u64,
                });
            }
            // Until activation has made the link.
            Seen::Installed(machine) if machine.system.is_empty() => seen = Seen::Starting,
            Seen::Installed(machine) => {
                return Err(RebootError::OtherSystem {
                    found: machine.system.clone(),
                    expected: report.toplevel.clone(),
                });
            }
            Seen::Installer => {
                installer_looks += 1;
                if installer_looks >= INSTALLER_LOOKS {
                    return Err(RebootError::InstallerAgain);
                }
            }
            _ => installer_looks = 0,
        }
    }
}
