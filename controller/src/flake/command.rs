//! Runs `nix`, shows what it does, keeps what it says.

use super::progress::{Progress, Said};
use crate::operator::{Notice, Operator};
use crate::stop::Stop;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io;
use std::process::Stdio;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// Lines kept of what is said, for a failure.
const KEPT: usize = 40;
/// The longest answer that is read, in bytes: a layout.
const LONGEST: u64 = 64 << 20;

/// How `nix` is to be called.
#[derive(Debug, Clone, Default)]
pub struct NixOptions {
    /// `--option NAME VALUE`, in order.
    pub options: Vec<(String, String)>,
    /// Whether builders' logs are shown.
    pub logs: bool,
    /// `--show-trace`.
    pub show_trace: bool,
    /// What `nix` calls something by, and how it is to be shown; in order.
    pub renamed: Vec<(String, String)>,
}

/// `nix` did not give what it was asked for.
#[derive(Debug, Error)]
pub enum NixError {
    /// It can't be started.
    #[error(
        "{doing} needs the program nix, which can't be started: install Nix, or build the system \
         elsewhere and give --store-path and --layout"
    )]
    NotStarted {
        /// What it was for.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{doing} failed: {}", last(said))]
    Failed {
        /// What it was to do.
        doing: String,
        /// The end of what it said.
        said: Vec<String>,
    },
    /// It said something else than expected.
    #[error("{doing}: nix said something that is not understood: {said}")]
    Unexpected {
        /// What it was to do.
        doing: String,
        /// What it said.
        said: String,
    },
    /// There is no place for what it needs on this computer.
    #[error("no directory for temporary files can be used: {source}; name another one in TMPDIR")]
    Place {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operator stopped it.
    #[error("{0} was stopped; nothing was written")]
    Stopped(String),
}

fn last(said: &[String]) -> &str {
    let error = said.iter().rev().find(|line| line.contains("error:"));
    error.or(said.last()).map_or("it said nothing", String::as_str)
}

/// Runs `nix ARGS`, of which the first is a command, and returns its standard output.
///
/// # Errors
/// [`NixError`].
pub async fn nix(
    doing: &str,
    args: &[&str],
    options: &NixOptions,
    operator: &mut impl Operator,
    stop: &Stop,
) -> Result<String, NixError> {
    operator.notice(Notice::Nix { doing: &format!("{doing} …") });
    let mut command = Command::new("nix");
    command
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args(&args[..1])
        .args(["--log-format", "internal-json", "--no-write-lock-file"])
        .args(&args[1..])
        .args(options.show_trace.then_some("--show-trace"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for (name, value) in &options.options {
        command.args(["--option", name, value]);
    }
    let fail = |source| NixError::NotStarted { doing: doing.to_owned(), source };
    let mut child = command.spawn().map_err(fail)?;
    let stderr = child.stderr.take().expect("it is piped");
    let stdout = child.stdout.take().expect("it is piped");
    let answer = tokio::spawn(async move {
        let mut answer = String::new();
        stdout.take(LONGEST).read_to_string(&mut answer).await.map(|_| answer)
    });
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut progress = Progress::default();
    let mut shown = String::new();
    let mut said = VecDeque::new();
    let mut keep = |line: &str| {
        for line in line.lines() {
            if said.len() == KEPT {
                said.pop_front();
            }
            said.push_back(line.to_owned());
        }
    };
    loop {
        let line = tokio::select! {
            line = lines.next_segment() => line,
            () = stop.asked(1) => {
                end(&mut child).await;
                return Err(NixError::Stopped(doing.to_owned()));
            }
        };
        let Ok(Some(line)) = line else { break };
        let mut line = String::from_utf8_lossy(&line);
        for (called, shown) in &options.renamed {
            line = line.replace(called, shown).into();
        }
        match progress.take(&line) {
            Some(Said::Now(words)) if words == shown => {}
            Some(Said::Now(words)) => {
                operator.notice(Notice::Nix { doing: &words });
                shown = words;
            }
            Some(Said::Log(line)) => {
                keep(&line);
                operator.notice(Notice::NixLog { line: &line, wanted: options.logs });
            }
            Some(Said::Message(text)) => {
                keep(&text);
                for line in text.lines() {
                    operator.notice(Notice::NixLog { line, wanted: true });
                }
            }
            None => {}
        }
    }
    let status = child.wait().await.map_err(fail)?;
    let answer = answer.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    match (status.success(), answer) {
        (true, Ok(answer)) => Ok(answer),
        (true, Err(error)) => {
            Err(NixError::Unexpected { doing: doing.to_owned(), said: error.to_string() })
        }
        (false, _) => Err(NixError::Failed { doing: doing.to_owned(), said: said.into() }),
    }
}

/// Ends `nix` as Ctrl-C would: it cleans up.
async fn end(child: &mut Child) {
    let bound = std::time::Duration::from_secs(10);
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
    if tokio::time::timeout(bound, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
