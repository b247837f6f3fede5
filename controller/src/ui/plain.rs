//! A line for each thing that happens: logs, pipes, dumb terminals.

use super::format::{bytes, count, elapsed, guess};
use super::screen::Screen;
use super::steps::{StepView, Steps};
use crate::kexec::Progress as Kexec;
use crate::kexec::start::is_trace;
use crate::operator::Notice;
use keystone_protocol::event::{Event, EventKind, Outcome, Unit};
use std::io::Write;

/// A step's progress is said this often.
const EVERY_MS: u64 = 5000;

/// Writes lines.
pub struct Plain<W: Write + Send> {
    out: W,
    verbose: bool,
    steps: Steps,
    said_ms: u64,
}

impl<W: Write + Send> Plain<W> {
    /// To `out`; `verbose` adds the agent's log and the output of programs.
    pub fn new(out: W, verbose: bool) -> Self {
        Plain { out, verbose, steps: Steps::default(), said_ms: 0 }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, text: &str) {
        // Whoever read the lines is gone: the installation goes on.
        let _ = writeln!(self.out, "{text}");
    }

    fn event(&mut self, event: &Event) {
        self.steps.take(event);
        let total = self.steps.all().len();
        let head = |id: &str, steps: &Steps, word: &str| {
            let (number, title) = steps.get(id).map_or((0, id), |(n, view)| (n, &view.title));
            let seconds = event.at_ms as f64 / 1000.0;
            let width = total.to_string().len();
            format!("[{seconds:7.1} s] {number:>width$}/{total} {word:<5} {title}")
        };
        match &event.kind {
            EventKind::Started { steps, .. } => {
                self.line(&format!("{} to do", count(steps.len() as u64, "step")));
            }
            EventKind::StepStarted { step } => {
                self.said_ms = event.at_ms;
                let text = head(step, &self.steps, "start");
                self.line(&text);
            }
            EventKind::Progress { step, unit, .. } => {
                let Some((_, view)) = self.steps.get(step) else { return };
                // Paths are said together with the bytes that come after them.
                if *unit == Unit::Paths && view.bytes().is_some() {
                    return;
                }
                let whole = view.bytes().is_some_and(|(done, total)| Some(done) == total);
                if event.at_ms < self.said_ms + EVERY_MS && !whole {
                    return;
                }
                self.said_ms = event.at_ms;
                let text = head(step, &self.steps, "...");
                let line = format!("{text}: {}", progress(view));
                self.line(&line);
            }
            EventKind::Output { line, .. } if self.verbose => self.line(&format!("    | {line}")),
            EventKind::Output { .. } => {}
            EventKind::Warning { step, message } => {
                let text = head(step, &self.steps, "warn");
                self.line(&format!("{text}: {message}"));
            }
            EventKind::StepFinished { step, outcome, elapsed_ms } => {
                let text = head(step, &self.steps, "done");
                let how = match outcome {
                    Outcome::Created => "",
                    Outcome::AlreadySo => "already so, ",
                };
                let time = elapsed(std::time::Duration::from_millis(*elapsed_ms));
                self.line(&format!("{text} ({how}{time})"));
            }
            EventKind::StepFailed { step, failure } => {
                let text = head(step, &self.steps, "FAIL");
                self.line(&format!("{text}: {}", failure.message));
            }
            EventKind::Finished | EventKind::Failed { .. } => {}
        }
    }
}

/// `12 %, 150.0 MiB of 1.2 GiB, 37 of 312 paths, 45.0 MiB/s, 20 s left`
pub fn progress(view: &StepView) -> String {
    let parts = percent(view).into_iter().chain(amounts(view)).chain(speed(view));
    parts.collect::<Vec<_>>().join(", ")
}

/// The same in two: `12 %, 45.0 MiB/s, 20 s left` and `150.0 MiB of 1.2 GiB, 37 of 312 paths`.
pub fn progress_in_two(view: &StepView) -> (String, String) {
    let how_far: Vec<String> = percent(view).into_iter().chain(speed(view)).collect();
    (how_far.join(", "), amounts(view).join(", "))
}

fn percent(view: &StepView) -> Option<String> {
    let (done, total) = view.bytes()?;
    let total = total.filter(|total| *total > 0)?;
    Some(format!("{} %", done.min(total) * 100 / total))
}

fn amounts(view: &StepView) -> Vec<String> {
    let of_bytes = view.bytes().map(|(done, total)| match total {
        Some(total) if total > 0 => format!("{} of {}", bytes(done), bytes(total)),
        _ => bytes(done),
    });
    let of_paths = view.paths().map(|(done, total)| match total {
        Some(total) => format!("{done} of {}", count(total, "path")),
        None => count(done, "path"),
    });
    of_bytes.into_iter().chain(of_paths).collect()
}

fn speed(view: &StepView) -> Vec<String> {
    let rate = view.rate().map(|rate| format!("{}/s", bytes(rate)));
    let rest = view.eta().map(|eta| format!("{} left", guess(eta)));
    rate.into_iter().chain(rest).collect()
}

/// What is said of a notice that is not an event; `None` for those shown otherwise.
pub fn sentence(notice: &Notice<'_>) -> Option<String> {
    Some(match notice {
        Notice::Remark(text) => format!("note: {text}"),
        Notice::Nix { doing } => (*doing).to_owned(),
        Notice::Connecting { destination } => format!("connecting to {destination}"),
        Notice::Connected { host_key } => format!("connected, host key {host_key}"),
        Notice::Uploading { agent } => {
            format!("bringing the agent ({}) to the machine", bytes(agent.bytes.len() as u64))
        }
        Notice::AgentStarted { version, path, sent } => {
            let found = if *sent { "" } else { ", which was there already" };
            format!("agent {version} runs at {path}{found}")
        }
        Notice::Reconnecting { pause, why } => {
            format!("connecting again in {:.1} s: {why}", pause.as_secs_f64())
        }
        Notice::Connections { count } => format!("{count} connections carry the closure"),
        Notice::Stopping => {
            "stopping between two writes; press Ctrl-C again to leave without waiting".into()
        }
        Notice::Rebooting => "the machine restarts".into(),
        Notice::Waiting { at, bound, seen } => {
            format!("waiting up to {} for the new system at {at}: {seen}", guess(*bound))
        }
        Notice::Verified { destination, elapsed: time } => {
            format!("the new system runs and answers at {destination}, after {}", elapsed(*time))
        }
        Notice::Kexec(progress) => match progress {
            Kexec::Reading { image } => format!("reading the image {image}"),
            Kexec::Sending { done, total } => {
                let percent = (done * 100).checked_div(*total).unwrap_or(100);
                let (done, total) = (bytes(*done), bytes(*total));
                format!("sending the image: {percent} %, {done} of {total}")
            }
            Kexec::Waiting { at, bound, seen } => {
                format!("waiting up to {} for the installer at {at}: {seen}", guess(*bound))
            }
            Kexec::Booted { at, elapsed: time } => {
                format!("the installer runs and answers at {at}, after {}", elapsed(*time))
            }
            Kexec::Said { .. } => return None,
        },
        Notice::Inventory(_)
        | Notice::NixLog { .. }
        | Notice::Plan(_)
        | Notice::Event(_)
        | Notice::AgentLog { .. }
        | Notice::Done(_) => return None,
    })
}

impl<W: Write + Send> Screen for Plain<W> {
    fn show(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Event(event) => self.event(event),
            Notice::NixLog { line, wanted } if *wanted || self.verbose => {
                self.line(&format!("    nix: {line}"));
            }
            Notice::Kexec(Kexec::Said { line }) if self.verbose || !is_trace(line) => {
                self.line(&format!("    kexec: {line}"));
            }
            Notice::AgentLog { line } if self.verbose => self.line(&format!("    agent: {line}")),
            other => {
                if let Some(text) = sentence(other) {
                    self.line(&text);
                }
            }
        }
    }
}
