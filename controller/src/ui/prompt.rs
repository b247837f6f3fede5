//! Asks a person at the terminal. Questions go to standard error, so that standard output stays
//! for results.

use keystone_protocol::secret::Secret;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use zeroize::Zeroizing;

/// Whether there is somebody to ask: questions are seen and answers can be typed.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line.
pub fn line(question: &str) -> io::Result<String> {
    let mut err = io::stderr();
    write!(err, "{question}")?;
    err.flush()?;
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the terminal was closed"));
    }
    Ok(answer.trim().to_owned())
}

/// Rows of a terminal of so many columns (0 if that is not known) that the lines of `text` take,
/// each with its end.
pub fn rows(text: &str, columns: usize) -> usize {
    let columns = if columns == 0 { usize::MAX } else { columns };
    let row = |line: &str| console::measure_text_width(line).div_ceil(columns).max(1);
    text.lines().map(row).sum()
}

/// Asks for a secret, without echo.
pub fn secret(question: &str) -> io::Result<Secret> {
    let text = secret_text(question)?;
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// Asks for a secret that is text, without echo.
pub fn secret_text(question: &str) -> io::Result<Zeroizing<String>> {
    match rpassword::prompt_password(question) {
        Ok(text) => Ok(Zeroizing::new(text)),
        // Ctrl-C comes as a character while echo is off: it is to mean what it always means.
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT);
            // Whoever listens ends the program before this is an error.
            std::thread::sleep(std::time::Duration::from_secs(2));
            Err(e)
        }
        Err(e) => Err(e),
    }
}

/// Yes or no; no unless it is clearly yes.
pub fn yes(question: &str) -> io::Result<bool> {
    Ok(matches!(line(question)?.to_lowercase().as_str(), "y" | "yes"))
}

/// The terminal's settings as they were, restored when dropped: an interrupted question for a
/// password leaves echo off.
#[derive(Debug)]
pub struct Restore {
    settings: Option<nix::sys::termios::Termios>,
}

impl Restore {
    /// Remembers the settings of standard input's terminal.
    pub fn remember() -> Self {
        let stdin = io::stdin();
        let settings =
            stdin.is_terminal().then(|| nix::sys::termios::tcgetattr(stdin.as_fd()).ok()).flatten();
        Restore { settings }
    }

    /// Restores them.
    pub fn restore(&self) {
        if let Some(settings) = &self.settings {
            let when = nix::sys::termios::SetArg::TCSADRAIN;
            let _ = nix::sys::termios::tcsetattr(io::stdin().as_fd(), when, settings);
        }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn long_lines_take_more_rows() {
        assert_eq!(rows("\none\n\n12345\n123456\n", 5), 1 + 1 + 1 + 1 + 2);
        assert_eq!(rows("a longer line\n", 0), 1);
    }
}
