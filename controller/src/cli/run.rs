//! From options to a request, and to an exit code.

use super::args::phases::Selected;
use super::args::{Cli, Command, CopyArgs, InstallArgs, LinkArgs, SystemArgs};
use super::disks;
use super::link::{address, reach, reach_at};
use super::outcome::{Trouble, success_text};
use super::system::{Choices, Found};
use crate::closure::ClosureError;
use crate::copy::CopyOptions;
use crate::confirm::{Consent, machine, plan_text};
use crate::install::{
    InstallError, InstallRequest, Installed, Kind, Link, LinkOptions, Until, install, preflight,
};
use crate::reboot::RebootOptions;
use crate::report::InstallReport;
use crate::ssh::{Address, Destination};
use crate::stop::{self, Stop, Stopper};
use crate::ui::command_line::Answers;
use crate::ui::json::Json;
use crate::ui::plain::Plain;
use crate::ui::style::Style;
use crate::ui::terminal::Terminal;
use crate::ui::{CommandLine, Screen, prompt};
use crate::upload::LocalAgent;
use clap::{CommandFactory, Parser};
use keystone_protocol::message::Copied;
use keystone_protocol::options::InstallOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The program.
pub fn main() -> ExitCode {
    let argv = match super::config::with_defaults(std::env::args_os().collect()) {
        Ok(argv) => argv,
        Err(error) => {
            eprintln!("error: {}", crate::chain(&error));
            return ExitCode::from(Kind::Usage.code());
        }
    };
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(Kind::Usage.code()),
                false => ExitCode::SUCCESS,
            };
        }
    };
    let terminal = prompt::Restore::remember();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start: {error}");
            return ExitCode::from(Kind::Internal.code());
        }
    };
    let code = runtime.block_on(dispatch(cli.command));
    // A question that nobody answers any more must not keep the program.
    runtime.shutdown_background();
    terminal.restore();
    ExitCode::from(code)
}

async fn dispatch(command: Command) -> u8 {
    let (stopper, stop) = stop::channel();
    if let Err(error) = listen(stopper) {
        eprintln!("can't listen for signals: {error}");
        return Kind::Internal.code();
    }
    match command {
        Command::Version => {
            println!("keystone {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "keystone", &mut io::stdout());
            0
        }
        Command::Manual { directory } => match clap_mangen::generate_to(Cli::command(), &directory) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("can't write manual pages to {}: {error}", directory.display());
                Kind::Usage.code()
            }
        },
        Command::Inventory(args) => {
            log(args.link.verbose);
            // Its one document is all of standard output, so what happens is said in words.
            let words = LinkArgs { json: false, ..args.link.clone() };
            let mut operator = operator(&words, None);
            let done = inventory(&args.link, &mut operator, &stop).await;
            closing(done, &args.link, &mut operator)
        }
        Command::Verify(args) => {
            log(args.link.verbose);
            // Its one document is all of standard output here too.
            let words = LinkArgs { json: false, ..args.link.clone() };
            let mut operator = operator(&words, None);
            match super::verify::verify(&args, &mut operator, &stop).await {
                Ok(code) => code,
                Err(error) => {
                    closing(Err(error), &args.link, &mut operator);
                    super::verify::NOT_ASKED
                }
            }
        }
        Command::Bundle(args) => super::bundle::bundle(*args, &stop).await,
        Command::Copy(args) => {
            log(args.link.verbose);
            let mut operator = operator(&args.link, None);
            let done = copy(&args, &mut operator, &stop).await;
            closing(done, &args.link, &mut operator)
        }
        Command::Disko(args) => {
            log(args.link.verbose);
            let mut operator = operator_with(&args.link, disks::disko_answers(&args));
            disks::disko(&args, &mut operator, &stop).await
        }
        Command::Rescue(args) => {
            log(args.link.verbose);
            // Standard output is the shell's.
            let words = LinkArgs { json: false, ..args.link.clone() };
            let mut operator = operator_with(&words, disks::rescue_answers(&args));
            disks::rescue(&args, &mut operator, &stop).await
        }
        Command::Plan(args) => {
            log(args.link.verbose);
            let mut operator = operator(&args.link, None);
            let done = install_and_tell(&args.link, &args.system, None, &mut operator, &stop).await;
            closing(done, &args.link, &mut operator)
        }
        Command::Install(mut args) => {
            if args.peer.debug {
                args.link.verbose = args.link.verbose.max(2);
            }
            log(args.link.verbose);
            let mut operator = operator(&args.link, Some(&args));
            if let Some(path) = args.support_bundle.clone() {
                operator.record(path);
            }
            if let Some(path) = args.hardware_report.clone() {
                operator.report_hardware(path);
            }
            let (link, system) = (&args.link, &args.system);
            let done = install_and_tell(link, system, Some(&args), &mut operator, &stop).await;
            closing(done, link, &mut operator)
        }
    }
}

/// Ctrl-C, and what asks a program to end, ask to stop.
fn listen(stopper: Stopper) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            stopper.ask();
        }
    });
    Ok(())
}

fn log(verbose: u8) {
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

fn operator(link: &LinkArgs, install: Option<&InstallArgs>) -> CommandLine {
    let interactive = prompt::is_interactive();
    let consent = match install {
        Some(args) if args.yes => match &args.plan_hash {
            Some(hash) => Consent::PlanHash(hash.clone()),
            None => Consent::Disks(args.disk_ids.clone()),
        },
        _ if interactive => Consent::Typed,
        _ => Consent::Impossible,
    };
    let answers = Answers {
        interactive,
        consent,
        print_plan: !link.json,
        password: install.and_then(|args| args.password_file.clone()),
        pin: install.and_then(|args| args.system.tpm2_pin_file.clone()),
        unlock_key: None,
        recovery_key_file: install.and_then(|args| args.recovery_key_file.clone()),
    };
    operator_with(link, answers)
}

fn operator_with(link: &LinkArgs, answers: Answers) -> CommandLine {
    let verbose = link.verbose > 0;
    let screen: Box<dyn Screen> = match (link.json, io::stderr().is_terminal()) {
        (true, _) => Box::new(Json::new(io::stdout())),
        (false, true) => Box::new(Terminal::new(verbose)),
        (false, false) => Box::new(Plain::new(io::stderr(), verbose)),
    };
    CommandLine::new(screen, answers)
}

pub(super) fn link_options(args: &LinkArgs, operator: &mut CommandLine) -> Result<LinkOptions, InstallError> {
    let (destination, connect) = reach(args, operator)?;
    Ok(LinkOptions {
        destination,
        connect,
        agent: LocalAgent::find(args.agent.as_deref())?,
        agent_log: if args.verbose > 1 { "debug" } else { "info" }.to_owned(),
    })
}

async fn inventory(
    args: &LinkArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let look = async {
        let mut link = Link::open(&link_options(args, operator)?, operator).await?;
        let inventory = link.conversation.inventory(operator).await;
        link.close().await;
        Ok::<_, InstallError>(inventory?)
    };
    let inventory = tokio::select! {
        inventory = look => inventory?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    operator.screen().finish();
    match args.json {
        true => {
            let json = serde_json::to_string_pretty(&inventory)
                .expect("an inventory has no type that JSON can't hold");
            print(&format!("{json}\n"));
        }
        false => print(&machine::inventory_text(&inventory)),
    }
    Ok(())
}

async fn copy(
    args: &CopyArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let origin = args.origin.clone();
    let found = stoppable(stop, move || origin.find()).await?;
    let options = CopyOptions {
        link: link_options(&args.link, operator)?,
        manifest: found.manifest,
        source: found.source,
        root: args.root.clone(),
        patience: Duration::from_secs(args.patience),
    };
    let copied = crate::copy::copy(&options, operator, stop).await?;
    operator.screen().finish();
    if args.link.json {
        let line = serde_json::json!({"event": "copied", "paths": copied.paths,
            "bytes": copied.bytes, "present": copied.present, "kept": copied.kept,
            "local": copied.local});
        Json::new(io::stdout()).line(&line);
    } else {
        let Copied { paths, bytes, present, kept, local } = copied;
        print(&format!("copied {paths} paths ({bytes} bytes); {present} were there\n"));
        if kept > 0 {
            print(&format!("{kept} bytes of paths that an earlier run had begun were kept\n"));
        }
        if local > 0 {
            print(&format!("{local} bytes came from the running system's own store\n"));
        }
    }
    Ok(())
}

/// What reads a closure may wait for a disk or a server: it does so where it can be left alone.
pub(super) async fn stoppable<T: Send + 'static>(
    stop: &Stop,
    read: impl FnOnce() -> Result<T, ClosureError> + Send + 'static,
) -> Result<T, InstallError> {
    tokio::select! {
        read = tokio::task::spawn_blocking(read) => match read {
            Ok(read) => read.map_err(|error| InstallError::Preflight(error.into())),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        },
        () = stop.asked(1) => Err(InstallError::Interrupted),
    }
}

async fn install_and_tell(
    link: &LinkArgs,
    system: &SystemArgs,
    args: Option<&InstallArgs>,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    // Everything that needs no machine comes first.
    let selected = match args {
        Some(args) => super::begin::selected(args, operator)?,
        None => Selected::ALL,
    };
    let debug = args.is_some_and(|args| args.peer.debug);
    if let (Some(args), Some(flake)) = (args, &system.flake)
        && args.vm_test
    {
        let path = crate::flake::vm_test(flake, &system.nix.options(debug), operator, stop).await?;
        operator.screen().finish();
        print(&format!("the test ran well: {}\n", path.display()));
        return Ok(());
    }
    address(link)?;
    let described = match args.filter(|args| !args.generate_hardware_config.is_empty()) {
        Some(args) => {
            let mut options = link_options(link, operator)?;
            super::begin::describe_hardware(args, &mut options, operator, stop).await?;
            Some(options)
        }
        None => None,
    };
    let Found { closure, source, layout } =
        super::system::find(system, debug, operator, stop).await?;
    let checked = preflight(&layout, &closure)?;
    let (additions, choices) = super::system::additions(system, &checked)?;
    additions.disk_keys.values().chain(&additions.host_keys).for_each(|key| operator.hide(key));
    let mut options = match described {
        Some(options) => options,
        None => link_options(link, operator)?,
    };
    let destination = options.destination.clone();
    let agent = options.agent.hash;
    let until = match args {
        Some(args) if !args.dry_run => match selected.reboot {
            true => Until::Verified(reboot_options(args, &options, operator)?),
            false => Until::Sealed,
        },
        _ => Until::Planned,
    };
    let at = match &until {
        Until::Verified(reboot) => reboot.at.to_string(),
        _ => destination.to_string(),
    };
    let to_verify = match &until {
        Until::Verified(reboot) if args.is_some_and(|args| args.verify) => Some(reboot.clone()),
        _ => None,
    };
    if selected.kexec {
        super::begin::need_installer(&mut options, operator, stop).await?;
        if !selected.plan.any() && !selected.reboot {
            return Ok(());
        }
    }
    let request = InstallRequest {
        link: options,
        closure,
        source,
        layout,
        options: install_options(system, args, choices),
        phases: selected.plan,
        additions,
        until,
    };
    let done = install(request, operator, stop).await;
    operator.screen().finish();
    let named = args.and_then(|args| args.report.as_deref());
    match done {
        Ok(installed) => {
            let report = InstallReport::of(&installed, destination.to_string(), &agent);
            let saved = report.and_then(|report| save(&report, &destination.host, named));
            tell(&installed, &destination, &at, saved.as_deref(), link.json, operator);
            if let (Some(at), Some(report)) = (to_verify, &installed.report) {
                super::verify::after_install(&at, report, link.json, operator, stop).await?;
            }
            Ok(())
        }
        Err(error) => {
            if let InstallError::Reboot { error, report } = &error {
                let problem = crate::chain(error.as_ref());
                let report =
                    InstallReport::unverified(report, problem, destination.to_string(), &agent);
                save(&report, &destination.host, named);
            }
            Err(error)
        }
    }
}

pub(super) fn read_layout(path: &Path) -> Result<String, InstallError> {
    let read = match path == Path::new("-") {
        true => {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(path),
    };
    read.map_err(|source| {
        let path = path.to_owned();
        InstallError::Preflight(ClosureError::Read { path, source }.into())
    })
}

fn install_options(
    system: &SystemArgs,
    args: Option<&InstallArgs>,
    choices: Choices,
) -> InstallOptions {
    InstallOptions {
        unlock: system.unlock.into(),
        tpm2_pcrs: system.tpm2_pcrs.clone().map(|pcrs| pcrs.0),
        tpm2_pin: system.tpm2_pin || system.tpm2_pin_file.is_some(),
        erase: system.erase,
        mirror_esp: system.mirror_esp,
        discard: system.discard,
        disko_mode: system.disko_mode,
        disks: system.disks.iter().cloned().collect(),
        extra_files: choices.extra_files,
        chown: choices.chown,
        host_keys: choices.host_keys,
        // Not part of what is written, so that a plan's hash holds for both.
        no_reboot: false,
        skip_seal: args.is_some_and(|args| args.skip_seal_for_tests),
    }
}

/// Where the installed system will answer: as root, who alone has the keys there, under the same
/// name unless another one is given.
fn reboot_options(
    args: &InstallArgs,
    options: &LinkOptions,
    operator: &mut CommandLine,
) -> Result<RebootOptions, InstallError> {
    let address = Address {
        user: Some("root".into()),
        host: args.installed_host.clone().unwrap_or_else(|| options.destination.host.clone()),
        port: args.installed_port.or(Some(options.destination.port)),
    };
    let (at, connect) = reach_at(&args.link, &address, operator)?;
    Ok(RebootOptions { at, connect, bound: Duration::from_secs(args.boot_timeout) })
}

/// Saves the report; where, for the closing words. A report that can't be saved is no failure of
/// the installation, but is said.
fn save(report: &InstallReport<'_>, host: &str, named: Option<&Path>) -> Option<String> {
    if named == Some(Path::new("-")) {
        let json = serde_json::to_string_pretty(report).ok()?;
        print(&format!("{json}\n"));
        return None;
    }
    let path = named.map(Path::to_owned).or_else(|| report.default_path(host))?;
    match report.save(&path) {
        Ok(()) => Some(path.display().to_string()),
        Err(error) => {
            tracing::warn!("the report can't be written to {}: {error}", path.display());
            None
        }
    }
}

fn tell(
    installed: &Installed,
    destination: &Destination,
    at: &str,
    saved: Option<&str>,
    json: bool,
    operator: &CommandLine,
) {
    if json {
        return;
    }
    let Some(report) = &installed.report else {
        let style = Style::of(&io::stdout());
        print(&plan_text(&destination.host, &installed.inventory, &installed.plan, style));
        return;
    };
    let style = Style::of(&io::stderr());
    let text = success_text(report, at, operator.warnings(), operator.kept(), saved, style);
    let _ = io::stderr().write_all(text.as_bytes());
}

/// To standard output; a reader that went away is no error.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(super) fn closing(done: Result<(), InstallError>, link: &LinkArgs, operator: &mut CommandLine) -> u8 {
    operator.screen().finish();
    let Err(error) = done else {
        let done = serde_json::json!({"event": "done", "exit": 0});
        if let Some(bundle) = operator.bundle("done\n", &done) {
            eprintln!("{bundle}");
        }
        return 0;
    };
    let trouble = Trouble::of(&error, operator);
    let json = trouble.json();
    let bundle = operator.bundle(&trouble.text(Style::PLAIN), &json);
    if link.json {
        Json::new(io::stdout()).line(&json);
    }
    let mut text = trouble.text(Style::of(&io::stderr()));
    text.extend(bundle.map(|bundle| bundle + "\n"));
    let _ = io::stderr().write_all(text.as_bytes());
    trouble.kind().code()
}
