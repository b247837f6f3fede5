//! From options to a request, and to an exit code.

use super::args::link::OutputArgs;
use super::args::{Cli, Command, CopyArgs, LinkArgs};
use super::disks;
use super::install::install_and_tell;
use super::link::link_options;
use super::outcome::Trouble;
use super::output::{closing, log, operator, operator_with, print};
use crate::confirm::machine;
use crate::copy::CopyOptions;
use crate::install::{InstallError, Kind, Link, LinkOptions};
use crate::operator::{Notice, Operator};
use crate::stop::{self, Stop, Stopper};
use crate::ui::CommandLine;
use crate::ui::json::Json;
use crate::ui::prompt;
use clap::{CommandFactory, Parser};
use keystone_protocol::message::Copied;
use keystone_protocol::version::PROTOCOL_VERSION;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The program.
pub fn main() -> ExitCode {
    let argv = match super::config::with_defaults(std::env::args_os().collect()) {
        Ok(argv) => argv,
        Err(error) => {
            let said = crate::chain(&error);
            eprintln!("error: {said}");
            return wrong_usage(&said, std::env::args_os());
        }
    };
    let cli = match Cli::try_parse_from(&argv) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.use_stderr() {
                true => {
                    let said = error.to_string();
                    let said = said.strip_prefix("error: ").unwrap_or(&said);
                    wrong_usage(said.trim_end(), argv.into_iter())
                }
                false => ExitCode::SUCCESS,
            };
        }
    };
    let terminal = prompt::Restore::remember();
    // What works has threads of its own; what talks to the machine is one connection, which would only
    // be handed from one thread to another.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(1).enable_all().build() {
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

/// Says it to programs too, if they are who asked; before that is known for sure, since nothing was understood.
fn wrong_usage(said: &str, mut argv: impl Iterator<Item = OsString>) -> ExitCode {
    if argv.any(|argument| argument == "--json") {
        Json::new(io::stdout()).line(&Trouble::usage(said).json());
    }
    ExitCode::from(Kind::Usage.code())
}

async fn dispatch(command: Command) -> u8 {
    let (stopper, stop) = stop::channel();
    if let Err(error) = listen(stopper) {
        eprintln!("can't listen for signals: {error}");
        return Kind::Internal.code();
    }
    match command {
        Command::Version { json } => {
            let version = env!("CARGO_PKG_VERSION");
            match json {
                true => println!(
                    "{}",
                    serde_json::json!({"version": version, "protocol": PROTOCOL_VERSION})
                ),
                false => println!("keystone {version}"),
            }
            0
        }
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "keystone", &mut io::stdout());
            0
        }
        Command::Manual { directory } => match clap_mangen::generate_to(Cli::command(), &directory)
        {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("can't write manual pages to {}: {error}", directory.display());
                Kind::Usage.code()
            }
        },
        Command::Inventory(args) => {
            let output = args.link.output;
            log(output.verbose);
            let mut operator = operator(in_words(output), None);
            let done = inventory(&args.link, &mut operator, &stop).await;
            closing(done, output.json, &mut operator)
        }
        Command::Layout(args) => {
            log(args.output.verbose);
            let mut operator = operator(in_words(args.output), None);
            let done = super::layout::layout(&args, &mut operator, &stop).await;
            closing(done, args.output.json, &mut operator)
        }
        Command::Verify(args) => {
            let output = args.link.output;
            log(output.verbose);
            let mut operator = operator(in_words(output), None);
            match super::verify::verify(&args, &mut operator, &stop).await {
                Ok(code) => code,
                Err(error) => {
                    closing(Err(error), output.json, &mut operator);
                    super::verify::NOT_ASKED
                }
            }
        }
        Command::Bundle(args) => super::bundle::bundle(*args, &stop).await,
        Command::Copy(args) => {
            let output = args.link.output;
            log(output.verbose);
            let mut operator = operator(output, None);
            let done = copy(&args, &mut operator, &stop).await;
            closing(done, output.json, &mut operator)
        }
        Command::Disko(args) => {
            log(args.link.output.verbose);
            let mut operator = operator_with(args.link.output, disks::disko_answers(&args));
            disks::disko(&args, &mut operator, &stop).await
        }
        Command::Rescue(args) => {
            log(args.link.output.verbose);
            let answers = disks::rescue_answers(&args);
            let mut operator = operator_with(in_words(args.link.output), answers);
            disks::rescue(&args, &mut operator, &stop).await
        }
        Command::Plan(args) => {
            let output = args.link.output;
            log(output.verbose);
            let mut operator = operator(output, None);
            let done = super::plan::plan(&args, &mut operator, &stop).await;
            closing(done, output.json, &mut operator)
        }
        Command::Install(mut args) => {
            if args.peer.debug {
                args.link.output.verbose = args.link.output.verbose.max(2);
            }
            let output = args.link.output;
            log(output.verbose);
            let mut operator = operator(output, Some(&args));
            if let Some(path) = args.support_bundle.clone() {
                operator.record(path);
            }
            if let Some(path) = args.hardware_report.clone() {
                operator.report_hardware(path);
            }
            if args.system.flake.is_none() && args.system.nix.nothing_is_built() {
                operator.notice(Notice::Remark(
                    "--build-on-remote changes nothing: the system that was given is built",
                ));
            }
            let (link, system) = (&args.link, &args.system);
            let done = install_and_tell(link, system, Some(&args), &mut operator, &stop).await;
            closing(done, output.json, &mut operator)
        }
    }
}

/// For commands whose one document, or whose shell, has all of standard output: what happens is
/// said in words.
fn in_words(output: OutputArgs) -> OutputArgs {
    OutputArgs { json: false, ..output }
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
    match args.output.json {
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
    let on_target = args.fetch.on_target(&args.origin.place)?;
    let origin = args.origin.clone();
    let read = move || origin.find().map_err(|error| InstallError::Preflight(error.into()));
    let found = stoppable(stop, read).await?;
    let options = CopyOptions {
        link: LinkOptions {
            patience: Duration::from_secs(args.patience),
            delta: args.delta,
            connections: args.connections,
            ..link_options(&args.link, operator)?
        },
        manifest: found.manifest,
        source: found.source,
        on_target,
        root: args.root.clone(),
    };
    let copied = crate::copy::copy(&options, operator, stop).await?;
    operator.screen().finish();
    if args.link.output.json {
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

/// What reads may wait for a disk, a server or who writes to a pipe: it does so where it can be
/// left alone.
pub(super) async fn stoppable<T: Send + 'static>(
    stop: &Stop,
    read: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    tokio::select! {
        read = tokio::task::spawn_blocking(read) => match read {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        },
        () = stop.asked(1) => Err(InstallError::Interrupted),
    }
}
