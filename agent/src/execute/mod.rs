//! Runs a plan's steps, and nothing else.
//!
//! The executor does not know who is at the other end: it takes secrets and the closure from
//! [`Supplies`], says what happens to an [`EventSink`], and is stopped by a [`Cancel`]. A
//! controller over SSH, a file on the installer's own medium or a test stand behind the same
//! three.
//!
//! | module | job |
//! |---|---|
//! | [`supplies`] | what an execution needs from outside |
//! | [`begun`] | what one agent leaves for the next: phase by phase, or when its connection broke |
//! | [`cancel`] | stopping between two writes |
//! | [`lock`] | one execution at a time |
//! | [`journal`] | start and end of each step, on stable storage |
//! | [`machine`] | what the plan's names are on this machine: nodes, GUIDs, keys in memory |
//! | `progress` | how far a step is, said not too often |
//! | [`steps`] | one function for each kind of step: from the plan's words to an effect |
//! | [`failure`] | from an error to what the operator reads |
//!
//! To add a step: a variant of `Action` in the protocol, a function in [`steps`], and the place
//! in the planner where it is put in order.

pub mod begun;
pub mod cancel;
pub mod failure;
pub mod journal;
pub mod lock;
pub mod machine;
pub(crate) mod progress;
pub mod steps;
pub mod supplies;
#[cfg(test)]
mod testing;

use crate::ensure::Ensured;
use begun::Begun;
use cancel::Cancel;
use journal::Journal;
use keystone_protocol::event::{Event, EventKind, Failure, Outcome, StepSummary};
use keystone_protocol::manifest::Manifest;
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::{Action, Plan, Step};
use keystone_protocol::report::{EndsAt, Report, StepReport};
use machine::Machine;
use std::path::{Path, PathBuf};
use std::time::Instant;
use supplies::{EventSink, Supplies};

/// One execution of a plan.
pub struct Execution<'a> {
    plan: &'a Plan,
    manifest: &'a Manifest,
    machine: Machine,
    supplies: &'a mut dyn Supplies,
    sink: &'a mut dyn EventSink,
    cancel: &'a Cancel,
    journal: Journal,
    began: Instant,
    steps: Vec<StepReport>,
    warnings: Vec<String>,
    phases: Phases,
    leaves: Option<PathBuf>,
    /// Whether what another agent needs was left, and whether everything is open for it.
    left: bool,
    open: bool,
}

impl<'a> Execution<'a> {
    /// Prepares to run `plan` on `machine`. Nothing is written before [`Execution::run`].
    pub fn new(
        plan: &'a Plan,
        manifest: &'a Manifest,
        machine: Machine,
        supplies: &'a mut dyn Supplies,
        sink: &'a mut dyn EventSink,
        cancel: &'a Cancel,
        journal: Journal,
    ) -> Self {
        Execution {
            plan,
            manifest,
            machine,
            supplies,
            sink,
            cancel,
            journal,
            began: Instant::now(),
            steps: Vec::new(),
            warnings: plan.warnings.clone(),
            phases: Phases::ALL,
            leaves: None,
            left: false,
            open: false,
        }
    }

    /// Leaves what another agent needs to go on at `path` when the target is mounted; and if the
    /// execution is abandoned after that, everything open.
    pub fn leaving(mut self, path: &Path) -> Self {
        self.leaves = Some(path.to_owned());
        self
    }

    /// Whether it was abandoned, and everything is open for another agent.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Closes what is open, as far as it goes, and says what is there then.
    pub fn close(&mut self) -> Vec<String> {
        self.open = false;
        self.machine.close_after_failure(self.plan)
    }

    /// Runs only these phases; with the first left out, going on with what was begun.
    pub fn only(mut self, phases: Phases, begun: Option<&Begun>) -> Self {
        self.phases = phases;
        if let Some(begun) = begun {
            self.machine.restore(&begun.machine);
            self.steps = begun.report.steps.clone();
            self.warnings = begun.report.warnings.clone();
        }
        self
    }

    /// What another agent needs to go on, after [`Execution::run`] gave `report`.
    pub fn begun(&self, report: &Report) -> Begun {
        Begun {
            plan: self.plan.clone(),
            done: self.phases.install,
            machine: self.machine.state(),
            report: report.clone(),
        }
    }

    /// The steps to run. Going on begins with a look at what is mounted: a target that was
    /// unmounted meanwhile is mounted again, or the step says why it can't be.
    fn wanted(&self) -> Vec<&'a Step> {
        let plan = self.plan;
        let before = match self.phases.disko {
            true => &[],
            false => &plan.steps[..plan.mounted_at()],
        };
        let mounts = before.iter().filter(|step| matches!(step.action, Action::Mount(_)));
        mounts.chain(&plan.steps[self.phases.steps(plan)]).collect()
    }

    /// Runs all steps in order. After a failure what was opened is closed again as far as it
    /// goes, and the failure says what is left.
    pub fn run(&mut self) -> Result<Report, Failure> {
        let wanted = self.wanted();
        let steps = wanted
            .iter()
            .map(|step| StepSummary { id: step.id.clone(), title: step.title.clone() })
            .collect();
        self.emit(EventKind::Started { plan: self.plan.hash.clone(), steps });
        let mounted = &self.plan.steps[..self.plan.mounted_at()];
        for step in wanted {
            if self.phases.install
                && (!self.phases.disko || !mounted.iter().any(|other| std::ptr::eq(other, step)))
            {
                self.machine.look_at_esps(self.plan);
                self.leave();
            }
            if let Err(failure) = self.run_step(step) {
                self.emit(EventKind::Failed { failure: failure.clone() });
                return Err(failure);
            }
        }
        self.emit(EventKind::Finished);
        let ends_at = match self.plan.basis.options.skip_seal || !self.plan.is_sealed() {
            _ if !self.phases.install => EndsAt::Mounted,
            true => EndsAt::BeforeSeal,
            false => EndsAt::Sealed,
        };
        Ok(self.report(ends_at))
    }

    fn run_step(&mut self, step: &Step) -> Result<(), Failure> {
        let began = Instant::now();
        let result = self
            .cancel
            .check()
            .map_err(steps::StepError::from)
            .and_then(|()| self.journal.started(&step.id).map_err(steps::StepError::from))
            .and_then(|()| {
                self.emit(EventKind::StepStarted { step: step.id.clone() });
                steps::run(self, step)
            });
        let elapsed_ms = began.elapsed().as_millis() as u64;
        match result {
            Ok(ensured) => {
                let outcome = Outcome::from(ensured);
                self.journal_best_effort(step, Ok(outcome));
                self.emit(EventKind::StepFinished { step: step.id.clone(), outcome, elapsed_ms });
                self.steps.push(StepReport { id: step.id.clone(), elapsed_ms, outcome });
                Ok(())
            }
            Err(error) => {
                self.journal_best_effort(step, Err(&error));
                self.open = self.left && self.cancel.is_abandoned();
                let left = match self.open {
                    true => vec!["everything is open, for another agent to go on".to_owned()],
                    false => self.end(),
                };
                let failure = failure::of_step(&error, left, self.plan, self.phases);
                self.emit(EventKind::StepFailed {
                    step: step.id.clone(),
                    failure: failure.clone(),
                });
                Err(failure)
            }
        }
    }

    /// Leaves what another agent needs, once.
    fn leave(&mut self) {
        let Some(path) = self.leaves.clone().filter(|_| !self.left) else { return };
        let report = self.report(EndsAt::Mounted);
        match (Begun { done: false, ..self.begun(&report) }).write(&path) {
            Ok(()) => self.left = true,
            Err(error) => tracing::warn!("if the connection breaks, nobody can go on: {error}"),
        }
    }

    /// Closes everything; nobody can go on.
    fn end(&mut self) -> Vec<String> {
        if let (true, Some(path)) = (self.left, &self.leaves)
            && let Err(error) = Begun::forget(path)
        {
            tracing::warn!("{error}");
        }
        self.machine.close_after_failure(self.plan)
    }

    /// A step's end is told even if the journal can no longer be written: the step was done.
    fn journal_best_effort(&mut self, step: &Step, result: Result<Outcome, &steps::StepError>) {
        let written = match result {
            Ok(outcome) => self.journal.finished(&step.id, outcome),
            Err(error) => self.journal.failed(&step.id, error),
        };
        if let Err(error) = written {
            self.warn(&step.id, format!("the journal could not be written: {error}"));
        }
    }

    fn emit(&mut self, kind: EventKind) {
        let at_ms = self.began.elapsed().as_millis() as u64;
        self.sink.emit(Event { at_ms, kind });
    }

    fn warn(&mut self, step: &str, message: String) {
        self.warnings.push(message.clone());
        self.emit(EventKind::Warning { step: step.to_owned(), message });
    }

    fn output(&mut self, step: &str, line: &str) {
        self.emit(EventKind::Output { step: step.to_owned(), line: line.to_owned() });
    }

    fn report(&self, ends_at: EndsAt) -> Report {
        self.machine.report(self.plan, &self.steps, &self.warnings, ends_at)
    }
}

/// Shorthand for the step functions.
type StepResult = Result<Ensured, steps::StepError>;
