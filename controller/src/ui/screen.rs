//! What shows notices.

use crate::operator::Notice;

/// Shows what happens. One of [`Terminal`](super::terminal::Terminal),
/// [`Plain`](super::plain::Plain) and [`Json`](super::json::Json).
pub trait Screen: Send {
    /// Something happened.
    fn show(&mut self, notice: &Notice<'_>);

    /// Leaves the terminal to a question; [`Screen::resume`] takes it back.
    fn suspend(&mut self) {}

    /// Takes the terminal back.
    fn resume(&mut self) {}

    /// Nothing more comes.
    fn finish(&mut self) {}
}
