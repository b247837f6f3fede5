//! Parts of an installation that can be asked for one by one.

use crate::plan::{Action, Plan, Step};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Which parts of a plan are to be run. Neither: nothing, and what was done before is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// From the first step to the mounted target.
    pub disko: bool,
    /// From the closure to the seal.
    pub install: bool,
}

impl Default for Phases {
    fn default() -> Self {
        Phases::ALL
    }
}

impl Phases {
    /// The whole plan.
    pub const ALL: Phases = Phases { disko: true, install: true };
    /// Nothing of it.
    pub const NONE: Phases = Phases { disko: false, install: false };

    /// Whether something is written.
    pub fn any(self) -> bool {
        self.disko || self.install
    }

    /// The steps to run, by their place in the plan.
    pub fn steps(self, plan: &Plan) -> Range<usize> {
        let (mounted, all) = (plan.mounted_at(), plan.steps.len());
        match (self.disko, self.install) {
            (true, true) => 0..all,
            (true, false) => 0..mounted,
            (false, true) => mounted..all,
            (false, false) => all..all,
        }
    }
}

impl Plan {
    /// How many steps there are until the target is mounted and can be filled: those of the
    /// phase `disko`. The closure is the first thing in it.
    pub fn mounted_at(&self) -> usize {
        let fills = |step: &Step| matches!(step.action, Action::ReceiveClosure { .. });
        self.steps.iter().position(fills).unwrap_or(self.steps.len())
    }
}
