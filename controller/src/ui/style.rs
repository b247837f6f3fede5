//! Emphasis, or none: `NO_COLOR` (no-color.org), no terminal, `TERM=dumb`. And how wide text is.

use std::io::IsTerminal;

/// Columns of text that is not for a terminal.
const COLUMNS: usize = 100;
/// Columns below which nothing is broken any more, and above which lines are too long to read.
const READABLE: std::ops::RangeInclusive<usize> = 60..=140;

/// Whether text may be emphasised, and how wide it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    on: bool,
    columns: usize,
}

impl Style {
    /// Never.
    pub const PLAIN: Style = Style { on: false, columns: COLUMNS };

    /// For what is written to `stream`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = stream.is_terminal();
        let size = || console::Term::stdout().size_checked().or(console::Term::stderr().size_checked());
        let columns = terminal.then(size).flatten().map(|(_, columns)| usize::from(columns));
        Style { on: terminal && unset("NO_COLOR") && !dumb, ..Style::PLAIN }
            .with_columns(columns.unwrap_or(COLUMNS))
    }

    /// For a page of so many columns.
    pub fn with_columns(self, columns: usize) -> Self {
        Style { columns: columns.clamp(*READABLE.start(), *READABLE.end()), ..self }
    }

    /// Columns there are for text.
    pub fn columns(self) -> usize {
        self.columns
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
