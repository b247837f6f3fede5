//! Emphasis, or none: `NO_COLOR` (no-color.org), no terminal, `TERM=dumb`.

use std::io::IsTerminal;

/// Whether text may be emphasised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    on: bool,
}

impl Style {
    /// Never.
    pub const PLAIN: Style = Style { on: false };

    /// For what is written to `stream`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style { on: stream.is_terminal() && unset("NO_COLOR") && !dumb }
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.on {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what goes well.
    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// For what is lost or failed.
    pub fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    /// For warnings.
    pub fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For what matters less.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}
