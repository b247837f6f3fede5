//! The one bounded wait.

use std::time::{Duration, Instant};

/// What a poll found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll<T> {
    /// What was waited for.
    Ready(T),
    /// Not yet, and what is there instead.
    Pending(String),
}

/// What was waited for did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {bound:?} for {what}: {last}")]
pub struct Timeout {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub bound: Duration,
    /// What was there instead at the end.
    pub last: String,
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Polls until it is [`Poll::Ready`], fails, or `bound` has passed. The last poll is made after
/// the bound, so a machine that stood still for a while does not fail for it.
///
/// `what` completes "waited 60s for …".
pub fn wait<T, E: From<Timeout>>(
    what: &str,
    bound: Duration,
    mut poll: impl FnMut() -> Result<Poll<T>, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + bound;
    let mut pause = FIRST_PAUSE;
    loop {
        let late = Instant::now() >= deadline;
        match poll()? {
            Poll::Ready(value) => return Ok(value),
            Poll::Pending(last) if late => {
                return Err(Timeout { what: what.to_owned(), bound, last }.into());
            }
            Poll::Pending(last) => tracing::trace!(what, last, "waiting"),
        }
        std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_ends_it() {
        let mut polls = 0;
        let got: Result<_, Timeout> = wait("three", Duration::from_secs(5), || {
            polls += 1;
            Ok(if polls == 3 { Poll::Ready(polls) } else { Poll::Pending(format!("{polls}")) })
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn the_bound_ends_it_and_says_what_and_why() {
        let error = wait::<(), Timeout>("the node /dev/vda1", Duration::from_millis(30), || {
            Ok(Poll::Pending("there is none".into()))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 30ms for the node /dev/vda1: there is none");
    }

    #[test]
    fn an_error_ends_it_at_once() {
        #[derive(Debug, PartialEq)]
        struct Broken;
        impl From<Timeout> for Broken {
            fn from(_: Timeout) -> Self {
                panic!("timed out")
            }
        }
        assert_eq!(wait::<(), Broken>("x", Duration::from_secs(5), || Err(Broken)), Err(Broken));
    }
}
