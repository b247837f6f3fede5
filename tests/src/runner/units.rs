//! The workspace's own tests: `cargo test`, with its output shown and counted.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::Counts;
use crate::{
    lab::timed,
    native::{NativeEnv, workspace_root},
};

/// Runs the tests of all crates; those of the agent with its static libraries.
pub(super) fn run(env: &NativeEnv) -> Result<Counts> {
    let mut counts = Counts::default();
    let plain = cargo_test(&[
        "keystone-protocol",
        "keystone-planner",
        "keystone-fetch",
        "keystone-controller",
        "keystone-lab",
    ]);
    counts.add(timed("tests of protocol, planner, fetch, controller and lab", || {
        count(plain, "protocol, planner, fetch, controller or lab")
    })?);
    let mut agent = cargo_test(&["keystone-agent"]);
    env.apply(&mut agent);
    counts.add(timed("tests of the agent", || count(agent, "agent"))?);
    Ok(counts)
}

fn cargo_test(packages: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()).args(["test", "--no-fail-fast"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    cargo
}

fn count(mut cargo: Command, what: &str) -> Result<Counts> {
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("running cargo")?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().expect("piped above")).lines() {
        let line = line.context("reading what cargo prints")?;
        println!("{line}");
        counts.line(&line);
    }
    let status = child.wait()?;
    if !status.success() && counts.failed.is_empty() {
        // Nothing was run that could have failed: it did not compile, or died.
        counts.failed.push(format!("cargo test of {what} ({status})"));
    }
    Ok(counts)
}

impl Counts {
    /// Takes note of one line of libtest's output.
    fn line(&mut self, line: &str) {
        let Some((name, verdict)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        match verdict {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(name.to_owned()),
            v if v.starts_with("ignored") => self.ignored.push(name.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libtest_are_counted() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c - should panic ... ok",
            "test a::d ... FAILED",
            "test a::e ... ignored, needs the moon",
            "test src/lib.rs - x (line 3) ... ok",
            "test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            counts.line(line);
        }
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wanted = Counts { passed: 3, failed: names(&["a::d"]), ignored: names(&["a::e"]) };
        assert_eq!(counts, wanted);
    }
}
