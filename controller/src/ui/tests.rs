//! What is shown, and what is asked for before anything is written.

use super::command_line::{Answers, CommandLine};
use super::json::Json;
use super::plain::Plain;
use super::screen::Screen;
use super::style::Style;
use super::terminal::Terminal;
use crate::confirm::Consent;
use crate::confirm::tests::{inventory, plan, tpm2};
use crate::operator::{Notice, Operator, OperatorError, Proposal};
use crate::secrets::SecretSource;
use indicatif::{InMemoryTerm, MultiProgress, ProgressDrawTarget};
use keystone_protocol::event::{Event, EventKind, Failure, Outcome, StepSummary, Unit};
use keystone_protocol::plan::{ContainerUnlock, KeyFile};
use keystone_protocol::secret::Secret;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn notices(mut show: impl FnMut(Notice<'_>)) {
    let mut event = |at_ms, kind| show(Notice::Event(&Event { at_ms, kind }));
    let summary = |id: &str, title: &str| StepSummary { id: id.into(), title: title.into() };
    let steps = vec![
        summary("wipe:root", "wipe disk root"),
        summary("closure", "receive the closure: 312 paths, 1.2 GiB"),
        summary("bootloader", "install the boot loader"),
    ];
    event(0, EventKind::Started { plan: "hash".into(), steps });
    event(10, EventKind::StepStarted { step: "wipe:root".into() });
    event(
        20,
        EventKind::StepFinished {
            step: "wipe:root".into(),
            outcome: Outcome::AlreadySo,
            elapsed_ms: 10,
        },
    );
    event(30, EventKind::StepStarted { step: "closure".into() });
    let progress = |done, total, unit| EventKind::Progress {
        step: "closure".into(),
        done,
        total: Some(total),
        unit,
    };
    for second in 1..=12u64 {
        event(30 + second * 1000, progress(second * 26, 312, Unit::Paths));
        event(30 + second * 1000, progress((second * 100) << 20, 1200 << 20, Unit::Bytes));
    }
    event(
        12_100,
        EventKind::StepFinished {
            step: "closure".into(),
            outcome: Outcome::Created,
            elapsed_ms: 12_070,
        },
    );
    event(12_200, EventKind::StepStarted { step: "bootloader".into() });
    let output = |line: &str| EventKind::Output { step: "bootloader".into(), line: line.into() };
    event(12_300, output("Created EFI/systemd"));
    let warning = "activation ended with exit status 4: the service keystone-mesh.service did not \
                   start, and will be tried again at the next boot";
    event(12_400, EventKind::Warning { step: "bootloader".into(), message: warning.into() });
    let failure = Failure {
        message: "no space left on the ESP".into(),
        causes: vec!["ENOSPC".into()],
        left: vec!["the pool is exported".into()],
        next: "run the same command again".into(),
    };
    event(13_000, EventKind::StepFailed { step: "bootloader".into(), failure: failure.clone() });
    event(13_500, EventKind::Failed { failure });
    show(Notice::AgentLog { line: "INFO exported rpool" });
    show(Notice::Waiting {
        at: "root@nas",
        bound: Duration::from_secs(900),
        seen: "nobody answers",
    });
}

/// What a terminal of so many columns shows amid the closure, and at the end.
fn on_terminal(columns: u16) -> String {
    let screen = InMemoryTerm::new(30, columns);
    let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
    let display = MultiProgress::with_draw_target(target);
    let mut terminal = Terminal::on(display, Some(usize::from(columns)), Style::PLAIN, false);
    let mut seen = 0;
    let mut text = String::new();
    notices(|notice| {
        terminal.show(&notice);
        seen += 1;
        if seen == 20 {
            text = format!("== amid the closure\n{}\n", screen.contents());
        }
    });
    terminal.finish();
    let all = format!("{text}== at the end\n{}\n", screen.contents());
    // Spinner and time depend on when it was looked at.
    let still = |c: char| if ('\u{2800}'..'\u{2900}').contains(&c) { '*' } else { c };
    all.chars().map(still).collect::<String>().replace(" 0s", "")
}

#[test]
fn a_narrow_terminal_has_it_in_two_lines() {
    let text = on_terminal(80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_wide_terminal_has_it_in_one() {
    insta::assert_snapshot!(on_terminal(140));
}

#[test]
fn plain_lines() {
    let mut screen = Plain::new(Vec::new(), false);
    notices(|notice| screen.show(&notice));
    insta::assert_snapshot!(String::from_utf8(screen.into_inner()).unwrap());
}

#[test]
fn plain_lines_with_more() {
    let mut screen = Plain::new(Vec::new(), true);
    notices(|notice| screen.show(&notice));
    let text = String::from_utf8(screen.into_inner()).unwrap();
    assert!(text.contains("    | Created EFI/systemd\n"), "{text}");
    assert!(text.contains("    agent: INFO exported rpool\n"), "{text}");
}

/// A writer whose bytes can be looked at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn json_is_a_document_a_line() {
    let out = Shared::default();
    let mut screen = Json::new(out.clone());
    notices(|notice| screen.show(&notice));
    screen.show(&Notice::Plan(&plan(tpm2())));
    let documents: Vec<serde_json::Value> =
        out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(documents.iter().all(|d| d["event"].is_string()));
    assert_eq!(
        documents[1],
        serde_json::json!({"at_ms": 10, "event": "step-started", "step": "wipe:root"})
    );
    let last = documents.last().unwrap();
    assert_eq!(last["plan"]["hash"], plan(tpm2()).hash.as_str());
}

fn unattended(password: Option<&Path>, recovery: Option<&Path>) -> (CommandLine, Shared) {
    let shown = Shared::default();
    let answers = Answers {
        interactive: false,
        consent: Consent::Impossible,
        end_system: None,
        print_plan: false,
        password: password.map(|path| SecretSource::File(path.into())),
        pin: None,
        unlock_key: None,
        recovery_key_file: recovery.map(Path::to_owned),
    };
    (CommandLine::new(Box::new(Json::new(shown.clone())), answers), shown)
}

#[tokio::test]
async fn what_is_missing_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (password, recovery) = (dir.path().join("password"), dir.path().join("recovery"));
    std::fs::write(&password, "correct horse battery\n").unwrap();
    let by_password = plan(ContainerUnlock::Password);

    let missing = |error: OperatorError, option: &str| {
        assert!(matches!(error, OperatorError::Missing(_)), "{error}");
        assert!(error.to_string().contains(option), "{error}");
    };
    let error = unattended(None, Some(&recovery)).0.prepare(&by_password).await.unwrap_err();
    missing(error, "--password-file");
    let error = unattended(Some(&password), None).0.prepare(&by_password).await.unwrap_err();
    missing(error, "--recovery-key-file");
    let error = unattended(None, None).0.prepare(&plan(tpm2())).await.unwrap_err();
    missing(error, "--recovery-key-file");
    let pin = ContainerUnlock::Tpm2 { pcrs: vec![7], bank: "sha256".into(), pin: true };
    let error = unattended(None, Some(&recovery)).0.prepare(&plan(pin)).await.unwrap_err();
    missing(error, "--tpm2-pin-file");
    assert!(!recovery.exists(), "made for nothing");

    std::fs::write(&password, "short\n").unwrap();
    let error =
        unattended(Some(&password), Some(&recovery)).0.prepare(&by_password).await.unwrap_err();
    assert!(error.to_string().contains("has 5 characters; it needs at least 12"), "{error}");
    let none = dir.path().join("none");
    let error = unattended(Some(&none), Some(&recovery)).0.prepare(&by_password).await.unwrap_err();
    assert!(error.to_string().contains("none: No such file"), "{error}");
    std::fs::write(&recovery, "of another machine").unwrap();
    let error = unattended(None, Some(&recovery)).0.prepare(&plan(tpm2())).await.unwrap_err();
    assert!(crate::chain(&error).contains("File exists"), "{error}");
    assert_eq!(std::fs::read(&recovery).unwrap(), b"of another machine");

    // A key file of the layout needs neither.
    let key_file = ContainerUnlock::KeyFile(KeyFile {
        path: "/tmp/key".into(),
        trim_newline: true,
        offset: 0,
        size: None,
    });
    unattended(None, None).0.prepare(&plan(key_file)).await.unwrap();
}

#[tokio::test]
async fn secrets_go_where_they_belong_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (password, recovery) = (dir.path().join("password"), dir.path().join("recovery"));
    std::fs::write(&password, "correct horse battery\n").unwrap();
    let plan = plan(ContainerUnlock::Password);
    let (mut operator, shown) = unattended(Some(&password), Some(&recovery));
    operator.notice(Notice::Plan(&plan));
    operator.prepare(&plan).await.unwrap();
    let inventory = inventory();
    let proposal = Proposal { host: "nas", inventory: &inventory, plan: &plan };
    let error = operator.confirm(&proposal).await.unwrap_err();
    assert!(matches!(error, OperatorError::NotConfirmed(_)), "{error}");
    let given = operator.password(&["credstore"]).await.unwrap();
    assert_eq!(given.expose(), b"correct horse battery");
    let key = Secret::new(b"ccccbbbb-ddddeeee".to_vec());
    operator.keep_recovery_key("credstore", &key).await.unwrap();
    assert_eq!(std::fs::read(&recovery).unwrap(), key.expose());
    assert_eq!(operator.kept(), [format!("credstore in {}", recovery.display())]);
    for secret in ["horse", "ccccbbbb"] {
        assert!(!shown.text().contains(secret), "{}", shown.text());
    }
}
