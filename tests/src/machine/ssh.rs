//! Commands in the guest, by the ordinary `ssh`.

use crate::run::{bounded, ran_out_of_time};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest that one command in the guest may take.
const BOUND: Duration = Duration::from_secs(900);
/// How long a guest that is up may take to answer: one emulated processor does one thing at a time.
const CONNECT: Duration = Duration::from_secs(60);

/// A port of the guest that leads to one of this computer; until this is dropped.
#[derive(Debug)]
pub struct Forward(Child);

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Logs in as root on a port of 127.0.0.1.
#[derive(Debug)]
pub struct Ssh {
    port: u16,
    key: PathBuf,
    dir: TempDir,
}

impl Ssh {
    /// With the key `key`. The host key of the first answer is pinned.
    pub fn new(port: u16, key: &Path) -> Result<Ssh> {
        let dir = tempfile::tempdir()?;
        Ok(Ssh { port, key: key.to_owned(), dir })
    }

    /// The same machine, behind another port of 127.0.0.1.
    ///
    /// # Errors
    /// Its host key is not pinned yet.
    pub fn behind(&self, port: u16) -> Result<Ssh> {
        let other = Ssh::new(port, &self.key)?;
        let known = std::fs::read_to_string(self.known_hosts()).context("the pinned host key")?;
        let from = format!("[127.0.0.1]:{}", self.port);
        std::fs::write(other.known_hosts(), known.replace(&from, &format!("[127.0.0.1]:{port}")))?;
        Ok(other)
    }

    /// The file with the pinned host key, in `known_hosts` form.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The command that runs `command` in the guest, no longer than [`BOUND`].
    pub fn command(&self, command: &str) -> Command {
        self.connecting(command, CONNECT)
    }

    /// Whether it can be logged in by now, within `bound`; if not, what `ssh` says.
    pub fn answers(&self, bound: Duration) -> Result<(), String> {
        let output = self.run_within("true", bound).map_err(|error| format!("{error:#}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", output.status, said.trim()))
    }

    fn connecting(&self, command: &str, bound: Duration) -> Command {
        let mut ssh = bounded(&Command::new("ssh"), BOUND);
        self.log_in(&mut ssh, bound).args(["--", command]);
        ssh
    }

    /// Adds the words that log in.
    fn log_in<'a>(&self, ssh: &'a mut Command, bound: Duration) -> &'a mut Command {
        ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o"])
            .arg(format!("ConnectTimeout={}", bound.as_secs()))
            .args(["-o", "StrictHostKeyChecking=accept-new", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "ServerAliveInterval=15", "-o", "LogLevel=ERROR"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.known_hosts().display()))
            .arg("-i")
            .arg(&self.key)
            .args(["-p", &self.port.to_string(), "root@127.0.0.1"])
            .stdin(Stdio::null())
    }

    /// From now on the guest reaches port `to` of this computer's loopback at its own port `at`.
    ///
    /// # Errors
    /// The guest does not listen there within [`CONNECT`].
    pub fn forward(&self, at: u16, to: u16) -> Result<Forward> {
        let mut ssh = Command::new("ssh");
        let way = format!("127.0.0.1:{at}:127.0.0.1:{to}");
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", &way]);
        let child = self.log_in(&mut ssh, CONNECT).spawn();
        let mut forward = Forward(child.context("running ssh: install openssh-client")?);
        let began = Instant::now();
        // In the kernel's table a port is hexadecimal, and 0A is listening.
        let listens = format!("grep -q ':{at:04X} .* 0A ' /proc/net/tcp");
        while !self.run(&listens)?.status.success() {
            if let Some(status) = forward.0.try_wait()? {
                bail!("forwarding port {at} of the guest ended with {status}");
            }
            ensure!(began.elapsed() < CONNECT, "the guest does not listen on port {at}");
            thread::sleep(Duration::from_millis(500));
        }
        Ok(forward)
    }

    /// Runs `command` and returns what came of it.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_within(command, CONNECT)
    }

    fn run_within(&self, command: &str, bound: Duration) -> Result<Output> {
        self.connecting(command, bound).output().context("running ssh: install openssh-client")
    }

    /// Runs `command`, which must succeed, and returns what it printed, trimmed.
    pub fn ok(&self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        self.judge(command, output)
    }

    fn judge(&self, command: &str, output: Output) -> Result<String> {
        if ran_out_of_time(output.status) {
            bail!("in the guest, `{command}` was ended after {} s", BOUND.as_secs());
        }
        if !output.status.success() {
            bail!(
                "in the guest, `{command}` ended with {}:\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The same, with `input` on its standard input.
    pub fn ok_given(&self, command: &str, input: &str) -> Result<String> {
        let mut file = tempfile::tempfile()?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        let output = self.command(command).stdin(file).output().context("running ssh")?;
        self.judge(command, output)
    }

    /// Copies a file into the guest, with mode 0755.
    pub fn put(&self, file: &Path, to: &str) -> Result<()> {
        let input =
            std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
        let output = self
            .command(&format!("cat > '{to}' && chmod 755 '{to}'"))
            .stdin(input)
            .output()
            .context("running ssh")?;
        if !output.status.success() {
            bail!(
                "copying {} into the guest: {}",
                file.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}
