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
    pauses: Pauses,
}

/// Pauses before connections that are made anew: each twice as long as the one before.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    /// Since when no connection got on.
    broken: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { next: FIRST_PAUSE, broken: None }
    }
}

impl Pauses {
    /// The pause after a connection that ended at `now`, and whether it `got_on`; `None` if patience would be
    /// over before its end.
    fn after(&mut self, got_on: bool, now: Instant, patience: Duration) -> Option<Duration> {
        if got_on {
            *self = Pauses::default();
        }
        let since = *self.broken.get_or_insert(now);
        let pause = self.next;
        if now.duration_since(since) + pause > patience {
            return None;
        }
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl<'a> Line<'a> {
    /// To the machine of `options`, which say how patient to be.
    pub fn to(options: &'a LinkOptions) -> Self {
        Line { options, contact: Contact::default(), pauses: Pauses::default() }
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
        let got_on = got_on || std::mem::take(&mut self.contact.trail.gets_on);
        let patience = self.options.patience;
        let Some(pause) = self.pauses.after(got_on, Instant::now(), patience) else {
            return false;
        };
        operator.notice(Notice::Reconnecting { pause, why: &crate::chain(error) });
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses of a machine that is called until patience is over; each call takes `call`.
    fn pauses(pauses: &mut Pauses, mut now: Instant, call: f64, patience: u64) -> Vec<f64> {
        let mut all = Vec::new();
        while let Some(pause) = pauses.after(false, now, Duration::from_secs(patience)) {
            all.push(pause.as_secs_f64());
            now += pause + Duration::from_secs_f64(call);
        }
        all
    }

    #[test]
    fn pauses_double_up_to_a_bound_until_patience_is_over() {
        let now = Instant::now();
        let all = |call, patience| pauses(&mut Pauses::default(), now, call, patience);
        assert_eq!(all(0.0, 60), [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]);
        // How long a call took counts as well; a pause that patience ends amid is not made.
        assert_eq!(all(10.0, 60), [0.5, 1.0, 2.0, 4.0, 8.0]);
        assert_eq!(all(30.0, 60), [0.5, 1.0]);
        assert_eq!(all(0.0, 1), [0.5]);
        assert_eq!(all(0.0, 0), [0.0; 0]);
    }

    #[test]
    fn after_one_that_got_on_all_begins_anew() {
        let (mut line, patience) = (Pauses::default(), Duration::from_secs(60));
        let now = Instant::now();
        assert!(!pauses(&mut line, now, 0.0, 60).is_empty());
        let later = now + Duration::from_secs(3600);
        assert_eq!(line.after(false, later, patience), None);
        assert_eq!(line.after(true, later, patience), Some(FIRST_PAUSE));
        assert_eq!(line.after(false, later + FIRST_PAUSE, patience), Some(2 * FIRST_PAUSE));
    }

    /// Another connection does no better where it is not the line that failed.
    #[test]
    fn the_line_is_told_from_what_goes_over_it() {
        let what = "the machine".to_owned();
        let bound = Duration::from_secs(1);
        assert!(is_of_the_line(&SshError::TimedOut { what, bound }.into()));
        let doing = "planning";
        assert!(is_of_the_line(&ConversationError::TimedOut { doing, bound }.into()));
        let inconsistent = ConversationError::Inconsistent("the plan".to_owned());
        assert!(!is_of_the_line(&inconsistent.into()));
        assert!(!is_of_the_line(&InstallError::Interrupted));
    }
}
