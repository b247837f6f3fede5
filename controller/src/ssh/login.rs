//! Passwords, and which methods of logging in are tried.

use super::prompt::{NoPrompt, Prompt, Question};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// A method of logging in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By a key or a certificate.
    PublicKey,
    /// By answering the machine's questions.
    KeyboardInteractive,
    /// By password.
    Password,
}

impl Method {
    /// In the order in which they are tried; OpenSSH's.
    pub const ALL: [Method; 3] = [Method::PublicKey, Method::KeyboardInteractive, Method::Password];

    /// As RFC 4252 and 4256 name it.
    pub fn name(self) -> &'static str {
        match self {
            Method::PublicKey => "publickey",
            Method::KeyboardInteractive => "keyboard-interactive",
            Method::Password => "password",
        }
    }
}

/// A password that was given beforehand.
#[derive(Clone)]
pub struct Given {
    /// The password.
    pub password: Zeroizing<String>,
    /// Where it comes from, for messages.
    pub from: String,
}

/// How to log in where a key does not do.
#[derive(Clone)]
pub struct Login {
    /// Methods, in the order in which they are tried.
    pub methods: Vec<Method>,
    /// How often a wrong password is asked for again.
    pub attempts: u32,
    prompt: Arc<dyn Prompt>,
    given: Option<Given>,
    given_for_root: Option<Given>,
    remembered: Arc<Mutex<Remembered>>,
}

/// Passwords that were right, for connections that follow. In memory only, zeroed when dropped.
#[derive(Default)]
struct Remembered {
    login: Option<Zeroizing<String>>,
    root: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("methods", &self.methods).finish_non_exhaustive()
    }
}

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PasswordFrom {
    Remembered,
    Given(String),
    Typed,
}

/// OpenSSH's `NumberOfPasswordPrompts`.
const ATTEMPTS: u32 = 3;

impl Default for Login {
    fn default() -> Self {
        Login::new(Arc::new(NoPrompt))
    }
}

impl Login {
    /// By every method, asking `prompt`.
    pub fn new(prompt: Arc<dyn Prompt>) -> Self {
        Login {
            methods: Method::ALL.to_vec(),
            attempts: ATTEMPTS,
            prompt,
            given: None,
            given_for_root: None,
            remembered: Arc::default(),
        }
    }

    /// With the password of who logs in.
    pub fn with_password(mut self, given: Option<Given>) -> Self {
        self.given = given;
        self
    }

    /// With the password that `sudo` or `doas` asks for.
    pub fn with_root_password(mut self, given: Option<Given>) -> Self {
        self.given_for_root = given;
        self
    }

    /// What was given and what was right, for another address of the machine: asking `prompt`, by
    /// every method.
    pub fn elsewhere(&self, prompt: Arc<dyn Prompt>) -> Self {
        Login {
            given: self.given.clone(),
            given_for_root: self.given_for_root.clone(),
            remembered: Arc::clone(&self.remembered),
            ..Login::new(prompt)
        }
    }

    /// The same, but never asking.
    pub fn without_prompt(&self) -> Self {
        Login { prompt: Arc::new(NoPrompt), ..self.clone() }
    }

    /// Whether there is any password to try, or somebody to ask.
    pub(super) fn has_password(&self) -> bool {
        self.prompt.available()
            || self.given.is_some()
            || self.recall(|r| r.login.clone()).is_some()
    }

    /// Passwords to try without asking, each once.
    pub(super) fn passwords(&self) -> Vec<(Zeroizing<String>, PasswordFrom)> {
        let remembered = self.recall(|r| r.login.clone()).map(|p| (p, PasswordFrom::Remembered));
        let given = self.given.clone().map(|g| (g.password, PasswordFrom::Given(g.from)));
        remembered.into_iter().chain(given).collect()
    }

    /// Passwords to try for root without asking: what `sudo` took before, what was given for it,
    /// and what the user logged in with, which is what it usually wants.
    pub(super) fn root_passwords(&self) -> Vec<Zeroizing<String>> {
        let mut all: Vec<_> = self.recall(|r| r.root.clone()).into_iter().collect();
        all.extend(self.given_for_root.clone().map(|given| given.password));
        all.extend(self.passwords().into_iter().map(|(password, _)| password));
        all.dedup();
        all
    }

    /// Asks; `None` where nobody answers.
    pub(super) async fn ask(&self, question: Asked) -> Option<Zeroizing<String>> {
        let prompt = Arc::clone(&self.prompt);
        let answer = tokio::task::spawn_blocking(move || prompt.ask(&question.as_question()));
        answer.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Keeps the password that let the user in.
    pub(super) fn remember(&self, password: Zeroizing<String>) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).login = Some(password);
    }

    /// Keeps the password that `sudo` or `doas` took.
    pub(super) fn remember_for_root(&self, password: Zeroizing<String>) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).root = Some(password);
    }

    fn recall<T>(&self, what: impl FnOnce(&Remembered) -> T) -> T {
        what(&self.remembered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A [`Question`] that can be sent to another thread.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Password { at: String, again: bool },
    Challenge { at: String, introduction: String, prompt: String, echo: bool },
    Elevation { at: String, tool: &'static str },
}

impl Asked {
    fn as_question(&self) -> Question<'_> {
        match self {
            Asked::Password { at, again } => Question::Password { at, again: *again },
            Asked::Challenge { at, introduction, prompt, echo } => {
                Question::Challenge { at, introduction, prompt, echo: *echo }
            }
            Asked::Elevation { at, tool } => Question::Elevation { at, tool },
        }
    }
}
