//! The conversation with the agent.
//!
//! | module | job |
//! |---|---|
//! | [`transport`] | frames over the agent's standard input and output, in two tasks |
//! | [`log`] | the agent's standard error: shown, and its end kept for failures |
//! | [`client`] | hello, inventory, plan |
//! | [`execute`] | an execution: events, the recovery key, stopping |
//! | [`lanes`] | further connections, where one does not fill the line |
//! | `stream` | the closure's blocks, within the agent's credit |
//!
//! Reading never waits for writing: while blocks are sent, events are received. Works over any
//! pair of byte streams, so that a front end can also drive an agent that runs beside it.

pub mod client;
pub mod execute;
pub mod lanes;
pub mod log;
mod stream;
pub mod transport;

pub use client::{AgentHello, Conversation};
pub use execute::{ExecuteError, Execution};
pub use lanes::{Connections, Lanes, Memory};
pub use log::LogTail;
pub use transport::{Outgoing, PipeOut};

#[cfg(test)]
mod tests;

use keystone_protocol::message::{MessageError, Refusal};
use keystone_protocol::version::VersionMismatch;
use std::time::Duration;
use thiserror::Error;

/// The conversation went wrong.
#[derive(Debug, Error)]
pub enum ConversationError {
    /// The agent ended, or the connection did.
    #[error("the agent's end of the conversation is gone while {doing}{}", detail(ended))]
    Lost {
        /// What was going on.
        doing: &'static str,
        /// How the agent ended, and the end of its log.
        ended: String,
    },
    /// One of several connections ended, and what it carried is missing.
    #[error("one of several connections is gone while {doing}{}", detail(why))]
    LaneLost {
        /// What was going on.
        doing: &'static str,
        /// How it ended.
        why: String,
    },
    /// Not understood.
    #[error("can't understand the agent")]
    Message(#[from] MessageError),
    /// Another protocol version.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// The running program is not the one that was sent.
    #[error(
        "the running agent's hash is {found}, the one that was sent has {expected}: it is not trusted"
    )]
    OtherProgram {
        /// The hash of what was sent.
        expected: String,
        /// The hash in the hello.
        found: String,
    },
    /// A message that does not belong here.
    #[error("the agent said {said} while {doing}")]
    OutOfPlace {
        /// Which message.
        said: &'static str,
        /// What was going on.
        doing: &'static str,
    },
    /// What it said contradicts itself.
    #[error("the agent's answer does not add up: {0}")]
    Inconsistent(String),
    /// A bound was reached.
    #[error("the agent did not answer within {} s while {doing}", bound.as_secs())]
    TimedOut {
        /// What was waited for.
        doing: &'static str,
        /// How long.
        bound: Duration,
    },
    /// The agent refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ConversationError {
    /// Whether a connection is gone, so that nothing can be said any more or it goes without saying.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, ConversationError::Lost { .. } | ConversationError::LaneLost { .. })
    }
}

fn detail(ended: &str) -> String {
    match ended {
        "" => String::new(),
        ended => format!(": {ended}"),
    }
}
