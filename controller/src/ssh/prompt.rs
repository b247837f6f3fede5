//! What a login may have to ask.

use std::path::Path;
use zeroize::Zeroizing;

/// A question to the operator. Its words may come from the machine: a front end has to show them
/// as such, without control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// The passphrase of a key.
    Passphrase {
        /// The key's file.
        file: &'a Path,
        /// Whether the last answer was wrong.
        again: bool,
    },
    /// The password of who logs in.
    Password {
        /// `user@host`.
        at: &'a str,
        /// Whether the last answer was wrong.
        again: bool,
    },
    /// A question of the machine (keyboard-interactive).
    Challenge {
        /// `user@host`.
        at: &'a str,
        /// The machine's title and explanation, may be empty.
        introduction: &'a str,
        /// The question.
        prompt: &'a str,
        /// Whether the answer may be seen.
        echo: bool,
    },
    /// The password that `sudo` or `doas` asks for.
    Elevation {
        /// `user@host`.
        at: &'a str,
        /// `sudo` or `doas`.
        tool: &'a str,
    },
}

/// Who is asked.
pub trait Prompt: Send + Sync {
    /// Whether somebody can answer at all.
    fn available(&self) -> bool;

    /// The answer, or `None` where nobody gives one.
    fn ask(&self, question: &Question<'_>) -> Option<Zeroizing<String>>;
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrompt;

impl Prompt for NoPrompt {
    fn available(&self) -> bool {
        false
    }

    fn ask(&self, _question: &Question<'_>) -> Option<Zeroizing<String>> {
        None
    }
}
