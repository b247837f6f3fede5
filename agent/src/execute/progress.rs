//! How far a step is, said not too often.

use crate::store::Progress;
use keystone_protocol::event::{EventKind, Unit};
use std::time::{Duration, Instant};

/// The most often that one step's progress is said.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What is said of a closure that is being received: paths and bytes, both together.
#[derive(Debug, Default)]
pub(crate) struct ClosureProgress {
    throttle: Throttle,
    said: Option<Progress>,
}

impl ClosureProgress {
    /// What to say of `step` now: nothing, if something was said a moment ago, or the same.
    pub(crate) fn events(&mut self, step: &str, at: &Progress) -> Vec<EventKind> {
        let end = at.bytes == at.bytes_total && at.paths == at.paths_total;
        if self.said.as_ref() == Some(at) || !self.throttle.due(end) {
            return Vec::new();
        }
        self.said = Some(*at);
        [(at.paths, at.paths_total, Unit::Paths), (at.bytes, at.bytes_total, Unit::Bytes)]
            .map(|(done, total, unit)| EventKind::Progress {
                step: step.to_owned(),
                done,
                total: Some(total),
                unit,
            })
            .into()
    }
}

/// Keeps a step from saying its progress too often.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    /// Whether it is time to say it again; the end always is.
    pub(crate) fn due(&mut self, end: bool) -> bool {
        let due = end || self.last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_bytes_are_said_together_and_the_end_always() {
        let mut said = ClosureProgress::default();
        let at = |bytes, paths| Progress { bytes, bytes_total: 10, paths, paths_total: 2 };
        let counts = |events: Vec<EventKind>| -> Vec<(u64, Option<u64>, Unit)> {
            let count = |kind| match kind {
                EventKind::Progress { done, total, unit, .. } => (done, total, unit),
                other => panic!("{other:?}"),
            };
            events.into_iter().map(count).collect()
        };
        let first = counts(said.events("closure", &at(0, 0)));
        assert_eq!(first, [(0, Some(2), Unit::Paths), (0, Some(10), Unit::Bytes)]);
        assert_eq!(said.events("closure", &at(5, 1)), []);
        assert_eq!(said.events("closure", &at(10, 1)), []);
        let last = counts(said.events("closure", &at(10, 2)));
        assert_eq!(last, [(2, Some(2), Unit::Paths), (10, Some(10), Unit::Bytes)]);
        assert_eq!(said.events("closure", &at(10, 2)), [], "said twice");
    }
}
