//! Running a command, with an error that carries all there is to know.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end and returns its output.
///
/// # Errors
/// It could not be started, or ended with anything but success; then the error
/// shows the command, its status and the end of what it printed.
pub fn run(command: &mut Command) -> Result<Output> {
    let line = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("{line}\nended with {}:\n{}", output.status, tail(&text, 40));
    }
    Ok(output)
}

/// Runs `command` and returns its standard output as trimmed text.
///
/// # Errors
/// As [`run`], or the output is not UTF-8.
pub fn text(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
