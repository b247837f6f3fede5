//! The serial console: everything it ever said, and a way to type.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A machine's serial console.
#[derive(Debug)]
pub struct Serial {
    log: PathBuf,
    socket: PathBuf,
    /// The log, which the machine's directory may be gone before.
    kept: Option<File>,
    connection: Option<UnixStream>,
}

impl Serial {
    pub(super) fn new(log: PathBuf, socket: PathBuf) -> Serial {
        Serial { log, socket, kept: None, connection: None }
    }

    /// Holds on to the log, which is there now.
    pub(super) fn keep(&mut self) -> Result<()> {
        let log = self.log.display();
        self.kept = Some(File::open(&self.log).with_context(|| format!("opening {log}"))?);
        Ok(())
    }

    /// Everything it said so far, without escape sequences.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        // What can't be read is missing from a message, no more.
        match (self.kept.as_ref(), File::open(&self.log)) {
            (Some(mut log), _) => {
                let _ = log.rewind().and_then(|()| log.read_to_end(&mut bytes));
            }
            (None, Ok(mut log)) => {
                let _ = log.read_to_end(&mut bytes);
            }
            (None, Err(_)) => {}
        }
        strip_escapes(&String::from_utf8_lossy(&bytes))
    }

    /// Its last lines.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until it has said `wanted` and returns all it said. Fails with its last lines when
    /// `bound` is over, or when it says one of `never`.
    pub fn wait_for(&self, wanted: &str, never: &[&str], bound: Duration) -> Result<String> {
        let began = Instant::now();
        loop {
            let text = self.text();
            if text.contains(wanted) {
                return Ok(text);
            }
            if let Some(found) = never.iter().find(|phrase| text.contains(**phrase)) {
                bail!("the console said {found:?} instead of {wanted:?}:\n{}", self.tail(40));
            }
            if began.elapsed() > bound {
                bail!(
                    "waited {} s for the console to say {wanted:?}; its end:\n{}",
                    bound.as_secs(),
                    self.tail(40)
                );
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Types `secret` and the return key at a prompt of systemd's that is on the screen, as a
    /// person does: looking for the bullet of each key, and pressing again a key that was lost.
    /// systemd resets the console now and then, and what was typed just then is gone.
    ///
    /// # Errors
    /// Keys don't arrive.
    pub fn type_secret(&mut self, secret: &str) -> Result<()> {
        let bullets = |serial: &Serial| serial.text().matches(BULLET).count();
        for byte in secret.bytes() {
            let before = bullets(self);
            self.press_until(byte, |serial| bullets(serial) > before)?;
        }
        let before = self.text().len();
        self.press_until(b'\r', |serial| serial.text().len() > before)
    }

    fn press_until(&mut self, key: u8, seen: impl Fn(&Serial) -> bool) -> Result<()> {
        for _ in 0..KEY_PRESSES {
            self.press(key)?;
            let began = Instant::now();
            while began.elapsed() < KEY_ECHO {
                if seen(self) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        bail!(
            "a key was pressed {KEY_PRESSES} times to no effect; the console's end:\n{}",
            self.tail(10)
        )
    }

    fn press(&mut self, key: u8) -> Result<()> {
        if self.connection.is_none() {
            let stream =
                UnixStream::connect(&self.socket).context("connecting to the serial console")?;
            // What the machine says is read from the log; but QEMU holds the machine up while a
            // connection has unread data.
            let mut unread = stream.try_clone()?;
            std::thread::spawn(move || std::io::copy(&mut unread, &mut std::io::sink()));
            self.connection = Some(stream);
        }
        let connection = self.connection.as_mut().expect("connected above");
        connection.write_all(&[key]).context("typing into the serial console")?;
        Ok(connection.flush()?)
    }
}

/// What systemd shows for each character of a secret.
const BULLET: &str = "\u{2022}";

/// How long a key's echo may take, where the machine is emulated on a busy computer.
const KEY_ECHO: Duration = Duration::from_secs(5);

/// How often a key is pressed before that is given up.
const KEY_PRESSES: usize = 6;

/// Text without ANSI escape sequences and carriage returns.
fn strip_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => while chars.next().is_some_and(|c| c != '\x07' && c != '\\') {},
                _ => {}
            },
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_vanish() {
        assert_eq!(strip_escapes("a\x1b[0;1;31mb\x1b[Kc\r\nd\x1b]3008;start=x\x1b\\e"), "abc\nde");
    }
}
