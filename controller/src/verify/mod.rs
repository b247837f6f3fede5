//! `keystone verify`: is the machine what was installed, seen from inside over SSH?
//!
//! Nothing is brought to the machine and nothing on it is changed: one shell script asks the
//! system's own programs, in one go and with a bound for each, and the answers are judged here.
//! What a check needs and the machine does not have makes it skipped, with the reason.
//!
//! | module | job |
//! |---|---|
//! | [`facts`] | the script, and what its answers say |
//! | [`checks`] | facts and expectations → checks: pure |
//! | [`firewall`] | what a rule set lets in: pure |
//! | [`iptables`], [`nft`] | rule sets as their programs print them |
//! | [`show`] | checks as text and as JSON |

pub mod checks;
pub mod facts;
pub mod firewall;
pub mod iptables;
pub mod nft;
pub mod show;

use crate::ssh::{Session, SshError};
use facts::Facts;
use keystone_protocol::report::Report;
use serde::Serialize;
use std::time::Duration;

/// Bound of all questions together; each has its own within.
const BOUND: Duration = Duration::from_secs(180);

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it has to be.
    Pass,
    /// Not as it has to be.
    Fail,
    /// Can't be told on this machine, or there is nothing to compare with.
    Skip,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name: `firewall`.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// Whether its failure fails the verification; else it is only said.
    pub required: bool,
    /// What was seen.
    pub evidence: String,
}

/// What the machine should be.
#[derive(Debug, Default)]
pub struct Expected {
    /// The report of its installation.
    pub report: Option<Report>,
    /// Its host name, if not the one in its own `/etc/hostname`.
    pub hostname: Option<String>,
}

/// All checks of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// In the order they are shown.
    pub checks: Vec<Check>,
}

impl Verified {
    /// How many came out so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }

    /// Whether no required check failed.
    pub fn is_good(&self) -> bool {
        !self.checks.iter().any(|check| check.required && check.outcome == Outcome::Fail)
    }

    /// The exit code of `keystone verify`: 0 if all is well, 1 if not. (2 is for a machine that
    /// could not be asked.)
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_good())
    }
}

/// Asks the machine behind `session` and judges its answers.
///
/// # Errors
/// It could not be asked, or who logged in can't become root there: much of what is looked at
/// only root may see.
pub async fn verify(session: &Session, expected: &Expected) -> Result<Verified, SshError> {
    let session = session.as_root().await?;
    let answers = session.script("asking the machine", facts::SCRIPT, BOUND).await?;
    let facts = Facts::parse(&String::from_utf8_lossy(&answers));
    Ok(Verified { checks: checks::all(&facts, session.host_key(), expected) })
}
