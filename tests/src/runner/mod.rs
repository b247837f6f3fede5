//! Running scenarios, and everything else that `cargo lab test` runs.
//!
//! A [`Scenario`] is a function that drives machines and fails with a reason.
//! They run one after another: each machine wants the whole computer. Those that
//! leave the live system as they found it share one ([`Context::live`]), since
//! booting it costs the better part of a minute where processors are emulated.

mod context;
mod units;

use std::time::Instant;

use anyhow::{Result, ensure};

pub use context::{Context, Live};

use crate::{
    lab::{Lab, timed},
    native, setup,
};

/// One thing to see happen on real machines.
pub struct Scenario {
    /// Its name: words joined by hyphens.
    pub name: &'static str,
    /// Whether the gate (`cargo lab test` without more) runs it.
    pub gate: bool,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Does it.
    pub run: fn(&Context) -> Result<()>,
}

/// How many passed and failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Names of what failed.
    pub failed: Vec<String>,
    /// Left out by `#[ignore]`, by name.
    pub ignored: Vec<String>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored.extend(other.ignored);
    }
}

/// What scenarios are given, outside of a test.
///
/// # Errors
/// Set-up failed.
pub fn context() -> Result<Context> {
    setup::ensure_all()?;
    let lab = Lab::open()?;
    let env = timed("static libraries of the agent", || native::ensure(lab.cache()))?;
    Ok(Context::new(lab, env))
}

/// `cargo lab test`: set-up, unit and property tests, scenarios; closes with the counts.
///
/// With `filter`, only the scenarios whose name contains it, gate or not, and no unit tests.
///
/// # Errors
/// Set-up failed, something failed, or nothing matched `filter`.
pub fn test(scenarios: &[Scenario], all: bool, filter: Option<&str>) -> Result<()> {
    let began = Instant::now();
    setup::ensure_all()?;
    let lab = Lab::open()?;
    let env = timed("static libraries of the agent", || native::ensure(lab.cache()))?;

    let mut total = Counts::default();
    if filter.is_none() {
        let units = units::run(&env)?;
        println!("unit and property tests: {} passed, {} failed", units.passed, units.failed.len());
        total.add(units);
    }

    let chosen =
        |scenario: &&Scenario| filter.map_or(all || scenario.gate, |f| scenario.name.contains(f));
    let (run, left): (Vec<&Scenario>, Vec<&Scenario>) = scenarios.iter().partition(chosen);
    ensure!(
        filter.is_none() || !run.is_empty(),
        "no scenario's name contains {:?}",
        filter.unwrap_or_default()
    );
    let counts = run_scenarios(&Context::new(lab, env), &run);
    println!("scenarios: {} passed, {} failed", counts.passed, counts.failed.len());
    total.add(counts);

    println!();
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|scenario| scenario.name).collect();
        println!("left out here, run by `cargo lab test --all`: {}", names.join(", "));
    }
    if !total.ignored.is_empty() {
        println!("ignored: {}", total.ignored.join(", "));
    }
    for name in &total.failed {
        println!("failed: {name}");
    }
    println!("took {} min {} s", began.elapsed().as_secs() / 60, began.elapsed().as_secs() % 60);
    println!("{} passed, {} failed", total.passed, total.failed.len());
    ensure!(total.failed.is_empty(), "{} failed", total.failed.len());
    Ok(())
}

fn run_scenarios(context: &Context, scenarios: &[&Scenario]) -> Counts {
    let mut counts = Counts::default();
    for scenario in scenarios {
        println!("scenario {} … ({})", scenario.name, scenario.about);
        let began = Instant::now();
        // One that panics has failed; the others still have something to say.
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (scenario.run)(context)))
                .unwrap_or_else(|panic| {
                    let text = panic
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                    Err(anyhow::anyhow!(
                        "panicked: {}",
                        text.unwrap_or_else(|| "no message".to_owned())
                    ))
                });
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("scenario {} … ok ({seconds:.1} s)", scenario.name);
                counts.passed += 1;
            }
            Err(error) => {
                println!("scenario {} … FAILED ({seconds:.1} s): {error:#}", scenario.name);
                counts.failed.push(format!("scenario {}", scenario.name));
                // Whatever state it left, the next one starts afresh.
                context.discard_live();
            }
        }
    }
    counts
}
