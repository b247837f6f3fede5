//! A program at a pseudo-terminal (util-linux' `script`), typed to as a person does.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// The program, and what is on its terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: NamedTempFile,
}

impl Terminal {
    /// Starts `command` at a terminal of its own.
    ///
    /// # Errors
    /// It, or `script`, can't be started.
    pub fn start(command: &Command) -> Result<Terminal> {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let quoted: Vec<String> = words
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
            .collect();
        let screen = NamedTempFile::new()?;
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command", &quoted.join(" "), "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(File::options().append(true).open(screen.path())?)
            .stderr(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut child = script.spawn().context("running script: install bsdutils")?;
        let keys = child.stdin.take().context("the terminal has a keyboard")?;
        Ok(Terminal { child, keys, screen })
    }

    /// All that was ever on the screen.
    ///
    /// # Errors
    /// It can't be read.
    pub fn shown(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.screen.path())?).into_owned())
    }

    /// Types a line, and again every few seconds, until `words` are shown: what is typed too early
    /// is gone.
    ///
    /// # Errors
    /// The program ended, or `bound` is over.
    pub fn type_until(&mut self, line: &str, words: &str, bound: Duration) -> Result<()> {
        let began = Instant::now();
        let before = self.shown()?.matches(words).count();
        loop {
            self.keys.write_all(format!("{line}\r").as_bytes()).context("typing")?;
            let typed = Instant::now();
            while typed.elapsed() < Duration::from_secs(10) {
                let shown = self.shown()?;
                if shown.matches(words).count() > before {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("it ended with {status} before {words:?} was shown:\n{shown}");
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            if began.elapsed() > bound {
                bail!("{words:?} is not shown:\n{}", self.shown()?);
            }
        }
    }

    /// Types `line`, with which the program ends; its exit status.
    ///
    /// # Errors
    /// It does not end within `bound`.
    pub fn end(mut self, line: &str, bound: Duration) -> Result<Option<i32>> {
        self.keys.write_all(format!("{line}\r").as_bytes()).context("typing")?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if began.elapsed() > bound {
                bail!("it did not end at {line:?}:\n{}", self.shown()?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal hangs up, and what runs at it ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
