//! What is shown, and how a command ends.

use super::args::InstallArgs;
use super::args::link::OutputArgs;
use super::outcome::Trouble;
use crate::confirm::Consent;
use crate::install::InstallError;
use crate::ui::command_line::Answers;
use crate::ui::json::Json;
use crate::ui::plain::Plain;
use crate::ui::style::Style;
use crate::ui::terminal::Terminal;
use crate::ui::{CommandLine, Screen, prompt};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Shows what the program logs from now on.
pub(super) fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("KEYSTONE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,keystone_controller={level}")));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .try_init();
}

/// Who is shown what happens, and asked what an installation asks for.
pub(super) fn operator(output: OutputArgs, install: Option<&InstallArgs>) -> CommandLine {
    let interactive = prompt::is_interactive();
    let consent = match install {
        Some(args) => args.agreement.consent(interactive),
        None => Consent::Impossible,
    };
    let answers = Answers {
        interactive,
        consent,
        end_system: install.and_then(|args| args.kexec.end_system.clone()),
        print_plan: !output.json,
        password: install.and_then(|args| args.secrets.password_file.clone()),
        pin: install.and_then(|args| args.system.tpm2_pin_file.clone()),
        unlock_key: None,
        recovery_key_file: install.and_then(|args| args.secrets.recovery_key_file.clone()),
    };
    operator_with(output, answers)
}

/// Who is shown what happens, with these answers.
pub(super) fn operator_with(output: OutputArgs, answers: Answers) -> CommandLine {
    let verbose = output.verbose > 0;
    let screen: Box<dyn Screen> = match (output.json, io::stderr().is_terminal()) {
        (true, _) => Box::new(Json::new(io::stdout())),
        (false, true) => Box::new(Terminal::new(verbose)),
        (false, false) => Box::new(Plain::new(io::stderr(), verbose)),
    };
    CommandLine::new(screen, answers)
}

/// To standard output; a reader that went away is no error.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says how a command failed, if it did; the exit code.
pub(super) fn closing(
    done: Result<(), InstallError>,
    json: bool,
    operator: &mut CommandLine,
) -> u8 {
    operator.screen().finish();
    let Err(error) = done else {
        let done = serde_json::json!({"event": "done", "exit": 0});
        if let Some(bundle) = operator.bundle("done\n", &done) {
            eprintln!("{bundle}");
        }
        return 0;
    };
    let trouble = Trouble::of(&error, operator);
    let document = trouble.json();
    let bundle = operator.bundle(&trouble.text(Style::PLAIN), &document);
    if json {
        Json::new(io::stdout()).line(&document);
    }
    let mut text = trouble.text(Style::of(&io::stderr()));
    text.extend(bundle.map(|bundle| bundle + "\n"));
    let _ = io::stderr().write_all(text.as_bytes());
    trouble.kind().code()
}
