//! A program's output as lines fit for a terminal and a log.

/// The longest line, in bytes; longer ones are broken.
const MAX_LINE: usize = 4096;

/// Collects bytes to lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes more bytes; calls `line` for each line that ends.
    pub(crate) fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(String)) {
        for &byte in bytes {
            // Programs that show progress end their lines by a carriage return.
            let end = matches!(byte, b'\n' | b'\r');
            if !end {
                self.partial.push(byte);
            }
            if end || self.partial.len() == MAX_LINE {
                self.flush(line);
            }
        }
    }

    /// Ends the line that has begun, if one has.
    pub(crate) fn flush(&mut self, line: &mut dyn FnMut(String)) {
        if !self.partial.is_empty() {
            line(printable(&self.partial));
            self.partial.clear();
        }
    }
}

/// Without escape sequences and other control characters, which could fool who reads it.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // Control sequences: ECMA-48, 5.4: CSI, parameters, one final byte `@` to `~`.
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                for c in chars.by_ref() {
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, &mut |line| out.push(line));
        }
        lines.flush(&mut |line| out.push(line));
        out
    }

    #[test]
    fn breaks_and_cleans() {
        assert_eq!(lines(&[b"a", b"b\nc\r\n\nd"]), ["ab", "c", "d"]);
        assert_eq!(
            lines(&[b"\x1b[1;31merror:\x1b[0m \x07bad\tthing\x1b]0;x\n"]),
            ["error: bad thing]0;x"]
        );
        assert_eq!(lines(&["gr\u{fc}n \u{9b}".as_bytes(), b"\xff\n"]), ["gr\u{fc}n \u{fffd}"]);
        assert_eq!(lines(&[&[b'x'; 2 * MAX_LINE + 1]]).len(), 3);
    }
}
