//! Where an execution is.

use keystone_protocol::event::{Event, EventKind, Outcome, StepSummary, Unit};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Lines of a step's output that are kept for a failure.
const KEPT: usize = 20;
/// The rate is taken over this long.
const WINDOW_MS: u64 = 10_000;

/// All steps of an execution.
#[derive(Debug, Default)]
pub struct Steps {
    steps: Vec<StepView>,
    index: HashMap<String, usize>,
    current: Option<usize>,
    now_ms: u64,
}

/// A step.
#[derive(Debug)]
pub struct StepView {
    /// Its id.
    pub id: String,
    /// What it does.
    pub title: String,
    /// How far it is.
    pub state: State,
    started_ms: u64,
    bytes: Option<Counter>,
    paths: Option<(u64, Option<u64>)>,
    output: VecDeque<String>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To come.
    Pending,
    /// Going on.
    Running,
    /// Ended well.
    Done(Outcome, Duration),
    /// Failed.
    Failed,
}

#[derive(Debug)]
struct Counter {
    done: u64,
    total: Option<u64>,
    /// Time and position of recent reports, oldest first.
    recent: VecDeque<(u64, u64)>,
}

impl Steps {
    /// Takes an event in.
    pub fn take(&mut self, event: &Event) {
        self.now_ms = self.now_ms.max(event.at_ms);
        match &event.kind {
            EventKind::Started { steps, .. } => {
                self.steps = steps.iter().map(StepView::new).collect();
                self.index =
                    self.steps.iter().enumerate().map(|(i, s)| (s.id.clone(), i)).collect();
            }
            EventKind::StepStarted { step } => {
                self.current = self.index.get(step).copied();
                if let Some(view) = self.get_mut(step) {
                    view.state = State::Running;
                    view.started_ms = event.at_ms;
                }
            }
            EventKind::Progress { step, done, total, unit } => {
                if let Some(view) = self.get_mut(step) {
                    view.progress(event.at_ms, *done, *total, *unit);
                }
            }
            EventKind::Output { step, line } => {
                if let Some(view) = self.get_mut(step) {
                    if view.output.len() == KEPT {
                        view.output.pop_front();
                    }
                    view.output.push_back(line.clone());
                }
            }
            EventKind::StepFinished { step, outcome, elapsed_ms } => {
                self.current = None;
                if let Some(view) = self.get_mut(step) {
                    view.state = State::Done(*outcome, Duration::from_millis(*elapsed_ms));
                }
            }
            EventKind::StepFailed { step, .. } => {
                if let Some(view) = self.get_mut(step) {
                    view.state = State::Failed;
                }
            }
            EventKind::Warning { .. } | EventKind::Finished | EventKind::Failed { .. } => {}
        }
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut StepView> {
        self.index.get(id).and_then(|&index| self.steps.get_mut(index))
    }

    /// A step and its number, from 1.
    pub fn get(&self, id: &str) -> Option<(usize, &StepView)> {
        self.index.get(id).and_then(|&index| Some((index + 1, self.steps.get(index)?)))
    }

    /// The step that runs, and its number.
    pub fn current(&self) -> Option<(usize, &StepView)> {
        let index = self.current?;
        Some((index + 1, self.steps.get(index)?))
    }

    /// All of them.
    pub fn all(&self) -> &[StepView] {
        &self.steps
    }

    /// Time of the last event, in milliseconds since the execution began.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }
}

impl StepView {
    fn new(summary: &StepSummary) -> Self {
        StepView {
            id: summary.id.clone(),
            title: summary.title.clone(),
            state: State::Pending,
            started_ms: 0,
            bytes: None,
            paths: None,
            output: VecDeque::new(),
        }
    }

    fn progress(&mut self, at_ms: u64, done: u64, total: Option<u64>, unit: Unit) {
        match unit {
            Unit::Paths => self.paths = Some((done, total)),
            Unit::Bytes => {
                let start = (self.started_ms, 0);
                let counter = self.bytes.get_or_insert_with(|| Counter {
                    done,
                    total,
                    recent: VecDeque::from([start]),
                });
                counter.done = done;
                counter.total = total;
                counter.recent.push_back((at_ms, done));
                while counter.recent.len() > 2 && counter.recent[1].0 + WINDOW_MS <= at_ms {
                    counter.recent.pop_front();
                }
            }
        }
    }

    /// Bytes done and to do.
    pub fn bytes(&self) -> Option<(u64, Option<u64>)> {
        self.bytes.as_ref().map(|counter| (counter.done, counter.total))
    }

    /// Store paths done and to do.
    pub fn paths(&self) -> Option<(u64, Option<u64>)> {
        self.paths
    }

    /// Bytes per second over the last ten seconds.
    pub fn rate(&self) -> Option<u64> {
        let recent = &self.bytes.as_ref()?.recent;
        let ((t0, n0), (t1, n1)) = (recent.front()?, recent.back()?);
        let (time, bytes) = (t1.checked_sub(*t0)?, n1.checked_sub(*n0)?);
        (time >= 500 && bytes > 0).then(|| bytes.saturating_mul(1000) / time)
    }

    /// How long the rest takes at this rate.
    pub fn eta(&self) -> Option<Duration> {
        let (done, total) = self.bytes()?;
        let rest = total?.checked_sub(done)?;
        Some(Duration::from_secs(rest.div_ceil(self.rate()?.max(1))))
    }

    /// The last lines that its programs printed.
    pub fn output(&self) -> impl Iterator<Item = &str> {
        self.output.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_rest_come_from_the_last_seconds() {
        let mut steps = Steps::default();
        let mut at = |at_ms, kind| steps.take(&Event { at_ms, kind });
        let steps_list = vec![StepSummary { id: "closure".into(), title: "receive".into() }];
        at(0, EventKind::Started { plan: String::new(), steps: steps_list });
        at(1000, EventKind::StepStarted { step: "closure".into() });
        let progress = |done| EventKind::Progress {
            step: "closure".into(),
            done,
            total: Some(1000),
            unit: Unit::Bytes,
        };
        at(2000, progress(10));
        at(30_000, progress(100));
        at(35_000, progress(350));
        at(40_000, progress(600));
        let (number, view) = steps.current().unwrap();
        assert_eq!((number, view.rate(), view.eta()), (1, Some(50), Some(Duration::from_secs(8))));
        assert_eq!(view.state, State::Running);
    }
}
