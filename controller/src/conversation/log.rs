//! The agent's standard error.

use std::collections::VecDeque;

/// Lines kept for a failure.
const KEPT: usize = 40;
/// Bytes kept of a line.
const LONGEST: usize = 2000;

/// The end of a log.
#[derive(Debug, Default, Clone)]
pub struct LogTail {
    lines: VecDeque<String>,
}

impl LogTail {
    /// Adds a line.
    pub fn push(&mut self, line: &str) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The last line, if there is one.
    pub fn last(&self) -> Option<&str> {
        self.lines.back().map(String::as_str)
    }
}

/// A line from the machine, fit for a terminal: no escape sequences, no more than a screenful.
///
/// What comes from the machine is not trusted to leave the terminal alone.
pub fn clean(line: &[u8]) -> String {
    let cut = &line[..line.len().min(LONGEST)];
    let text = String::from_utf8_lossy(cut);
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\r', '\n']).chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(clean(b"\x1b]0;title\x07ok\tyes\r\n"), "\u{fffd}]0;title\u{fffd}ok yes");
        assert_eq!(clean(&[b'x'; 5000]).len(), LONGEST);
    }

    #[test]
    fn the_end_is_kept() {
        let mut tail = LogTail::default();
        (0..100).for_each(|n| tail.push(&n.to_string()));
        assert_eq!(tail.lines().count(), KEPT);
        assert_eq!((tail.lines().next(), tail.last()), (Some("60"), Some("99")));
    }
}
