//! The one event stream of an execution.
//!
//! Order: [`EventKind::Started`] with all steps; then for each step `StepStarted`, any number of
//! `Progress`, `Output` and `Warning`, and one `StepFinished` or `StepFailed`; at the end
//! `Finished` or `Failed`. Nothing follows those. No event carries a secret.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the execution began.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The plan is about to be executed.
    Started {
        /// The plan's hash.
        plan: String,
        /// All steps, in order.
        steps: Vec<StepSummary>,
    },
    /// A step began.
    StepStarted {
        /// Its id.
        step: String,
    },
    /// A step got on.
    Progress {
        /// Its id.
        step: String,
        /// How much is done.
        done: u64,
        /// How much there is to do, if known.
        total: Option<u64>,
        /// In which unit.
        unit: Unit,
    },
    /// A line that a program run by the step printed.
    Output {
        /// The step's id.
        step: String,
        /// The line, without its end.
        line: String,
    },
    /// Something the operator has to know at the end, though it does not stop the execution.
    Warning {
        /// The step's id.
        step: String,
        /// What.
        message: String,
    },
    /// A step ended well.
    StepFinished {
        /// Its id.
        step: String,
        /// Whether it changed something.
        outcome: Outcome,
        /// What it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// A step failed. The last step event there is.
    StepFailed {
        /// Its id.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// All steps ended well.
    Finished,
    /// The execution ended before its end.
    Failed {
        /// Why, what is left on the disks, and what to do.
        failure: Failure,
    },
}

/// A step as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Its id, unique in the plan.
    pub id: String,
    /// What it does, a short phrase.
    pub title: String,
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Store paths.
    Paths,
}

/// What a step that ended well did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It made or changed something.
    Created,
    /// Everything was as it has to be.
    AlreadySo,
}

/// Why something failed, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error, outermost first.
    pub message: String,
    /// Its causes, each nearer to the root.
    pub causes: Vec<String>,
    /// What is on the disks and in the kernel now, a sentence each.
    pub left: Vec<String>,
    /// What to type or do next.
    pub next: String,
}
