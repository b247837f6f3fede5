//! A live display: finished steps stay as lines, below them what goes on now.

use super::format::{elapsed, wrap};
use super::plain::{progress, progress_in_two, sentence};
use super::screen::{Pause, Screen};
use super::steps::{State, Steps};
use super::style::Style;
use crate::kexec::Progress as Kexec;
use crate::kexec::start::is_trace;
use crate::operator::Notice;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keystone_protocol::event::{Event, EventKind, Outcome};
use std::io::stderr;
use std::time::Duration;

/// Columns that the spinner and the time take.
const AROUND: usize = 12;

/// Draws on standard error.
pub struct Terminal {
    style: Style,
    /// Columns, if they are not standard error's.
    columns: Option<usize>,
    verbose: bool,
    steps: Steps,
    display: MultiProgress,
    now: Option<ProgressBar>,
    next: Option<ProgressBar>,
}

impl Terminal {
    /// `verbose` adds the agent's log and the output of programs.
    pub fn new(verbose: bool) -> Self {
        Terminal::on(MultiProgress::new(), None, Style::of(&stderr()), verbose)
    }

    /// Draws on `display`, of so many columns.
    pub fn on(display: MultiProgress, columns: Option<usize>, style: Style, verbose: bool) -> Self {
        Terminal {
            style,
            columns,
            verbose,
            steps: Steps::default(),
            display,
            now: None,
            next: None,
        }
    }

    /// Columns there are for words. A window may change.
    fn room(&self) -> usize {
        let columns = || usize::from(console::Term::stderr().size().1);
        self.columns.unwrap_or_else(columns).saturating_sub(AROUND)
    }

    fn print(&self, text: &str) {
        // Above what is drawn; a terminal that is gone is no reason to stop.
        let _ = self.display.println(text);
    }

    /// Something to be remembered, broken at spaces.
    fn print_remark(&self, text: &str) {
        let pieces = wrap(text, (self.room() + AROUND).saturating_sub(3));
        let mark = self.style.yellow("!");
        for (index, piece) in pieces.iter().enumerate() {
            self.print(&if index == 0 { format!("{mark} {piece}") } else { format!("  {piece}") });
        }
    }

    /// The line of what goes on: a spinner, the time it takes, words.
    fn spin(&mut self, words: &str) {
        let words = cut(words, self.room());
        let display = &self.display;
        let now = self.now.get_or_insert_with(|| {
            let template = "{spinner} {msg} {elapsed:.dim}";
            let bar = display.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        now.set_message(words);
    }

    fn end_spin(&mut self) {
        for bar in [self.now.take(), self.next.take()].into_iter().flatten() {
            bar.finish_and_clear();
            self.display.remove(&bar);
        }
    }

    /// The line below: what there is no room for above, and what comes next.
    fn announce_next(&mut self, besides: &str) {
        let room = self.room() + AROUND;
        let all = self.steps.all();
        let pending = all.iter().filter(|step| step.state == State::Pending);
        let words = match (pending.clone().next(), pending.count()) {
            (Some(step), 1) => format!("then {}", step.title),
            (Some(step), n) => format!("then {}, and {} more", step.title, n - 1),
            (None, _) => String::new(),
        };
        let both = [besides, &words];
        let words = both.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
        let words = format!("  {}", words.join("; "));
        let display = &self.display;
        let next = self.next.get_or_insert_with(|| {
            let bar = display.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::with_template("{msg:.dim}").expect("a valid template"));
            bar
        });
        next.set_message(cut(&words, room));
    }

    fn head(&self, number: usize, title: &str) -> String {
        let total = self.steps.all().len();
        let width = total.to_string().len();
        format!("[{number:>width$}/{total}] {title}")
    }

    fn event(&mut self, event: &Event) {
        self.steps.take(event);
        let head = |this: &Self, id: &str| {
            let (number, title) = this.steps.get(id).map_or((0, id), |(n, view)| (n, &view.title));
            this.head(number, title)
        };
        match &event.kind {
            EventKind::Started { .. } => self.end_spin(),
            EventKind::StepStarted { step } => {
                self.end_spin();
                let words = head(self, step);
                self.spin(&words);
                self.announce_next("");
            }
            EventKind::Progress { step, .. } => {
                let Some((number, view)) = self.steps.get(step) else { return };
                // What there is in all stands in the title's end, and in what follows.
                let title = view.title.split(": ").next().unwrap_or_default();
                let words = self.head(number, title);
                let room = self.room();
                let whole = format!("{words}: {}", progress(view));
                let (line, besides) = match whole.chars().count() <= room {
                    true => (whole, String::new()),
                    false => {
                        let (how_far, amounts) = progress_in_two(view);
                        let left = room.saturating_sub(how_far.chars().count() + 2);
                        (format!("{}: {how_far}", cut(&words, left)), amounts)
                    }
                };
                self.spin(&line);
                self.announce_next(&besides);
            }
            EventKind::Output { line, .. } if self.verbose => {
                self.print(&self.style.dim(&format!("    | {line}")));
            }
            EventKind::Output { .. } => {}
            EventKind::Warning { message, .. } => {
                self.print_remark(message);
            }
            EventKind::StepFinished { step, outcome, elapsed_ms } => {
                self.end_spin();
                let time = elapsed(Duration::from_millis(*elapsed_ms));
                let so = match outcome {
                    Outcome::Created => time,
                    Outcome::AlreadySo => format!("already so, {time}"),
                };
                let line = format!(
                    "{} {} {}",
                    self.style.green("✓"),
                    head(self, step),
                    self.style.dim(&format!("({so})"))
                );
                self.print(&line);
            }
            EventKind::StepFailed { step, .. } => {
                self.end_spin();
                let line = format!("{} {}", self.style.red("✗"), head(self, step));
                self.print(&line);
            }
            EventKind::Finished | EventKind::Failed { .. } => self.end_spin(),
        }
    }
}

/// At most `room` characters; what is cut off is replaced by an ellipsis.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

impl Screen for Terminal {
    fn show(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Event(event) => self.event(event),
            Notice::AgentLog { line } if self.verbose => {
                self.print(&self.style.dim(&format!("    agent: {line}")));
            }
            Notice::AgentLog { .. } => {}
            Notice::Kexec(Kexec::Said { line }) if is_trace(line) && !self.verbose => {}
            Notice::Kexec(Kexec::Said { line }) => {
                self.print(&self.style.dim(&format!("    kexec: {line}")));
            }
            Notice::NixLog { line, wanted } => {
                if *wanted || self.verbose {
                    self.print(&self.style.dim(&format!("    nix: {line}")));
                }
            }
            Notice::Remark(text) => self.print_remark(text),
            Notice::Nix { .. }
            | Notice::Kexec(
                Kexec::Reading { .. } | Kexec::Sending { .. } | Kexec::Waiting { .. },
            )
            | Notice::Connecting { .. }
            | Notice::Uploading { .. }
            | Notice::Waiting { .. } => {
                self.spin(&sentence(notice).unwrap_or_default());
            }
            Notice::Stopping => {
                self.print(&self.style.yellow(&sentence(notice).unwrap_or_default()));
            }
            other => {
                self.end_spin();
                if let Some(text) = sentence(other) {
                    self.print(&format!("{} {text}", self.style.green("✓")));
                }
            }
        }
    }

    fn pause(&self) -> Pause {
        Pause::of(&self.display)
    }

    fn finish(&mut self) {
        self.end_spin();
    }
}
