//! From an error to what the operator reads.

use super::steps::StepError;
use keystone_protocol::event::Failure;
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use std::error::Error;

/// The causes of `error`, each nearer to the root; repeated sentences are left out.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.ends_with(&text) {
            causes.push(text.clone());
        }
        said = text;
        next = cause.source();
    }
    causes
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}

/// What the operator reads when a step failed with `error` and `left` is what is there now. Which
/// step it was stands in the event.
pub fn of_step(error: &StepError, left: Vec<String>, plan: &Plan, phases: Phases) -> Failure {
    let disks: Vec<&str> =
        plan.basis.disks.values().map(|identity| identity.name.as_str()).collect();
    let again =
        format!("{} (on {})", plan.basis.options.disko_mode.again(phases), disks.join(" and "));
    let next = if error.is_stop() { again } else { format!("mend the cause and {again}") };
    Failure { message: error.to_string(), causes: causes(error), left, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("opening /dev/zfs")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_listed_without_the_outermost() {
        let error = Outer(std::io::Error::other("no such device"));
        assert_eq!(causes(&error), ["no such device"]);
    }
}
