//! The agent's side: starts the keeper, hands on what it hears, and sees to it that it ends.

use super::child::SUBCOMMAND;
use super::report::{Ended, Phase, Report, SECRET};
use crate::lines::Lines;
use keystone_protocol::store_path::base_name;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How often a wait looks at the cancel flag, in milliseconds.
const TICK: u16 = 200;
/// How many of a program's last lines an error keeps.
const LAST_LINES: usize = 15;

/// Which system's programs are run, and where.
#[derive(Debug, Clone)]
pub struct System {
    /// The executable that calls [`super::child_main`] for [`SUBCOMMAND`]: this one.
    pub agent: PathBuf,
    /// Where the target's root is mounted (`/mnt`).
    pub root: PathBuf,
    /// The system's store path.
    pub toplevel: String,
    /// How long things may take.
    pub limits: Limits,
}

impl System {
    /// A system below `root`, run by this executable.
    pub fn new(root: impl Into<PathBuf>, toplevel: impl Into<String>) -> Self {
        System {
            agent: "/proc/self/exe".into(),
            root: root.into(),
            toplevel: toplevel.into(),
            limits: Limits::default(),
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Namespaces and mounts.
    pub setup: Duration,
    /// `activate`.
    pub activate: Duration,
    /// `systemd-tmpfiles`.
    pub tmpfiles: Duration,
    /// `switch-to-configuration boot`: it copies kernel and initrd of each generation.
    pub bootloader: Duration,
    /// The end of all processes once they are killed.
    pub kill: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Limits {
            setup: MINUTE,
            activate: 15 * MINUTE,
            tmpfiles: 5 * MINUTE,
            bootloader: 15 * MINUTE,
            kill: MINUTE,
        }
    }
}

/// What running the programs did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// What the operator has to know, though it is no failure. A sentence each.
    pub warnings: Vec<String>,
}

/// Why the boot loader is not installed.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// The system is no store path.
    #[error("{0} is not a store path")]
    NotASystem(String),
    /// The keeper could not be started.
    #[error("could not start {} to enter the system", agent.display())]
    Start {
        /// The executable.
        agent: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The chroot could not be set up.
    #[error("could not enter the system: {0}")]
    Enter(String),
    /// The keeper ended without a word, or said something strange.
    #[error("the process that runs the system's programs {0}")]
    Keeper(String),
    /// `switch-to-configuration boot` failed.
    #[error("{phase} {ended}{}", last_lines(last))]
    Program {
        /// Which program.
        phase: Phase,
        /// How it ended.
        ended: Ended,
        /// Its last lines.
        last: Vec<String>,
    },
    /// A program took too long, and was killed.
    #[error("{what} took longer than {} s and was killed{}", limit.as_secs(), last_lines(last))]
    TooLong {
        /// Which.
        what: String,
        /// What it had.
        limit: Duration,
        /// Its last lines.
        last: Vec<String>,
    },
    /// Processes outlive their being killed: they hang in the kernel.
    #[error(
        "processes of the system still run {} s after they were killed ({processes}): they hang \
         in the kernel, and the target can't be unmounted before a restart",
        limit.as_secs()
    )]
    Unkillable {
        /// How long was waited.
        limit: Duration,
        /// Which: PID and name.
        processes: String,
    },
    /// It was told to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A pipe failed.
    #[error("could not hear the system's programs")]
    Hear(#[from] io::Error),
}

fn last_lines(lines: &[String]) -> String {
    if lines.is_empty() {
        return "; it printed nothing".to_owned();
    }
    format!("; its last lines were:\n  {}", lines.join("\n  "))
}

/// Runs `activate`, `systemd-tmpfiles` and `switch-to-configuration boot` of a system whose
/// profile is set. `line` gets each line they print; `cancel` ends them within moments.
///
/// `activate` and `systemd-tmpfiles` may fail, which becomes a warning, as in nixos-enter. When
/// this returns, no process of the system runs, unless it says so.
pub fn run(
    system: &System,
    line: &mut dyn FnMut(Phase, &str),
    cancel: &AtomicBool,
) -> Result<Activated, ActivationError> {
    if base_name(&system.toplevel).is_none() {
        return Err(ActivationError::NotASystem(system.toplevel.clone()));
    }
    let start = |source| ActivationError::Start { agent: system.agent.clone(), source };
    let (output, input) = io::pipe().map_err(start)?;
    let mut child = Command::new(&system.agent)
        .arg(SUBCOMMAND)
        .args([system.root.as_os_str(), system.toplevel.as_ref()])
        .stdin(Stdio::piped())
        .stdout(input.try_clone().map_err(start)?)
        .stderr(input)
        .spawn()
        .map_err(start)?;
    let secret = hex::encode(rand::random::<[u8; SECRET / 2]>());
    if let Some(leash) = &mut child.stdin {
        // That the keeper is gone already shows at the pipe's end.
        let _ = leash.write_all(secret.as_bytes());
    }
    let mut keeper = Keeper { child, init: None, limit: system.limits.kill };
    let mut listener = Listener {
        limits: system.limits,
        line,
        secret,
        lines: Lines::default(),
        phase: None,
        last: VecDeque::new(),
        init: None,
        warnings: Vec::new(),
        bootloader: None,
    };
    let heard = listener.listen(&output.into(), cancel);
    keeper.init = listener.init;
    // However it went: first of all nothing may be left running.
    keeper.end()?;
    heard?;
    match listener.bootloader {
        Some(Ended::Status(0)) => Ok(Activated { warnings: listener.warnings }),
        Some(ended) => Err(ActivationError::Program {
            phase: Phase::Bootloader,
            ended,
            last: listener.last.into(),
        }),
        None => Err(ActivationError::Keeper("ended before its time".to_owned())),
    }
}

/// The keeper's process.
struct Keeper {
    child: Child,
    init: Option<i32>,
    limit: Duration,
}

impl Keeper {
    /// Cuts the leash and waits, bounded, until the keeper has seen the end of all.
    fn end(&mut self) -> Result<(), ActivationError> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + self.limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let processes = processes_of(self.init);
                return Err(ActivationError::Unkillable { limit: self.limit, processes });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Processes in init's PID namespace, for a message.
fn processes_of(init: Option<i32>) -> String {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(ours) = init.and_then(|pid| namespace(&pid.to_string())) else {
        return "of unknown names".to_owned();
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let found: Vec<String> = pids
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| pid.parse::<i32>().is_ok() && namespace(pid).as_ref() == Some(&ours))
        .map(|pid| format!("{pid} {}", name(&pid).unwrap_or_default().trim()))
        .collect();
    found.join(", ")
}

struct Listener<'a> {
    limits: Limits,
    line: &'a mut dyn FnMut(Phase, &str),
    secret: String,
    lines: Lines,
    phase: Option<Phase>,
    /// The current program's last lines.
    last: VecDeque<String>,
    init: Option<i32>,
    warnings: Vec<String>,
    bootloader: Option<Ended>,
}

impl Listener<'_> {
    /// Listens until the last program ended or the pipe did.
    fn listen(&mut self, pipe: &OwnedFd, cancel: &AtomicBool) -> Result<(), ActivationError> {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        let mut since = (self.phase, Instant::now());
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(ActivationError::Cancelled);
            }
            if since.0 != self.phase {
                since = (self.phase, Instant::now());
            }
            let (what, limit) = self.limit();
            if since.1.elapsed() > limit {
                let last = self.last.iter().cloned().collect();
                return Err(ActivationError::TooLong { what, limit, last });
            }
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(TICK)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            let mut lines = Vec::new();
            let open = drain(pipe, |bytes| self.lines.push(bytes, &mut |line| lines.push(line)))?;
            if !open {
                self.lines.flush(&mut |line| lines.push(line));
            }
            for line in lines {
                match Report::decode(&line, &self.secret) {
                    None => self.hear_line(line),
                    Some(Ok(report)) => self.hear(report)?,
                    Some(Err(_)) => return Err(ActivationError::Keeper(format!("said {line:?}"))),
                }
                if self.bootloader.is_some() {
                    // What comes now is of a process left behind, soon killed.
                    return Ok(());
                }
            }
            if !open {
                return Ok(());
            }
        }
    }

    fn hear_line(&mut self, text: String) {
        // Before the first phase only the keeper itself could print, when it panics.
        (self.line)(self.phase.unwrap_or(Phase::Activate), &text);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    fn limit(&self) -> (String, Duration) {
        match self.phase {
            None => ("entering the system".to_owned(), self.limits.setup),
            Some(phase) => {
                let limit = match phase {
                    Phase::Activate => self.limits.activate,
                    Phase::Tmpfiles => self.limits.tmpfiles,
                    Phase::Bootloader => self.limits.bootloader,
                };
                (phase.to_string(), limit)
            }
        }
    }

    fn hear(&mut self, report: Report) -> Result<(), ActivationError> {
        match report {
            Report::Init(pid) => self.init = Some(pid),
            Report::Warning(warning) => self.warnings.push(warning),
            Report::Failed(what) => return Err(ActivationError::Enter(what)),
            Report::Begun(phase) => {
                self.phase = Some(phase);
                self.last.clear();
            }
            Report::Ended(Phase::Bootloader, ended) => self.bootloader = Some(ended),
            Report::Ended(_, Ended::Status(0)) => {}
            Report::Ended(phase, ended) => {
                let said = self.last.back().map(|line| format!(", saying `{line}`"));
                let said = said.unwrap_or_default();
                self.warnings.push(format!("the system's {phase} {ended}{said}"));
            }
        }
        Ok(())
    }
}

/// Reads what is there; `false` at the pipe's end.
fn drain(pipe: &OwnedFd, mut take: impl FnMut(&[u8])) -> Result<bool, ActivationError> {
    let mut buffer = [0; 8192];
    // A program that never stops printing does not keep this from looking elsewhere.
    for _ in 0..64 {
        match nix::unistd::read(pipe, &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(got) => take(&buffer[..got]),
            Err(Errno::EAGAIN) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_store_paths_are_systems() {
        let system = System::new("/nowhere", "/etc/../bin");
        let result = run(&system, &mut |_, _| {}, &AtomicBool::new(false));
        assert!(matches!(result, Err(ActivationError::NotASystem(_))));
    }
}
