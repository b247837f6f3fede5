//! The programs under test: `keystone` as an operator types it, with the agent it ships.

use crate::machine::ssh::Ssh;
use crate::native::{self, NativeEnv};
use crate::run::{bounded, ran_out_of_time, tail, under};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// Both programs, built.
#[derive(Debug, Clone)]
pub struct Keystone {
    /// `keystone`.
    pub controller: PathBuf,
    /// `keystone-agent`, static.
    pub agent: PathBuf,
}

/// What is installed where.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The installer's SSH server, its host key pinned by an earlier connection.
    pub ssh: &'a Ssh,
    /// The key that logs in.
    pub key: &'a Path,
    /// The store's root.
    pub store: &'a Path,
    /// The system.
    pub toplevel: &'a str,
    /// The layout.
    pub layout: &'a Path,
}

/// What came of a command.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Fails unless it ended well.
    pub fn ok(self) -> Result<Ended> {
        ensure!(
            self.code == Some(0),
            "keystone ended with {:?}:\n{}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// What was printed with `--json`, a value for each line.
    pub fn lines(&self) -> Result<Vec<Value>> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// The plan that was printed with `--json`.
    pub fn plan(&self) -> Result<Value> {
        let is_plan = |plan: &&Value| plan.get("hash").is_some() && plan.get("steps").is_some();
        self.lines()?
            .iter()
            .map(|line| line.get("plan").unwrap_or(line))
            .find(is_plan)
            .cloned()
            .with_context(|| format!("no plan was printed:\n{}", self.stdout))
    }

    /// The steps that changed something, of what was printed with `--json`.
    pub fn changed(&self) -> Result<Vec<String>> {
        let lines = self.lines()?;
        let created = lines
            .iter()
            .filter(|line| line["event"] == "step-finished" && line["outcome"] == "created");
        Ok(created.filter_map(|line| line["step"].as_str().map(str::to_owned)).collect())
    }

    /// Fails unless it ended with exit code `code` and last words that have each of `words`. Only
    /// what is said from the error (or the stop, or the failed step) on counts: names on the command line or in the
    /// progress don't.
    pub fn refused(&self, code: i32, words: &[&str]) -> Result<()> {
        let failed = |line: &str| line.starts_with("step ") && line.contains(" failed: ");
        let begins =
            |line: &&str| line.starts_with("error") || line.starts_with("stopped") || failed(line);
        let lines: Vec<&str> = self.stderr.lines().collect();
        let from = lines.iter().rposition(|line| begins(&line)).unwrap_or(lines.len());
        let error = lines[from..].join("\n");
        let missing: Vec<&&str> = words.iter().filter(|word| !error.contains(**word)).collect();
        if self.code != Some(code) || error.is_empty() || !missing.is_empty() {
            bail!(
                "expected exit code {code} and an error with {words:?}, got {:?} (missing: {missing:?}) and:\n{}{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        ensure!(!error.contains("panicked"), "{error}");
        println!("    refused ({code}): {}", error.lines().next().unwrap_or_default());
        Ok(())
    }
}

impl Keystone {
    /// Builds both: the agent as it is shipped, the controller as fast as it builds. With
    /// `KEYSTONE_LAB_PROGRAMS=DIR` those in `DIR` are tested instead.
    ///
    /// # Errors
    /// Cargo failed, or the agent is not what it should be.
    pub fn build(env: &NativeEnv) -> Result<Keystone> {
        if let Some(dir) = std::env::var_os("KEYSTONE_LAB_PROGRAMS").map(PathBuf::from) {
            return Ok(Keystone {
                controller: dir.join("keystone"),
                agent: dir.join("keystone-agent"),
            });
        }
        let agent = native::build_agent(env)?;
        cargo_build(&[])?;
        Ok(Keystone { controller: target().join("debug/keystone"), agent })
    }

    /// Builds both as they are shipped; `KEYSTONE_LAB_PROGRAMS` as above.
    ///
    /// # Errors
    /// As [`Keystone::build`].
    pub fn release(env: &NativeEnv) -> Result<Keystone> {
        if std::env::var_os("KEYSTONE_LAB_PROGRAMS").is_some() {
            return Keystone::build(env);
        }
        let dist = Keystone::dist(env)?;
        Ok(Keystone { controller: dist.join("keystone"), agent: dist.join("keystone-agent") })
    }

    /// Builds both for use on real machines, side by side, and returns where they are.
    ///
    /// # Errors
    /// Cargo failed, or the agent is not what it should be.
    pub fn dist(env: &NativeEnv) -> Result<PathBuf> {
        let agent = native::build_agent(env)?;
        cargo_build(&["--release"])?;
        let dist = target().join("dist");
        fs::create_dir_all(&dist)?;
        fs::copy(agent, dist.join("keystone-agent"))?;
        fs::copy(target().join("release/keystone"), dist.join("keystone"))?;
        Ok(dist)
    }

    /// `keystone COMMAND root@127.0.0.1` with what `request` says and `more`.
    pub fn command(&self, command: &str, request: &Request<'_>, more: &[&str]) -> Command {
        self.command_as("root", command, request, more)
    }

    /// The same, logging in as `user`.
    pub fn command_as(
        &self,
        user: &str,
        command: &str,
        request: &Request<'_>,
        more: &[&str],
    ) -> Command {
        let mut keystone = self.on_as(user, command, request.ssh, request.key);
        keystone
            .arg("--store")
            .arg(request.store)
            .args(["--store-path", request.toplevel, "--layout"])
            .arg(request.layout)
            .args(more);
        keystone
    }

    /// `keystone COMMAND root@127.0.0.1`, the host key pinned.
    pub fn on(&self, command: &str, ssh: &Ssh, key: &Path) -> Command {
        self.on_as("root", command, ssh, key)
    }

    fn on_as(&self, user: &str, command: &str, ssh: &Ssh, key: &Path) -> Command {
        let mut keystone = Command::new(&self.controller);
        keystone
            .args([
                command,
                &format!("{user}@127.0.0.1"),
                "--port",
                &ssh.port().to_string(),
                "--known-hosts",
            ])
            .arg(ssh.known_hosts())
            .arg("--identity")
            .arg(key)
            .arg("--agent")
            .arg(&self.agent)
            .env("NO_COLOR", "1")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        keystone
    }

    /// Runs it to its end.
    pub fn run(&self, command: &str, request: &Request<'_>, more: &[&str]) -> Result<Ended> {
        run(self.command(command, request, more))
    }

    /// The plan, as JSON.
    pub fn plan(&self, request: &Request<'_>, more: &[&str]) -> Result<Value> {
        self.planned("plan", request, more)
    }

    fn planned(&self, command: &str, request: &Request<'_>, more: &[&str]) -> Result<Value> {
        let more: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
        let ended = self.run(command, request, &more)?.ok()?;
        ended.plan().with_context(|| format!("keystone {command} --json"))
    }

    /// Plans, and installs the plan with the hash that was printed; `more` goes to both, `install`
    /// to the installation only.
    pub fn install(&self, request: &Request<'_>, more: &[&str], install: &[&str]) -> Result<Ended> {
        let arguments = self.agreed(request, more, install)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run("install", request, &arguments)
    }

    /// As [`Keystone::install`], not waiting for the end; with `--json`.
    pub fn start_install(
        &self,
        request: &Request<'_>,
        more: &[&str],
        install: &[&str],
    ) -> Result<Started> {
        let arguments = self.agreed(request, more, install)?;
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.push("--json");
        Started::new(self.command("install", request, &arguments))
    }

    fn agreed(
        &self,
        request: &Request<'_>,
        more: &[&str],
        install: &[&str],
    ) -> Result<Vec<String>> {
        let dry: Vec<&str> = more.iter().copied().chain(["--dry-run"]).collect();
        let plan = self.planned("install", request, &dry)?;
        let hash = plan["hash"].as_str().context("a plan has a hash")?;
        let agreed = ["--yes", "--plan-hash", hash];
        Ok(more.iter().chain(&agreed).chain(install).map(|word| (*word).to_owned()).collect())
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Started {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Started {
    /// Starts `command`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn new(mut command: Command) -> Result<Started> {
        let (stdout, stderr) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.reopen()?)
            .stderr(stderr.reopen()?)
            .spawn()
            .context("starting keystone")?;
        Ok(Started { child, stdout, stderr })
    }

    /// Waits until it printed a line that has all of `words`. Fails if it ends before.
    pub fn wait_for(&mut self, words: &[&str], bound: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(self.stdout.path())?;
            if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > bound {
                let errors = fs::read_to_string(self.stderr.path())?;
                bail!(
                    "in {} s no line with {words:?} (ended: {ended:?}):\n{}\n{errors}",
                    began.elapsed().as_secs(),
                    tail(&text, 20)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill ended with {status}");
        Ok(())
    }

    /// Waits for its end, no longer than `bound`.
    pub fn end(mut self, bound: Duration) -> Result<Ended> {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(began.elapsed() < bound, "waited {} s for keystone to end", bound.as_secs());
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(Ended {
            code: status.code(),
            stdout: fs::read_to_string(self.stdout.path())?,
            stderr: fs::read_to_string(self.stderr.path())?,
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The longest that one run of `keystone` may take: an installation with its restart, emulated, on
/// a busy computer.
const BOUND: Duration = Duration::from_secs(1800);

/// Runs a command to its end, with its output kept; one that hangs is ended.
pub fn run(command: Command) -> Result<Ended> {
    let line: Vec<OsString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(Into::into).collect();
    let output = bounded(&command, BOUND)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {line:?}"))?;
    ensure!(
        !ran_out_of_time(output.status),
        "{line:?} was ended after {} s:\n{}",
        BOUND.as_secs(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.into())
}

/// `command` in a mount namespace where `/nix` is the directory `store`; its process is the
/// command's.
pub fn with_store(command: &Command, store: &Path) -> Command {
    let script = r#"mkdir -p /nix && mount --bind "$1" /nix && shift && exec "$@""#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(store);
    under(unshare, command)
}

fn target() -> PathBuf {
    native::default_cache().parent().expect("the cache lies in the target directory").to_owned()
}

fn cargo_build(more: &[&str]) -> Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(native::workspace_root())
        .args(["build", "--quiet", "--package", "keystone-controller", "--bin", "keystone"])
        .args(more)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "cargo build of keystone-controller ended with {status}");
    Ok(())
}
