//! Checks as people and programs read them.

use super::{Check, Outcome, Verified};
use crate::ui::style::Style;
use serde_json::{Value, json};
use std::fmt::Write;

/// A line for each check, and the counts.
pub fn text(verified: &Verified, style: Style) -> String {
    let mut out = String::new();
    for Check { check, outcome, required, evidence } in &verified.checks {
        let mark = match outcome {
            Outcome::Pass => style.green("✓ PASS"),
            Outcome::Fail if *required => style.red("✗ FAIL"),
            Outcome::Fail => style.yellow("! WARN"),
            Outcome::Skip => style.dim("- SKIP"),
        };
        let _ = writeln!(out, "{mark}: {check} - {}", evidence.replace('\n', "; "));
    }
    let count = |outcome| verified.count(outcome);
    let _ = writeln!(
        out,
        "{} passed, {} failed, {} skipped",
        count(Outcome::Pass),
        count(Outcome::Fail),
        count(Outcome::Skip)
    );
    out
}

/// The same for programs.
pub fn json(verified: &Verified) -> Value {
    json!({
        "checks": verified.checks,
        "passed": verified.count(Outcome::Pass),
        "failed": verified.count(Outcome::Fail),
        "skipped": verified.count(Outcome::Skip),
        "good": verified.is_good(),
    })
}
