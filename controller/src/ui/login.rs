//! Asks for passphrases and passwords while a login is going on.

use super::prompt;
use super::screen::Pause;
use crate::conversation::log::clean;
use crate::ssh::{Prompt, Question};
use zeroize::Zeroizing;

/// Asks at the terminal.
#[derive(Clone)]
pub struct TerminalPrompt {
    pause: Pause,
}

impl TerminalPrompt {
    /// Asks while what is drawn leaves the terminal alone.
    pub fn new(pause: Pause) -> Self {
        TerminalPrompt { pause }
    }
}

impl Prompt for TerminalPrompt {
    fn available(&self) -> bool {
        prompt::is_interactive()
    }

    fn ask(&self, question: &Question<'_>) -> Option<Zeroizing<String>> {
        if !self.available() {
            return None;
        }
        self.pause.during(|| match question {
            Question::Passphrase { file, again } => {
                if *again {
                    eprintln!("that is not its passphrase");
                }
                prompt::secret_text(&format!("Passphrase of {}: ", file.display())).ok()
            }
            Question::Password { at, again } => {
                if *again {
                    eprintln!("that is not the password");
                }
                prompt::secret_text(&format!("Password of {at}: ")).ok()
            }
            Question::Challenge { at, introduction, prompt, echo } => {
                for line in introduction.lines() {
                    eprintln!("{at} says: {}", clean(line.as_bytes()));
                }
                let question = format!("{at} asks: {} ", clean(prompt.trim_end().as_bytes()));
                match echo {
                    true => prompt::line(&question).ok().map(Zeroizing::new),
                    false => prompt::secret_text(&question).ok(),
                }
            }
            Question::Elevation { at, tool } => {
                prompt::secret_text(&format!("Password for {tool} of {at}: ")).ok()
            }
        })
    }
}
