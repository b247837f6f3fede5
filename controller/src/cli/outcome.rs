//! The closing words.

use crate::conversation::{ConversationError, ExecuteError};
use crate::flake::NixError;
use crate::install::{InstallError, Kind};
use crate::ssh::PublicKey;
use crate::ssh::host_key::fingerprint;
use crate::ui::CommandLine;
use crate::ui::format::elapsed;
use crate::ui::steps::State;
use crate::ui::style::Style;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::phase::Phases;
use keystone_protocol::report::{EndsAt, Report};
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

/// A failure, taken apart for people and programs.
#[derive(Debug)]
pub struct Trouble {
    kind: Kind,
    step: Option<String>,
    message: String,
    causes: Vec<String>,
    last_lines: Vec<String>,
    left: Vec<String>,
    next: Option<String>,
    warnings: Vec<String>,
}

impl Trouble {
    /// Of an installation.
    pub fn of(error: &InstallError, operator: &CommandLine) -> Self {
        let mut trouble = Trouble::plain(error.into(), error);
        let mut seen = std::collections::HashSet::new();
        let warnings = operator.warnings().iter().filter(|warning| seen.insert(*warning));
        trouble.warnings = warnings.cloned().collect();
        if let InstallError::Nix(NixError::Failed { doing, said }) = error {
            trouble.message = format!("{doing} failed");
            trouble.last_lines = last_words(said);
        }
        let refusal = match error {
            InstallError::Refused(refusal) => Some(refusal),
            InstallError::Conversation(ConversationError::Refused(refusal)) => Some(refusal),
            InstallError::Execute { error, .. } => match error.as_ref() {
                ExecuteError::Refused(refusal) => Some(refusal),
                _ => None,
            },
            _ => None,
        };
        trouble.next = refusal.and_then(|refusal| refusal.hint.clone());
        if let InstallError::Execute { error, log, plan } = error {
            trouble.last_lines = log.iter().rev().take(10).rev().cloned().collect();
            let installs = !plan.basis.toplevel.is_empty();
            trouble.add_execution(error, plan.basis.options.disko_mode, installs, operator);
        }
        if let InstallError::Kexec(error) = error {
            trouble.last_lines = error.said().iter().rev().take(20).rev().cloned().collect();
        }
        if let InstallError::Copy { error, log } = error {
            trouble.last_lines = log.iter().rev().take(10).rev().cloned().collect();
            if let ExecuteError::Failed { failure, .. } = error.as_ref() {
                trouble.message.clone_from(&failure.message);
                trouble.causes.clone_from(&failure.causes);
                trouble.left.clone_from(&failure.left);
                trouble.next = Some(failure.next.clone());
            }
        }
        trouble
    }

    fn add_execution(
        &mut self,
        error: &ExecuteError,
        mode: DiskoMode,
        installs: bool,
        operator: &CommandLine,
    ) {
        let steps = operator.steps();
        let step = match error {
            ExecuteError::Failed { step, failure, cause, .. } => {
                self.message.clone_from(&failure.message);
                self.causes.clone_from(&failure.causes);
                self.causes.extend(cause.as_ref().map(|cause| crate::chain(cause)));
                self.left.clone_from(&failure.left);
                self.next = Some(failure.next.clone()).filter(|next| !next.is_empty());
                step.as_deref().and_then(|id| steps.get(id))
            }
            ExecuteError::Refused(_) => None,
            ExecuteError::Left | ExecuteError::Conversation(_) => {
                if steps.all().iter().any(|step| step.state != State::Pending) {
                    let written = match mode.formats() || mode.destroys() {
                        true => "the disks are written in part; ",
                        false => "",
                    };
                    let waits = match installs {
                        true => {
                            " (after a lost connection when --patience is over; until then --phases \
                             install,reboot goes on, if the target was mounted)"
                        }
                        false => "",
                    };
                    self.left.push(format!(
                        "{written}an agent that still runs closes what it opened{waits}, one that was \
                         killed left pool, containers and mounts open: the same command again closes \
                         or finds them"
                    ));
                    self.next = Some(mode.again(Phases::ALL));
                }
                steps.current()
            }
        };
        if let Some((number, view)) = step {
            self.step = Some(format!("{number}/{} {}", steps.all().len(), view.title));
            if view.output().next().is_some() {
                self.last_lines = view.output().map(str::to_owned).collect();
            }
        }
    }

    /// Of options that were not understood, which say what is wrong by themselves.
    pub fn usage(said: &str) -> Self {
        Trouble::plain(Kind::Usage, &InstallError::Usage(said.to_owned()))
    }

    /// Of anything else.
    pub fn plain(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let mut causes = Vec::new();
        let mut text = error.to_string();
        let message = text.clone();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Transparent errors say the same as what they wrap.
            if cause_text != text {
                causes.push(cause_text.clone());
            }
            text = cause_text;
            source = cause.source();
        }
        Trouble {
            kind,
            step: None,
            message,
            causes,
            last_lines: Vec::new(),
            left: Vec::new(),
            next: None,
            warnings: Vec::new(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For people.
    pub fn text(&self, style: Style) -> String {
        let mut out = String::new();
        let head = match &self.step {
            Some(step) if self.kind == Kind::Interrupted => format!("stopped in step {step}"),
            Some(step) => format!("step {step} failed"),
            None => "error".to_owned(),
        };
        out += &style.line(&format!("{}: {}", style.red(&head), self.message), 2);
        for cause in &self.causes {
            out += &style.line(&format!("  because: {cause}"), 4);
        }
        let mut list = |title: &str, items: &[String], mark: &str| {
            if !items.is_empty() {
                let _ = writeln!(out, "{title}:");
                items.iter().for_each(|item| out += &style.line(&format!("  {mark} {item}"), 4));
            }
        };
        list("last lines", &self.last_lines, "|");
        list("warnings until then", &self.warnings, "-");
        list("on the machine now", &self.left, "-");
        if let Some(next) = &self.next {
            out += &style.line(&format!("next: {}", style.bold(next)), 2);
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "event": "error",
            "kind": self.kind.name(),
            "exit": self.kind.code(),
            "step": self.step,
            "message": self.message,
            "causes": self.causes,
            "last_lines": self.last_lines,
            "warnings": self.warnings,
            "left": self.left,
            "next": self.next,
        })
    }
}

/// What was reached, for people.
pub fn success_text(
    report: &Report,
    destination: &str,
    warnings: &[String],
    kept: &[String],
    saved: Option<&str>,
    style: Style,
) -> String {
    let mut out = String::new();
    let time: u64 = report.steps.iter().map(|step| step.elapsed_ms).sum();
    let how = match report.ends_at {
        EndsAt::Mounted => {
            "the disks are made and mounted below /mnt; go on with --phases install,reboot"
        }
        EndsAt::Verified => "installed, sealed and seen running",
        EndsAt::Sealed => "installed and sealed; the machine is still in its installer",
        EndsAt::BeforeSeal => "installed, but not sealed",
    };
    let time = elapsed(Duration::from_millis(time));
    let _ = writeln!(out, "{} {}", style.green(how), style.dim(&format!("(steps: {time})")));
    let _ = writeln!(out, "  system    {}", report.toplevel);
    let key = report.ssh_host_key.as_deref().and_then(|k| PublicKey::from_openssh(k).ok());
    if let Some(key) = key {
        let _ = writeln!(out, "  host key  {}", fingerprint(&key));
    }
    for container in kept {
        let _ = writeln!(out, "  recovery key of {container}");
    }
    if let Some(saved) = saved {
        let _ = writeln!(out, "  report    {saved}");
    }
    if report.ends_at == EndsAt::Verified {
        let _ = writeln!(out, "  log in    {destination}");
    }
    // Those of the agent are in the report; the plan's are here too.
    let mut all: Vec<&String> = warnings.iter().chain(&report.warnings).collect();
    let mut seen = std::collections::HashSet::new();
    all.retain(|warning| seen.insert(*warning));
    if !all.is_empty() {
        let _ = writeln!(out, "{}", style.yellow("warnings"));
        for warning in all {
            out += &style.line(&format!("  - {warning}"), 4);
        }
    }
    out
}

/// Nix's last lines; and its error before them, which older ones say first, with a trace after it.
fn last_words(said: &[String]) -> Vec<String> {
    let (before, last) = said.split_at(said.len().saturating_sub(20));
    let error = before.iter().rfind(|line| line.trim_start().starts_with("error:"));
    error.into_iter().chain(last).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> Trouble {
        Trouble {
            kind: Kind::Storage,
            step: Some("5/27 make volume rpool/credstore of 100.0 MiB".into()),
            message: "making the volume rpool/credstore failed".into(),
            causes: vec!["cannot create 'rpool/credstore': out of space".into()],
            last_lines: vec!["cannot create 'rpool/credstore': out of space, and a long line of a program's own that goes on".into()],
            left: vec!["disk root (virtio-target) is partly written".into()],
            next: Some("mend the cause and run the same command again, with `--erase`: it begins anew (on virtio-target)".into()),
            warnings: vec!["EFI variables can't be read here: no boot entry can be made or checked, and the machine boots by the fallback path".into()],
        }
    }

    #[test]
    fn a_failure_in_80_columns() {
        let text = trouble().text(Style::PLAIN.with_columns(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_failure_in_140_columns() {
        insta::assert_snapshot!(trouble().text(Style::PLAIN.with_columns(140)));
    }

    fn installed(style: Style) -> String {
        let report = serde_json::from_value(json!({
            "version": 1, "agent_version": "1", "plan": "hash",
            "toplevel": "/nix/store/8skl0w4x7hni23jcyjhr4d1hrnbfh4g3-nixos-system-nas-25.11.1",
            "disks": {}, "pools": {}, "containers": {}, "ssh_host_key":
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
            "steps": [{"id": "closure", "elapsed_ms": 61_500, "outcome": "created"}, {"id": "seal", "elapsed_ms": 900, "outcome": "created"}],
            "warnings": ["EFI variables can't be read here: no boot entry can be made or checked, and the machine boots by the fallback path"],
            "ends_at": "verified", "started_at": 1
        }));
        let warnings = [
            "the machine has no TPM: its credstore is opened by a password that is typed at each boot".to_owned(),
            "EFI variables can't be read here: no boot entry can be made or checked, and the machine boots by the fallback path".to_owned(),
        ];
        let kept = ["credstore: recovery.key".to_owned()];
        success_text(&report.unwrap(), "root@nas", &warnings, &kept, Some("nas.report.json"), style)
    }

    /// What was warned of twice is said once, at the end.
    #[test]
    fn a_success_in_80_columns() {
        let text = installed(Style::PLAIN.with_columns(80));
        assert_eq!(text.matches("EFI variables").count(), 1, "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_success_in_140_columns() {
        insta::assert_snapshot!(installed(Style::PLAIN.with_columns(140)));
    }

    #[test]
    fn an_error_is_among_the_last_words_wherever_it_was() {
        let lines = |error: usize| -> Vec<String> {
            let line = |n| if n == error { "error: no".to_owned() } else { format!("at {n}") };
            (0..30).map(line).collect()
        };
        let first = last_words(&lines(2));
        assert_eq!((first.len(), &*first[0], &*first[1]), (21, "error: no", "at 10"));
        let last = last_words(&lines(29));
        assert_eq!((last.len(), &*last[0], &*last[19]), (20, "at 10", "error: no"));
        assert_eq!(last_words(&lines(99)[..3]).len(), 3);
    }

    /// What programs may look through has no line breaks of ours.
    #[test]
    fn a_failure_that_is_not_for_a_terminal() {
        let text = trouble().text(Style::PLAIN);
        assert!(
            text.contains("again, with `--erase`: it begins anew (on virtio-target)\n"),
            "{text}"
        );
    }
}
