//! Running a command, with an error that carries all there is to know.

use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

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

/// `command`, ended by timeout(1) when it has run for `bound`; its standard streams are to be set
/// anew.
pub fn bounded(command: &Command, bound: Duration) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg("--kill-after=10").arg(bound.as_secs().to_string());
    under(limited, command)
}

/// `command` as the last arguments of `outer`, with its environment and directory; its standard
/// streams are to be set anew.
pub fn under(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}

/// Whether a command was ended by [`bounded`]'s bound (timeout(1): 124, or 137 if it had to be
/// killed).
pub fn ran_out_of_time(status: ExitStatus) -> bool {
    matches!(status.code(), Some(124 | 137))
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
