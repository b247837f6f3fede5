//! The command line's operator.
//!
//! | module | job |
//! |---|---|
//! | [`command_line`] | answers what the installation asks, from options or a person |
//! | [`prompt`] | asks a person at the terminal |
//! | [`login`] | asks for passphrases and passwords while a login is going on |
//! | [`steps`] | where an execution is: the model behind what is shown |
//! | [`screen`] | what shows notices: a terminal, plain lines, or JSON lines |
//! | [`terminal`] | a live display |
//! | [`plain`] | a line for each thing that happens |
//! | [`json`] | a JSON document for each thing that happens |
//! | [`style`], [`format`] | emphasis; sizes, times, lines |

pub mod command_line;
pub mod format;
pub mod json;
pub mod login;
pub mod plain;
pub mod prompt;
pub mod screen;
pub mod steps;
pub mod style;
pub mod terminal;

pub use command_line::CommandLine;
pub use screen::Screen;

#[cfg(test)]
mod tests;
