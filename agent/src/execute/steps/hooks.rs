//! Hooks of the layout.

use crate::ensure::Ensured;
use crate::execute::{Execution, StepResult};
use crate::hook::{self, Value};
use keystone_protocol::plan::{HookPlan, HookValue};
use std::collections::BTreeMap;

/// Runs a hook. What it did only it knows, so it counts as having changed something.
pub(super) fn run_hook(run: &mut Execution<'_>, step: &str, plan: &HookPlan) -> StepResult {
    let variables: BTreeMap<String, Value> =
        plan.variables.iter().map(|(name, value)| (name.clone(), value_of(value))).collect();
    let roots = run.machine.roots().clone();
    let cancel = run.cancel.clone();
    let stop = move || cancel.is_cancelled();
    let mut say = |line: &str| run.output(step, line);
    hook::run(&roots, &plan.path, &variables, &plan.script, &mut say, &stop)?;
    Ok(Ensured::Created)
}

fn value_of(value: &HookValue) -> Value {
    match value {
        HookValue::String(word) => Value::Word(word.clone()),
        HookValue::List(words) => Value::List(words.clone()),
        HookValue::Set(map) => Value::Map(map.clone()),
    }
}
