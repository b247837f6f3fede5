//! What shows notices.

use crate::operator::Notice;
use indicatif::{MultiProgress, ProgressDrawTarget};

/// Leaves the terminal to a question.
#[derive(Clone, Default)]
pub struct Pause {
    display: Option<MultiProgress>,
}

impl Pause {
    /// Of what is drawn by `display`.
    pub fn of(display: &MultiProgress) -> Self {
        Pause { display: Some(display.clone()) }
    }

    /// Asks while nothing is drawn.
    pub fn during<T>(&self, question: impl FnOnce() -> T) -> T {
        let Some(display) = &self.display else { return question() };
        let _ = display.clear();
        display.set_draw_target(ProgressDrawTarget::hidden());
        let answer = question();
        display.set_draw_target(ProgressDrawTarget::stderr());
        answer
    }
}

/// Shows what happens. One of [`Terminal`](super::terminal::Terminal),
/// [`Plain`](super::plain::Plain) and [`Json`](super::json::Json).
pub trait Screen: Send {
    /// Something happened.
    fn show(&mut self, notice: &Notice<'_>);

    /// What leaves the terminal to a question and takes it back; works from any thread.
    fn pause(&self) -> Pause {
        Pause::default()
    }

    /// Nothing more comes.
    fn finish(&mut self) {}
}
