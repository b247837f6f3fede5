//! What the child says to the agent.
//!
//! Reports go through the pipe that the programs print to, so that they and the programs' lines
//! have one order: `\n`, a secret of this run, JSON, `\n`. The agent gives the secret through the
//! leash. A report is written at once and shorter than `PIPE_BUF`, so nothing gets in between.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A program that is run in the chroot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// `activate`.
    Activate,
    /// `systemd-tmpfiles --create --remove -E`.
    Tmpfiles,
    /// `switch-to-configuration boot`.
    Bootloader,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 3] = [Phase::Activate, Phase::Tmpfiles, Phase::Bootloader];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Activate => "activate",
            Phase::Tmpfiles => "systemd-tmpfiles",
            Phase::Bootloader => "switch-to-configuration boot",
        })
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    NotStarted(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Status(status) => write!(f, "ended with status {status}"),
            Ended::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {signal}"),
            },
            Ended::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// Something the child reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Init runs, with this PID in the agent's namespace.
    Init(i32),
    /// Something is not as it should be, but it goes on.
    Warning(String),
    /// A program starts.
    Begun(Phase),
    /// It ended.
    Ended(Phase, Ended),
    /// The chroot could not be set up.
    Failed(String),
}

/// Length of the secret, in hexadecimal digits.
pub(super) const SECRET: usize = 32;
/// The longest text that a report carries, in characters.
const MAX_TEXT: usize = 300;

impl Report {
    /// The bytes to write.
    pub(super) fn encode(mut self, secret: &str) -> Vec<u8> {
        if let Report::Warning(text)
        | Report::Failed(text)
        | Report::Ended(_, Ended::NotStarted(text)) = &mut self
            && let Some((at, _)) = text.char_indices().nth(MAX_TEXT)
        {
            text.truncate(at);
        }
        // Of strings and numbers there is always a JSON form.
        let json = serde_json::to_string(&self).unwrap_or_default();
        format!("\n{secret}{json}\n").into_bytes()
    }

    /// The report in a line, if it is one.
    pub(super) fn decode(line: &str, secret: &str) -> Option<serde_json::Result<Report>> {
        line.strip_prefix(secret).map(serde_json::from_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_fit_in_one_write() {
        let secret = "a".repeat(SECRET);
        for text in ["x", "\u{1}", "\u{10ffff}", "\"\n"] {
            let report = Report::Ended(Phase::Bootloader, Ended::NotStarted(text.repeat(9000)));
            let bytes = report.encode(&secret);
            assert!(bytes.len() <= nix::libc::PIPE_BUF, "{}", bytes.len());
            let line = String::from_utf8(bytes).unwrap();
            let again = Report::decode(line.trim(), &secret).unwrap().unwrap();
            assert!(matches!(again, Report::Ended(_, Ended::NotStarted(_))));
        }
        assert!(Report::decode("installing", &secret).is_none());
    }
}
