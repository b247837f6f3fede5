//! Runs a program on the machine and talks to it.
//!
//! Programs are started through the login shell (that is how SSH works), whatever it is. So
//! nothing but `/bin/sh -s` and plain words is ever given to it: scripts are POSIX sh and go
//! in by standard input, which also keeps them out of the process list.

use super::Session;
use super::error::SshError;
use super::line::Line;
use bytes::Bytes;
use russh::ChannelMsg;
use std::sync::Weak;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a status.
    Status(u32),
    /// By a signal, named without `SIG`.
    Signal(String),
    /// Not known: the connection broke first.
    Lost,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exit status {status}"),
            Exit::Signal(name) => write!(f, "signal {name}"),
            Exit::Lost => f.write_str("a broken connection"),
        }
    }
}

/// A running program.
///
/// Both outputs have to be read, or the program stops when the buffers are full.
#[derive(Debug)]
pub struct Running {
    /// Its standard input.
    pub stdin: Stdin,
    /// Its standard output.
    pub stdout: DuplexStream,
    /// Its standard error.
    pub stderr: DuplexStream,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Exit>,
    /// What can be asked of the connection's line, while it is open.
    pub line: Weak<Line>,
}

/// Standard input of a program.
#[derive(Debug)]
pub struct Stdin {
    half: russh::ChannelWriteHalf<russh::client::Msg>,
}

impl Stdin {
    /// Writes all bytes; waits while the machine takes no more.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), russh::Error> {
        self.half.data_bytes(bytes).await
    }

    /// Says that nothing more comes.
    pub async fn eof(&self) -> Result<(), russh::Error> {
        self.half.eof().await
    }
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// What a script answers.
#[derive(Debug)]
pub enum Answer {
    /// It is over.
    Ended(Output),
    /// It printed this, and waits to be told what to do.
    Waits(Vec<u8>, Running),
}

/// Bytes buffered between the connection and who reads a program's output.
const STDOUT_BUFFER: usize = 1 << 20;
const STDERR_BUFFER: usize = 64 << 10;
/// Bytes kept of a short program's standard error.
const STDERR_LIMIT: usize = 16 << 10;
/// Bound of starting a program.
const START: Duration = Duration::from_secs(30);
/// How long a shell may take to begin with a script.
const BEGIN: Duration = Duration::from_secs(20);

impl Session {
    /// Starts `command` through the login shell; as root, if this session is
    /// [`as_root`](Session::as_root).
    pub async fn start(&self, command: &str) -> Result<Running, SshError> {
        match self.elevation.clone() {
            Some(elevation) => self.start_elevated(&elevation, command).await,
            None => self.start_plain(command, false).await,
        }
    }

    /// Starts `command` as who logged in, at a terminal or not.
    pub(super) async fn start_plain(
        &self,
        command: &str,
        terminal: bool,
    ) -> Result<Running, SshError> {
        let opening = async {
            let mut channel = self.handle.channel_open_session().await?;
            if terminal {
                channel.request_pty(false, "dumb", 80, 24, 0, 0, &[]).await?;
            }
            channel.exec(true, command).await?;
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => return Ok(Some(channel)),
                    None if self.has_ended().await => return Err(russh::Error::Disconnect),
                    Some(ChannelMsg::Failure) | None => return Ok(None),
                    Some(_) => {}
                }
            }
        };
        let channel = timeout(START, opening)
            .await
            .map_err(|_| SshError::TimedOut { what: format!("starting {command}"), bound: START })?
            .map_err(|e| self.broken(format!("starting {command}"), e))?
            .ok_or_else(|| SshError::ExecRefused {
                host: self.destination().host.clone(),
                what: command.to_owned(),
            })?;
        let (mut read, write) = channel.split();
        let (stdout, mut stdout_in) = tokio::io::duplex(STDOUT_BUFFER);
        let (stderr, mut stderr_in) = tokio::io::duplex(STDERR_BUFFER);
        let (exit_in, exit) = oneshot::channel();
        tokio::spawn(async move {
            let mut ended = Exit::Lost;
            while let Some(message) = read.wait().await {
                // A reader that is gone does not stop the program.
                match message {
                    ChannelMsg::Data { data } => drop(stdout_in.write_all(&data).await),
                    ChannelMsg::ExtendedData { data, ext: 1 } => {
                        drop(stderr_in.write_all(&data).await);
                    }
                    ChannelMsg::ExitStatus { exit_status } => ended = Exit::Status(exit_status),
                    ChannelMsg::ExitSignal { signal_name, .. } => {
                        ended = Exit::Signal(format!("{signal_name:?}"));
                    }
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
            drop((stdout_in, stderr_in));
            let _ = exit_in.send(ended);
        });
        let line = Weak::clone(&self.line);
        Ok(Running { stdin: Stdin { half: write }, stdout, stderr, exit, line })
    }

    /// Opens a subsystem of the server (`sftp`). It runs as who logged in; so there is none in a
    /// session whose programs run as root by other means.
    pub async fn subsystem(
        &self,
        name: &str,
    ) -> Result<russh::ChannelStream<russh::client::Msg>, SshError> {
        if self.elevation.is_some() {
            return Err(SshError::ExecRefused {
                host: self.destination().host.clone(),
                what: format!("subsystem {name} as root"),
            });
        }
        let opening = async {
            let mut channel = self.handle.channel_open_session().await?;
            channel.request_subsystem(true, name).await?;
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => return Ok(Some(channel)),
                    Some(ChannelMsg::Failure) | None => return Ok(None),
                    Some(_) => {}
                }
            }
        };
        let channel = opening
            .await
            .map_err(|e| self.broken(format!("opening the subsystem {name}"), e))?
            .ok_or_else(|| SshError::ExecRefused {
                host: self.destination().host.clone(),
                what: format!("subsystem {name}"),
            })?;
        Ok(channel.into_stream())
    }

    /// Runs `command`, gives it `input` and collects what it prints, at most `limit` bytes.
    pub async fn output(
        &self,
        what: &str,
        command: &str,
        input: impl Into<Bytes>,
        limit: usize,
        bound: Duration,
    ) -> Result<Output, SshError> {
        let run = async {
            let Running { stdin, stdout, stderr, exit, .. } = self.start(command).await?;
            let feed = async {
                // A program that reads nothing ends before its input does: not an error.
                let _ = stdin.send(input).await;
                let _ = stdin.eof().await;
            };
            let exit = async { exit.await.unwrap_or(Exit::Lost) };
            let collect =
                async { tokio::join!(collect(stdout, limit), collect(stderr, STDERR_LIMIT), exit) };
            tokio::pin!(feed, collect);
            // Not waiting for all input to be taken: a program may end before that.
            let collected = tokio::select! {
                collected = &mut collect => collected,
                () = &mut feed => collect.await,
            };
            self.ended(what, collected).await
        };
        timeout(bound, run)
            .await
            .map_err(|_| SshError::TimedOut { what: what.to_owned(), bound })?
    }

    /// Runs a POSIX sh script, in braces so that all of it is read before any of it runs, and collects
    /// at most `limit` bytes of what it prints, until it ends or prints `mark` last. What it is sent then
    /// is its own, and what it printed to its standard error until then is dropped.
    ///
    /// A login that runs something else, which prints no line that begins with `begins`, is told after a
    /// while that nothing more comes.
    pub async fn answer(
        &self,
        what: &str,
        script: &str,
        [begins, mark]: [&str; 2],
        limit: usize,
        bound: Duration,
    ) -> Result<Answer, SshError> {
        let run = async {
            let mut running = self.start("/bin/sh -s").await?;
            // A login that reads nothing ends before: not an error.
            let _ = running.stdin.send(format!("{{\n{script}\n}}\n")).await;
            let Running { stdin, stdout, stderr, .. } = &mut running;
            let (mut out, mut err) = (Collected::new(limit), Collected::new(STDERR_LIMIT));
            let silence = tokio::time::sleep(BEGIN);
            tokio::pin!(silence);
            let (mut begun, mut told) = (false, false);
            while !out.ended || !err.ended {
                tokio::select! {
                    () = out.read(stdout), if !out.ended => {}
                    () = err.read(stderr), if !err.ended => {}
                    () = &mut silence, if !begun && !told => {
                        told = true;
                        let _ = stdin.eof().await;
                    }
                }
                begun = begun || out.has_line(begins);
                if out.last.ends_with(mark.as_bytes()) {
                    return Ok(Answer::Waits(out.kept, running));
                }
            }
            let exit = running.exit.await.unwrap_or(Exit::Lost);
            self.ended(what, (out.kept, err.kept, exit)).await.map(Answer::Ended)
        };
        timeout(bound, run)
            .await
            .map_err(|_| SshError::TimedOut { what: what.to_owned(), bound })?
    }

    /// How a program ended, with what it printed to its outputs.
    async fn ended(
        &self,
        what: &str,
        (stdout, stderr, exit): (Vec<u8>, Vec<u8>, Exit),
    ) -> Result<Output, SshError> {
        if exit == Exit::Lost && self.has_ended().await {
            return Err(self.broken(what, russh::Error::Disconnect));
        }
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        Ok(Output { exit, stdout, stderr })
    }

    /// Runs a POSIX sh script and returns what it prints; another status than 0 is an error.
    pub async fn script(
        &self,
        what: &str,
        script: &str,
        bound: Duration,
    ) -> Result<Vec<u8>, SshError> {
        // In braces, so that the whole script is read before any of it runs, and no command
        // in it reads the script.
        let text = format!("{{\n{script}\n}} </dev/null\n");
        let output = self.output(what, "/bin/sh -s", text.into_bytes(), 1 << 20, bound).await?;
        match output.exit {
            Exit::Status(0) => Ok(output.stdout),
            exit => Err(SshError::Remote {
                host: self.destination().host.clone(),
                what: what.to_owned(),
                status: exit.to_string(),
                stderr: output.stderr,
            }),
        }
    }
}

/// Reads to the end and keeps the first `limit` bytes.
pub(crate) async fn collect(mut from: impl AsyncRead + Unpin, limit: usize) -> Vec<u8> {
    let mut collected = Collected::new(limit);
    while !collected.ended {
        collected.read(&mut from).await;
    }
    collected.kept
}

/// What a program printed so far.
struct Collected {
    /// The first bytes of it, at most `limit`.
    kept: Vec<u8>,
    limit: usize,
    /// The last that were read at once, and some before.
    last: Vec<u8>,
    /// Whether that is all.
    ended: bool,
    buffer: Vec<u8>,
}

/// Bytes that are remembered of what was read before.
const REMEMBERED: usize = 256;

impl Collected {
    fn new(limit: usize) -> Self {
        let (kept, last) = (Vec::new(), Vec::new());
        Collected { kept, limit, last, ended: false, buffer: vec![0; 64 << 10] }
    }

    /// Reads what is there, or waits for it. Nothing is lost if that is given up.
    async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        let Ok(n @ 1..) = from.read(&mut self.buffer).await else {
            self.ended = true;
            return;
        };
        let bytes = &self.buffer[..n];
        self.kept.extend_from_slice(&bytes[..n.min(self.limit - self.kept.len())]);
        self.last.drain(..self.last.len().saturating_sub(REMEMBERED));
        self.last.extend_from_slice(bytes);
    }

    /// Whether a line of what is kept begins so.
    fn has_line(&self, begins: &str) -> bool {
        self.kept.split(|byte| *byte == b'\n').any(|line| line.starts_with(begins.as_bytes()))
    }
}
