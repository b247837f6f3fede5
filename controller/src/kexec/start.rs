//! Runs the image's `kexec/run` and judges what it says.

use super::{Progress, command};
use crate::conversation::log::{LogTail, clean};
use crate::operator::{Notice, Operator};
use crate::ssh::exec::{Exit, Running, collect};
use crate::ssh::{Session, SshError};
use crate::stop::Stop;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::{Instant, timeout_at};

/// What the program says once the kernel is loaded and it is about to jump.
/// Source: nixos-images, `nix/kexec-installer/kexec-run.sh`.
pub const MAGIC: &str = "machine will boot into nixos";

/// Whether a line is the shell's trace of a command: nixos-images' program runs with `set -x`.
pub fn is_trace(line: &str) -> bool {
    line.trim_start_matches('+').starts_with(' ') && line.starts_with('+')
}

/// Bound of the program: it packs the machine's keys and loads the image into the kernel.
pub(super) const RUN: Duration = Duration::from_secs(600);
/// Bound of its end, once it said [`MAGIC`]: what waits to jump may hold its output open.
const LINGER: Duration = Duration::from_secs(20);
/// What is said to who asks to stop meanwhile.
const STOPPING: &str = "kexec/run is at work on the machine; when it has ended (in 10 min at most), what it \
    did is undone, and this stops (asking again changes nothing)";
/// The longest line, in bytes.
const LONGEST: u64 = 64 << 10;

/// What the program said.
#[derive(Debug, Default)]
pub struct Said {
    tail: LogTail,
    magic: bool,
}

impl Said {
    /// Its last lines.
    pub fn lines(&self) -> Vec<String> {
        self.tail.lines().map(str::to_owned).collect()
    }

    /// Whether it said that the machine will boot; if not, the connection broke before it ended,
    /// and what became of it is not known.
    pub fn is_promised(&self) -> bool {
        self.magic
    }

    fn take(&mut self, line: &str) {
        self.magic |= line.contains(MAGIC);
        self.tail.push(line);
    }

    /// Whether the machine is going to boot the image, or may be; `exit` is `None` if the program
    /// did not end in time.
    fn judge(&self, exit: Option<&Exit>) -> Result<(), String> {
        match (exit, self.magic) {
            (Some(Exit::Status(0)) | None, true) => Ok(()),
            // It may have jumped, or may be about to: the boot id will tell.
            (Some(Exit::Lost), _) => Ok(()),
            (Some(Exit::Status(0)), false) => {
                Err("it ended without having said that the machine will boot".into())
            }
            (Some(exit), _) => Err(format!("it ended with {exit}")),
            (None, false) => Err(format!("it took longer than {} s", RUN.as_secs())),
        }
    }
}

/// The program did not do its work: why, and what it said.
#[derive(Debug)]
pub struct Failed {
    /// A phrase.
    pub why: String,
    /// What it said.
    pub said: Said,
}

impl From<SshError> for Failed {
    fn from(error: SshError) -> Self {
        let why = format!("it could not be started: {}", crate::chain(&error));
        Failed { why, said: Said::default() }
    }
}

/// Runs the program in `dir`; `Ok` says that the machine is about to boot the image, or that the
/// connection broke before it said so.
///
/// # Errors
/// It failed, or did not say so.
pub async fn start<O: Operator>(
    session: &Session,
    dir: &str,
    flags: Option<&str>,
    setsid: bool,
    operator: &mut O,
    stop: &Stop,
) -> Result<Said, Failed> {
    let Running { stdin, stdout, stderr, exit, .. } = session.start("/bin/sh -s").await?;
    let broke = |source| Failed::from(session.broken("starting the image", source));
    stdin.send(command::run(dir, flags, setsid)).await.map_err(broke)?;
    let _ = stdin.eof().await;
    let mut said = Said::default();
    let mut until = Instant::now() + RUN;
    let mut stdout = BufReader::new(stdout);
    let lines = async {
        let mut asked = false;
        loop {
            let mut line = Vec::new();
            let read = async { (&mut stdout).take(LONGEST).read_until(b'\n', &mut line).await };
            tokio::pin!(read);
            let read = loop {
                tokio::select! {
                    read = timeout_at(until, &mut read) => break read,
                    () = stop.asked(1), if !asked => {
                        asked = true;
                        operator.notice(Notice::Remark(STOPPING));
                    }
                }
            };
            match read {
                Ok(Ok(1..)) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
            let line = clean(&line);
            operator.notice(Notice::Kexec(Progress::Said { line: &line }));
            said.take(&line);
            if said.magic {
                until = until.min(Instant::now() + LINGER);
            }
        }
    };
    // What the shell and who made us root say for themselves.
    let (ended, besides) = tokio::join!(lines, async {
        timeout_at(Instant::now() + RUN, collect(stderr, LONGEST as usize)).await
    });
    let exit = match ended {
        true => timeout_at(until, exit).await.ok().map(|exit| exit.unwrap_or(Exit::Lost)),
        false => None,
    };
    if let Ok(besides) = besides {
        besides.split(|b| *b == b'\n').filter(|line| !line.is_empty()).for_each(|line| {
            said.take(&clean(line));
        });
    }
    match said.judge(exit.as_ref()) {
        Ok(()) => Ok(said),
        Err(why) => Err(Failed { why, said }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        let mut said = Said::default();
        lines.iter().for_each(|line| said.take(line));
        said
    }

    #[test]
    fn traces_are_told_from_words() {
        assert!(is_trace("+ set -eux") && is_trace("++ dirname /x"));
        assert!(!is_trace("1234 blocks") && !is_trace("+x") && !is_trace(" + x"));
    }

    #[test]
    fn status_and_magic_line_both_count() {
        let good = said(&["loading", "machine will boot into nixos in 6s..."]);
        assert!(good.judge(Some(&Exit::Status(0))).is_ok());
        // It jumped, or what waits to jump keeps its output.
        assert!(good.judge(Some(&Exit::Lost)).is_ok() && good.judge(None).is_ok());
        assert!(good.judge(Some(&Exit::Status(1))).unwrap_err().contains("exit status 1"));
        let bad = said(&["loading"]);
        assert!(bad.judge(Some(&Exit::Status(0))).unwrap_err().contains("without having said"));
        // Nobody saw its end.
        assert!(bad.judge(Some(&Exit::Lost)).is_ok() && !bad.is_promised() && good.is_promised());
        assert!(bad.judge(None).unwrap_err().contains("600 s"));
        assert_eq!(bad.lines(), ["loading"]);
    }
}
