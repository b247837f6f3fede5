//! Emphasis, or none: `NO_COLOR` (no-color.org), no terminal, `TERM=dumb`. And how wide text is.

use super::format::wrap;
use std::fmt::Write;
use std::io::IsTerminal;

/// Columns of text that is not for a terminal.
const COLUMNS: usize = 100;
/// Columns below which nothing is broken any more, and above which lines are too long to read.
const READABLE: std::ops::RangeInclusive<usize> = 60..=140;

/// Whether text may be emphasised, and how wide it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    on: bool,
    /// A terminal's columns.
    columns: Option<usize>,
}

impl Style {
    /// Never.
    pub const PLAIN: Style = Style { on: false, columns: None };

    /// For what is written to `stream`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = stream.is_terminal();
        let size =
            || console::Term::stdout().size_checked().or(console::Term::stderr().size_checked());
        let columns = terminal.then(size).flatten().map(|(_, columns)| usize::from(columns));
        let style = Style { on: terminal && unset("NO_COLOR") && !dumb, columns: None };
        columns.map_or(style, |columns| style.with_columns(columns))
    }

    /// For a page of so many columns.
    pub fn with_columns(self, columns: usize) -> Self {
        Style { columns: Some(columns.clamp(*READABLE.start(), *READABLE.end())), ..self }
    }

    /// Columns there are for text.
    pub fn columns(self) -> usize {
        self.columns.unwrap_or(COLUMNS)
    }

    /// A line, on a terminal broken at spaces; what is broken off is indented by `indent`. Where
    /// programs may read it, it stays whole.
    pub fn line(self, text: &str, indent: usize) -> String {
        let Some(columns) = self.columns else { return format!("{text}\n") };
        let before = text.chars().take_while(|c| *c == ' ').count();
        let room = columns.saturating_sub(indent.max(before) + 1);
        let mut out = String::new();
        for (index, piece) in wrap(text.trim_start(), room).iter().enumerate() {
            let indent = if index == 0 { before } else { indent };
            let _ = writeln!(out, "{:indent$}{piece}", "");
        }
        out
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
