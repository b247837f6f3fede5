//! A live display: finished steps stay as lines, below them what goes on now.

use super::format::elapsed;
use super::plain::{progress, sentence};
use super::screen::{Pause, Screen};
use super::steps::{State, Steps};
use super::style::Style;
use crate::operator::Notice;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keystone_protocol::event::{Event, EventKind, Outcome};
use std::io::stderr;
use std::time::Duration;

/// Draws on standard error.
pub struct Terminal {
    style: Style,
    verbose: bool,
    steps: Steps,
    display: MultiProgress,
    now: Option<ProgressBar>,
    next: Option<ProgressBar>,
}

impl Terminal {
    /// `verbose` adds the agent's log and the output of programs.
    pub fn new(verbose: bool) -> Self {
        Terminal {
            style: Style::of(&stderr()),
            verbose,
            steps: Steps::default(),
            display: MultiProgress::new(),
            now: None,
            next: None,
        }
    }

    fn print(&self, text: &str) {
        // Above what is drawn; a terminal that is gone is no reason to stop.
        let _ = self.display.println(text);
    }

    /// The line of what goes on: a spinner, the time it takes, words.
    fn spin(&mut self, words: String) {
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

    /// The line below: what comes next.
    fn announce_next(&mut self) {
        let all = self.steps.all();
        let pending = all.iter().filter(|step| step.state == State::Pending);
        let words = match (pending.clone().next(), pending.count()) {
            (Some(step), 1) => format!("  then {}", step.title),
            (Some(step), n) => format!("  then {}, and {} more", step.title, n - 1),
            (None, _) => String::new(),
        };
        let display = &self.display;
        let next = self.next.get_or_insert_with(|| {
            let bar = display.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::with_template("{msg:.dim}").expect("a valid template"));
            bar
        });
        next.set_message(words);
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
                self.spin(words);
                self.announce_next();
            }
            EventKind::Progress { step, .. } => {
                let words = head(self, step);
                let progress = self.steps.get(step).map(|(_, v)| progress(v)).unwrap_or_default();
                self.spin(format!("{words}: {progress}"));
            }
            EventKind::Output { line, .. } if self.verbose => {
                self.print(&self.style.dim(&format!("    | {line}")));
            }
            EventKind::Output { .. } => {}
            EventKind::Warning { message, .. } => {
                self.print(&format!("{} {message}", self.style.yellow("!")));
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

impl Screen for Terminal {
    fn show(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Event(event) => self.event(event),
            Notice::AgentLog { line } if self.verbose => {
                self.print(&self.style.dim(&format!("    agent: {line}")));
            }
            Notice::AgentLog { .. } => {}
            Notice::Connecting { .. } | Notice::Uploading { .. } | Notice::Waiting { .. } => {
                self.spin(sentence(notice).unwrap_or_default());
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
