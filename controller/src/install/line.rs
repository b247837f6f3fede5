//! Connections to one machine, one after another as they break.

use super::error::InstallError;
use super::link::{Link, LinkOptions};
use crate::conversation::{ConversationError, ExecuteError, Memory};
use crate::operator::{Notice, Operator};
use crate::ssh::SshError;
use crate::stop::Stop;
use crate::upload::{Trail, UploadError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first pause before a connection is made anew.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What connections leave for the next one.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Whether any let us in.
    pub(super) reached: bool,
    pub(super) trail: Trail,
    /// What is known of the way.
    pub(super) memory: Arc<Memory>,
}

/// A machine, and the patience that is left with the way to it.
#[derive(Debug)]
pub struct Line<'a> {
    options: &'a LinkOptions,
    contact: Contact,
    pause: Duration,
    /// Since when no connection got on.
    broken: Option<Instant>,
}

impl<'a> Line<'a> {
    /// To the machine of `options`, which say how patient to be.
    pub fn to(options: &'a LinkOptions) -> Self {
        Line { options, contact: Contact::default(), pause: FIRST_PAUSE, broken: None }
    }

    /// Makes one connection, up to the agent's hello.
    ///
    /// # Errors
    /// As [`Link::open`]; the operator asked to stop.
    pub async fn open<O: Operator>(
        &mut self,
        operator: &mut O,
        stop: &Stop,
    ) -> Result<Link, InstallError> {
        tokio::select! {
            link = Link::open_on(self.options, &mut self.contact, operator) => link,
            () = stop.asked(1) => Err(InstallError::Interrupted),
        }
    }

    /// After a connection ended with `error`: waits until it is time for another one. `got_on`
    /// says whether it brought something to its end.
    ///
    /// `false` if another connection would do no better, patience is over, or the operator asked
    /// to stop.
    pub async fn broke<O: Operator>(
        &mut self,
        error: &InstallError,
        got_on: bool,
        operator: &mut O,
        stop: &Stop,
    ) -> bool {
        // Who could not be reached at all is not called again and again.
        if !self.contact.reached || !is_of_the_line(error) {
            return false;
        }
        if got_on || std::mem::take(&mut self.contact.trail.gets_on) {
            (self.pause, self.broken) = (FIRST_PAUSE, None);
        }
        let since = self.broken.get_or_insert_with(Instant::now);
        if since.elapsed() + self.pause > self.options.patience {
            return false;
        }
        operator.notice(Notice::Reconnecting { pause: self.pause, why: &crate::chain(error) });
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop.asked(1) => false,
        }
    }
}

/// Whether the connection is at fault, and another one may do better.
pub(super) fn is_of_the_line(error: &InstallError) -> bool {
    let ssh = |error: &SshError| {
        matches!(
            error,
            SshError::Resolve { .. }
                | SshError::Unreachable { .. }
                | SshError::Handshake { .. }
                | SshError::TimedOut { .. }
                | SshError::Broken { .. }
                | SshError::Jump { .. }
                | SshError::ProxyCommand { .. }
        )
    };
    let conversation = |error: &ConversationError| {
        matches!(
            error,
            ConversationError::Lost { .. }
                | ConversationError::LaneLost { .. }
                | ConversationError::TimedOut { .. }
                | ConversationError::Message(_)
        )
    };
    match error {
        InstallError::Ssh(error) | InstallError::Upload(UploadError::Ssh(error)) => ssh(error),
        InstallError::Conversation(error) => conversation(error),
        InstallError::Copy { error, .. } | InstallError::Execute { error, .. } => {
            matches!(error.as_ref(), ExecuteError::Conversation(error) if conversation(error))
        }
        _ => false,
    }
}
