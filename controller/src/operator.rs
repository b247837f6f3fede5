//! Who is asked and told: the seam for front ends.
//!
//! The library never touches a terminal. Whatever it has to say goes to [`Operator::notice`];
//! whatever it has to know it asks here. [`crate::ui`] is the command line's operator.

use crate::kexec::{Ending, Progress};
use crate::ssh::PublicKey;
use crate::upload::LocalAgent;
use keystone_protocol::event::Event;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::Report;
use keystone_protocol::secret::Secret;
use std::future::Future;
use std::time::Duration;
use thiserror::Error;

/// Something to tell. None of it is secret.
#[derive(Debug)]
pub enum Notice<'a> {
    /// Something that the operator should know of the options given, a sentence.
    Remark(&'a str),
    /// What `nix` does.
    Nix {
        /// A phrase.
        doing: &'a str,
    },
    /// A line that `nix` or a builder printed.
    NixLog {
        /// The line, fit for a terminal.
        line: &'a str,
        /// Whether it is an error, a warning, or was asked for.
        wanted: bool,
    },
    /// The machine is being called.
    Connecting {
        /// `user@host[:port]`.
        destination: &'a str,
    },
    /// Logged in; the host key was the expected one.
    Connected {
        /// `SHA256:…`
        host_key: &'a str,
    },
    /// The agent is being brought to the machine.
    Uploading {
        /// Which.
        agent: &'a LocalAgent,
    },
    /// The agent runs.
    AgentStarted {
        /// Its version.
        version: &'a str,
        /// Where it lies on the machine.
        path: &'a str,
        /// Whether it had to be sent.
        sent: bool,
    },
    /// What the machine is.
    Inventory(&'a Inventory),
    /// What would be done.
    Plan(&'a Plan),
    /// The execution's event stream.
    Event(&'a Event),
    /// A line of the agent's log.
    AgentLog {
        /// The line, fit for a terminal.
        line: &'a str,
    },
    /// The connection broke; another one is made.
    Reconnecting {
        /// After this pause.
        pause: Duration,
        /// What happened to the last one.
        why: &'a str,
    },
    /// More connections than one carry the closure, since one does not fill the line.
    Connections {
        /// How many.
        count: usize,
    },
    /// An installer is being booted by kexec.
    Kexec(Progress<'a>),
    /// Stopping was asked for.
    Stopping,
    /// The machine goes down.
    Rebooting,
    /// The new system is waited for.
    Waiting {
        /// `host:port`.
        at: &'a str,
        /// At most this long.
        bound: Duration,
        /// What was seen there last, a phrase.
        seen: &'a str,
    },
    /// The new system was seen running.
    Verified {
        /// `user@host[:port]`.
        destination: &'a str,
        /// From the reboot until then.
        elapsed: Duration,
    },
    /// It is over, well.
    Done(&'a Report),
}

/// What the operator has to agree to.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// The host as the operator gave it.
    pub host: &'a str,
    /// What the machine is.
    pub inventory: &'a Inventory,
    /// What would be done.
    pub plan: &'a Plan,
}

/// The operator could not answer, or did not want to.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// Did not agree.
    #[error("not confirmed: {0}")]
    NotConfirmed(String),
    /// Something that has to be given was not, and nobody can be asked.
    #[error("{0}")]
    Missing(String),
    /// A password or PIN that was given is not taken.
    #[error("{0}")]
    Unusable(String),
    /// Reading or writing failed.
    #[error("{what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Who is asked and told.
pub trait Operator: Send {
    /// Something to show. Must not block for long.
    fn notice(&mut self, notice: Notice<'_>);

    /// Whether a host key that is not known is the machine's.
    fn accept_host_key(
        &mut self,
        host: &str,
        key: &PublicKey,
    ) -> impl Future<Output = Result<bool, OperatorError>> + Send;

    /// Makes sure that everything the plan will ask for can be answered, before it is confirmed:
    /// a source of the password, a place for the recovery keys.
    fn prepare(&mut self, plan: &Plan) -> impl Future<Output = Result<(), OperatorError>> + Send;

    /// Confirms the plan; anything but `Ok` means no.
    fn confirm(
        &mut self,
        proposal: &Proposal<'_>,
    ) -> impl Future<Output = Result<(), OperatorError>> + Send;

    /// Confirms that what runs on the machine ends, for an installer to run there.
    fn confirm_end(
        &mut self,
        ending: &Ending<'_>,
    ) -> impl Future<Output = Result<(), OperatorError>> + Send {
        let text = format!("nobody can be asked whether {} may end", ending.system);
        std::future::ready(Err(OperatorError::NotConfirmed(text)))
    }

    /// The password that will open the containers at boot, checked for strength.
    fn password(
        &mut self,
        containers: &[&str],
    ) -> impl Future<Output = Result<Secret, OperatorError>> + Send;

    /// The PIN that the TPM asks for.
    fn pin(
        &mut self,
        containers: &[&str],
    ) -> impl Future<Output = Result<Secret, OperatorError>> + Send;

    /// A password or recovery key for a container that is there already. `tried` is what failed
    /// so far, a sentence each.
    fn unlock_key(
        &mut self,
        container: &str,
        tried: &[String],
    ) -> impl Future<Output = Result<Secret, OperatorError>> + Send {
        let text = format!("nobody can be asked what opens {container}: {}", tried.join("; "));
        std::future::ready(Err(OperatorError::Missing(text)))
    }

    /// Another program gets the terminal now: nothing may be drawn until the next notice.
    fn stand_back(&mut self) {}

    /// Keeps a recovery key: `Ok` only once it was shown, or is on the disk.
    fn keep_recovery_key(
        &mut self,
        container: &str,
        key: &Secret,
    ) -> impl Future<Output = Result<(), OperatorError>> + Send;
}
