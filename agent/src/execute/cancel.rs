//! Stopping between two writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// The execution was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("stopped: the controller asked for it or went away")]
pub struct Cancelled;

/// A flag that asks an execution to stop. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    abandoned: AtomicBool,
}

impl Cancel {
    /// Asks to stop.
    pub fn cancel(&self) {
        if !self.is_cancelled() {
            self.0.abandoned.store(false, Ordering::SeqCst);
            self.0.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Nobody hears what is said any more, as is seen before the end of what was sent is read. That is of
    /// use still, so nothing stops yet; what fails meanwhile fails because of it.
    pub fn unheard(&self) {
        if !self.is_cancelled() {
            self.0.abandoned.store(true, Ordering::SeqCst);
        }
    }

    /// Asks to stop because nobody is there any more, though somebody may come: what is done and
    /// open is of use to who goes on. After [`Cancel::cancel`] it changes nothing.
    pub fn abandon(&self) {
        if !self.is_cancelled() {
            self.0.abandoned.store(true, Ordering::SeqCst);
            self.0.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Whether it was asked for, one way or the other.
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }

    /// Whether nobody is there any more.
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::SeqCst)
    }

    /// An error once it was asked for.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// The flag itself, for effects that poll it.
    pub fn flag(&self) -> &AtomicBool {
        &self.0.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_to_stop_has_not_abandoned_it() {
        let asked = Cancel::default();
        asked.cancel();
        asked.abandon();
        assert!(asked.check().is_err() && !asked.is_abandoned());
        let gone = Cancel::default();
        gone.abandon();
        assert!(gone.check().is_err() && gone.is_abandoned());
        gone.cancel();
        assert!(gone.is_abandoned());
    }

    #[test]
    fn who_is_not_heard_has_not_stopped_what_came_before() {
        let gone = Cancel::default();
        gone.unheard();
        assert!(gone.check().is_ok() && gone.is_abandoned());
        gone.abandon();
        assert!(gone.check().is_err() && gone.is_abandoned());
        let asked = Cancel::default();
        asked.unheard();
        // It came before the line broke, and is read after.
        asked.cancel();
        assert!(asked.check().is_err() && !asked.is_abandoned());
    }
}
