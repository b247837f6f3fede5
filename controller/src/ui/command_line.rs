//! Answers what the installation asks: from the options, or by asking a person.

use super::prompt;
use super::screen::Screen;
use super::steps::Steps;
use super::style::Style;
use crate::confirm::{Consent, consent, plan_text};
use crate::kexec::Ending;
use crate::operator::{Notice, Operator, OperatorError, Proposal};
use crate::secrets::{RecoveryKeyFile, SecretSource};
use crate::ssh::PublicKey;
use crate::ssh::host_key::fingerprint;
use crate::support::Recorder;
use keystone_protocol::event::EventKind;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::password::{RULES, check_password};
use keystone_protocol::plan::Plan;
use keystone_protocol::secret::Secret;
use std::io::{self, Write};
use std::path::PathBuf;

/// Tries that a person has.
const TRIES: usize = 3;

/// Where answers come from.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Whether somebody can be asked.
    pub interactive: bool,
    /// What counts as agreement.
    pub consent: Consent,
    /// The machine whose system may end, by the name that it has for itself.
    pub end_system: Option<String>,
    /// Whether the plan is printed also where nobody is asked.
    pub print_plan: bool,
    /// The password of containers opened by one.
    pub password: Option<SecretSource>,
    /// The TPM's PIN.
    pub pin: Option<SecretSource>,
    /// What opens containers that are there already.
    pub unlock_key: Option<SecretSource>,
    /// Where recovery keys go.
    pub recovery_key_file: Option<PathBuf>,
}

/// The command line's operator.
pub struct CommandLine {
    screen: Box<dyn Screen>,
    answers: Answers,
    password: Option<Secret>,
    pin: Option<Secret>,
    recovery: Option<RecoveryKeyFile>,
    steps: Steps,
    warnings: Vec<String>,
    /// Where the recovery keys went, for the closing words.
    kept: Vec<String>,
    /// Where the inventory goes, and what is kept for a support bundle and where that goes.
    hardware_report: Option<PathBuf>,
    recorder: Option<(PathBuf, Recorder)>,
}

impl CommandLine {
    /// Shows on `screen`, answers from `answers`.
    pub fn new(screen: Box<dyn Screen>, answers: Answers) -> Self {
        CommandLine {
            screen,
            answers,
            password: None,
            pin: None,
            recovery: None,
            steps: Steps::default(),
            warnings: Vec::new(),
            kept: Vec::new(),
            hardware_report: None,
            recorder: None,
        }
    }

    /// Writes the inventory to this file once it is known.
    pub fn report_hardware(&mut self, path: PathBuf) {
        self.hardware_report = Some(path);
    }

    /// Keeps everything for a support bundle at this path.
    pub fn record(&mut self, path: PathBuf) {
        self.recorder = Some((path, Recorder::default()));
    }

    /// Never writes this into a support bundle.
    pub fn hide(&mut self, secret: &Secret) {
        if let Some((_, recorder)) = &mut self.recorder {
            recorder.hide(secret);
        }
    }

    /// Writes the support bundle, if one is wanted, and says where it is, or why there is none.
    pub fn bundle(&self, text: &str, json: &serde_json::Value) -> Option<String> {
        let (path, recorder) = self.recorder.as_ref()?;
        Some(match recorder.write(path, (text, json)) {
            Ok(()) => format!("support bundle: {}", path.display()),
            Err(error) => format!("can't write the support bundle {}: {error}", path.display()),
        })
    }

    fn write_inventory(&mut self, inventory: &Inventory) {
        let Some(path) = &self.hardware_report else { return };
        let json = serde_json::to_string_pretty(inventory)
            .expect("an inventory has no type that JSON can't hold");
        if let Err(error) = std::fs::write(path, json + "\n") {
            self.warnings.push(format!("--hardware-report {}: {error}", path.display()));
        }
    }

    /// The screen.
    pub fn screen(&mut self) -> &mut dyn Screen {
        self.screen.as_mut()
    }

    /// Where the recovery keys went: `credstore in FILE`, `credstore shown`.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Where the execution is, or was when it failed.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The plan's warnings and those of the steps, in order.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Asks away from the runtime, with the screen out of the way.
    async fn ask<T: Send + 'static>(
        &mut self,
        what: &str,
        question: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, OperatorError> {
        let pause = self.screen.pause();
        tokio::task::spawn_blocking(move || pause.during(question))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(|source| OperatorError::Io { what: what.to_owned(), source })
    }

    /// Away from the runtime: nobody may be writing to a pipe, and who waits may want to stop.
    async fn read(source: &SecretSource, option: &str) -> Result<Secret, OperatorError> {
        let source = source.clone();
        tokio::task::spawn_blocking(move || source.read())
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(|e| OperatorError::Unusable(format!("{option}: {}", crate::chain(&e))))
    }
}

impl Operator for CommandLine {
    fn notice(&mut self, notice: Notice<'_>) {
        if let Some((_, recorder)) = &mut self.recorder {
            recorder.notice(&notice);
        }
        match &notice {
            Notice::Inventory(inventory) => self.write_inventory(inventory),
            Notice::Event(event) => {
                self.steps.take(event);
                if let EventKind::Warning { message, .. } = &event.kind {
                    self.warnings.push(message.clone());
                }
            }
            Notice::Plan(plan) => self.warnings.extend(plan.warnings.iter().cloned()),
            _ => {}
        }
        self.screen.show(&notice);
    }

    async fn accept_host_key(
        &mut self,
        host: &str,
        key: &PublicKey,
    ) -> Result<bool, OperatorError> {
        if !self.answers.interactive {
            return Ok(false);
        }
        let text = format!(
            "The host key of {host} is not known. It is\n\n    {} {}\n\nThe same must be on the \
             machine's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\nIs it? (yes/no) ",
            key.algorithm(),
            fingerprint(key)
        );
        self.ask("asking about the host key", move || prompt::yes(&text)).await
    }

    async fn prepare(&mut self, plan: &Plan) -> Result<(), OperatorError> {
        let missing = |text: String| Err(OperatorError::Missing(text));
        let ask = self.answers.interactive;
        let names = plan.opened_by_password();
        match &self.answers.password {
            Some(source) if !names.is_empty() => {
                let password = Self::read(source, "--password-file").await?;
                check_password(&password)
                    .map_err(|e| OperatorError::Unusable(format!("--password-file: {e}")))?;
                self.hide(&password);
                self.password = Some(password);
            }
            None if !names.is_empty() && !ask => {
                return missing(format!(
                    "{} will be opened by a password, and there is no terminal to ask for it: \
                     give --password-file FILE (or - for standard input); {RULES}",
                    names.join(", ")
                ));
            }
            _ => {}
        }
        let names = plan.opened_by_pin();
        match &self.answers.pin {
            Some(source) if !names.is_empty() => {
                let pin = Self::read(source, "--tpm2-pin-file").await?;
                self.hide(&pin);
                self.pin = Some(pin);
            }
            None if !names.is_empty() && !ask => {
                return missing(format!(
                    "{} will be opened by a PIN, and there is no terminal to ask for it: give \
                     --tpm2-pin-file FILE",
                    names.join(", ")
                ));
            }
            _ => {}
        }
        let names = plan.gets_recovery_key();
        match &self.answers.recovery_key_file {
            Some(path) if !names.is_empty() => {
                let made = RecoveryKeyFile::create(path, names.len());
                self.recovery = Some(made.map_err(|source| OperatorError::Io {
                    what: format!("--recovery-key-file: can't make {}", path.display()),
                    source,
                })?);
            }
            None if !names.is_empty() && !ask => {
                return missing(format!(
                    "{} will get a recovery key, and there is no terminal to show it on: give \
                     --recovery-key-file FILE",
                    names.join(", ")
                ));
            }
            _ => {}
        }
        Ok(())
    }

    async fn confirm(&mut self, proposal: &Proposal<'_>) -> Result<(), OperatorError> {
        let Proposal { host, inventory, plan } = *proposal;
        let given = self.answers.consent.given(plan)?;
        let text = plan_text(host, inventory, plan, Style::of(&io::stderr()));
        if given {
            if self.answers.print_plan {
                let print = || io::stderr().write_all(format!("{text}\n").as_bytes());
                // Nobody reads it, perhaps; it is agreed to.
                let _ = self.screen.pause().during(print);
            }
            return Ok(());
        }
        let mut questions =
            vec![(format!("Type the host to install ({host}): "), vec![host.to_owned()])];
        for disk in consent::disks(plan) {
            let short = disk.name.rsplit_once('/').map_or(disk.name.as_str(), |(_, s)| s);
            questions.push((
                format!("Type the name of the disk to erase ({short}): "),
                vec![disk.name.clone(), short.to_owned()],
            ));
        }
        let agreed = self
            .ask("asking for agreement", move || {
                io::stderr().write_all(format!("{text}\n").as_bytes())?;
                for (question, right) in questions {
                    let mut tries = 0;
                    while !right.contains(&prompt::line(&question)?) {
                        tries += 1;
                        if tries == TRIES {
                            return Ok(false);
                        }
                    }
                }
                Ok(true)
            })
            .await?;
        match agreed {
            true => Ok(()),
            false => Err(OperatorError::NotConfirmed("what was typed is something else".into())),
        }
    }

    async fn confirm_end(&mut self, ending: &Ending<'_>) -> Result<(), OperatorError> {
        let Ending { host, name, system, image } = *ending;
        let no = |why: String| Err(OperatorError::NotConfirmed(why));
        match &self.answers.end_system {
            Some(given) if given == name => return Ok(()),
            Some(given) => {
                return no(format!(
                    "--end-system {given}: the machine at {host} calls itself {name}"
                ));
            }
            None if self.answers.consent == Consent::Typed => {}
            None => {
                return no(format!(
                    "{system} runs at {host}, and would end for an installer to run there: agree \
                     to that with --yes --end-system {name}"
                ));
            }
        }
        let text = format!(
            "\nAt {host} runs {system}. It ends at once, with everything that runs on it, and\n\
             {image}\nis booted in its place. Services are not stopped, and file systems not unmounted. Nothing is\n\
             written to its disks but the image, into a directory for temporary files.\n\n"
        );
        let question = format!("Type the name of the system that ends ({name}): ");
        let name = name.to_owned();
        let agreed = self
            .ask("asking for agreement", move || {
                io::stderr().write_all(text.as_bytes())?;
                for _ in 0..TRIES {
                    if prompt::line(&question)? == name {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await?;
        match agreed {
            true => Ok(()),
            false => no("what was typed is something else".into()),
        }
    }

    async fn password(&mut self, containers: &[&str]) -> Result<Secret, OperatorError> {
        if let Some(password) = self.password.take() {
            return Ok(password);
        }
        let question = format!("Password for {} at boot ({RULES}): ", containers.join(", "));
        self.ask("asking for the password", move || {
            for _ in 0..TRIES {
                let password = prompt::secret(&question)?;
                if let Err(e) = check_password(&password) {
                    eprintln!("{e}");
                } else if prompt::secret("The same again: ")? != password {
                    eprintln!("the two are not the same");
                } else {
                    return Ok(Some(password));
                }
            }
            Ok(None)
        })
        .await?
        .ok_or_else(|| OperatorError::Unusable("no password was chosen".into()))
        .inspect(|password| self.hide(password))
    }

    async fn unlock_key(
        &mut self,
        container: &str,
        tried: &[String],
    ) -> Result<Secret, OperatorError> {
        // It is read once: if it does not open the container, a person may still know better.
        if let Some(source) = self.answers.unlock_key.take() {
            let key = Self::read(&source, "--unlock-key-file").await?;
            self.hide(&key);
            return Ok(key);
        }
        let tried = tried.join("; ");
        if !self.answers.interactive {
            return Err(OperatorError::Missing(format!(
                "the container {container} can't be opened ({tried}), and there is no terminal to \
                 ask at: give its password or recovery key with --unlock-key-file FILE"
            )));
        }
        let question = format!("Password or recovery key of {container}: ");
        self.ask("asking for a password or recovery key", move || {
            if !tried.is_empty() {
                eprintln!("{tried}");
            }
            prompt::secret(&question)
        })
        .await
        .inspect(|key| self.hide(key))
    }

    fn stand_back(&mut self) {
        self.screen.finish();
    }

    async fn pin(&mut self, containers: &[&str]) -> Result<Secret, OperatorError> {
        if let Some(pin) = self.pin.take() {
            return Ok(pin);
        }
        let question = format!("PIN for {} at boot: ", containers.join(", "));
        self.ask("asking for the PIN", move || {
            for _ in 0..TRIES {
                let pin = prompt::secret(&question)?;
                if pin.is_empty() {
                    eprintln!("the PIN is empty");
                } else if prompt::secret("The same again: ")? != pin {
                    eprintln!("the two are not the same");
                } else {
                    return Ok(Some(pin));
                }
            }
            Ok(None)
        })
        .await?
        .ok_or_else(|| OperatorError::Unusable("no PIN was chosen".into()))
        .inspect(|pin| self.hide(pin))
    }

    async fn keep_recovery_key(
        &mut self,
        container: &str,
        key: &Secret,
    ) -> Result<(), OperatorError> {
        self.hide(key);
        if let Some(file) = &mut self.recovery {
            file.store(container, key).map_err(|source| OperatorError::Io {
                what: format!("writing the recovery key to {}", file.path().display()),
                source,
            })?;
            self.kept.push(format!("{container} in {}", file.path().display()));
            return Ok(());
        }
        let (name, key) = (container.to_owned(), key.clone());
        let kept = self.ask("showing the recovery key", move || show_key(&name, &key)).await?;
        if !kept {
            let why = format!("the recovery key of {container} was not written down");
            return Err(OperatorError::NotConfirmed(why));
        }
        self.kept.push(format!("{container} shown once"));
        Ok(())
    }
}

/// Shows a key until its last group is typed, or was not in so many tries; takes it off the screen
/// in either case.
fn show_key(container: &str, key: &Secret) -> io::Result<bool> {
    use zeroize::Zeroizing;
    let text = Zeroizing::new(String::from_utf8_lossy(key.expose()).into_owned());
    let last = text.rsplit('-').next().unwrap_or_default();
    let shown = Zeroizing::new(format!(
        "\nThe recovery key of {container}:\n\n    {}\n\nIt opens the disk when nothing else does.\n\
         It is shown here once and kept nowhere.\n",
        text.as_str()
    ));
    io::stderr().write_all(shown.as_bytes())?;
    let columns = usize::from(console::Term::stderr().size().1);
    let mut rows = prompt::rows(&shown, columns);
    let question = "Write it down, then type its last group: ";
    let mut kept = false;
    for _ in 0..TRIES {
        let answer = Zeroizing::new(prompt::line(question)?);
        rows += prompt::rows(&format!("{question}{}\n", answer.as_str()), columns);
        kept = answer.as_str() == last;
        if kept {
            break;
        }
    }
    // Up and clear to the end of the screen.
    let mut err = io::stderr();
    write!(err, "\x1b[{rows}A\x1b[J")?;
    if !kept {
        writeln!(
            err,
            "The recovery key of {container} was taken off the screen: what was typed is not its end."
        )?;
    }
    err.flush()?;
    Ok(kept)
}
