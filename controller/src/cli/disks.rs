//! `keystone disko` and `keystone rescue`.

use super::args::{LinkArgs, UnlockArg, named_disk};
use super::run::{closing, link_options, print, read_layout};
use crate::confirm::{Consent, plan_text};
use crate::disks::{self, DisksRequest, RescueRequest};
use crate::install::InstallError;
use crate::secrets::SecretSource;
use crate::ssh::exec::Exit;
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::command_line::Answers;
use crate::ui::prompt;
use crate::ui::style::Style;
use clap::{ArgGroup, Args};
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::options::InstallOptions;
use std::io;
use std::path::PathBuf;

/// Which disks, and what is known of them.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// The layout of its disks: disko.devices as JSON (- for standard input)
    #[arg(long, value_name = "LAYOUT.json")]
    pub layout: PathBuf,
    /// Which disk the layout's disk NAME is: a name in /dev/disk/by-id or a serial number; or
    /// serial:…, wwn:…, model:…, by-id:…, path:…, size:largest, size:smallest, if that is one disk
    #[arg(long = "disk", value_name = "NAME=ID", value_parser = named_disk)]
    pub disks: Vec<(String, String)>,
    /// Read a password or recovery key of containers that are there already from a file or pipe
    /// (- for standard input); the TPM is tried first
    #[arg(long, value_name = "FILE")]
    pub unlock_key_file: Option<SecretSource>,
}

/// `keystone disko`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what-is-agreed-to").args(["plan_hash", "disk_ids"]))]
pub struct DiskoArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// What to do with the disks: disko (destroy, format, mount), format, mount, format,mount,
    /// destroy, unmount
    #[arg(long = "disko-mode", alias = "mode", value_name = "MODE")]
    pub mode: DiskoMode,
    /// The disks.
    #[command(flatten)]
    pub disks: DiskArgs,
    /// Agree that what is on the disks now is destroyed (disko); blank disks don't need it
    #[arg(long)]
    pub erase: bool,
    /// Tell disks that are wiped to forget everything (discard, TRIM), where they can
    #[arg(long)]
    pub discard: bool,
    /// What opens encrypted containers that are made; auto takes the TPM if it can be trusted to
    #[arg(long, value_enum, default_value_t = UnlockArg::Auto)]
    pub unlock: UnlockArg,
    /// Read the boot password of containers that are made from a file or pipe (- for standard
    /// input)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<SecretSource>,
    /// Write recovery keys to this new file, instead of showing them
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Option<PathBuf>,
    /// Agree without being asked, together with --plan-hash or --disk-id
    #[arg(long, requires = "what-is-agreed-to")]
    pub yes: bool,
    /// Agree to the plan with this hash, as --dry-run prints it
    #[arg(long, value_name = "HASH", requires = "yes")]
    pub plan_hash: Option<String>,
    /// Agree to writing this disk, by its stable name; all disks of the plan have to be named
    #[arg(long = "disk-id", value_name = "ID", requires = "yes")]
    pub disk_ids: Vec<String>,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `keystone rescue`
#[derive(Debug, Args)]
pub struct RescueArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// The disks.
    #[command(flatten)]
    pub disks: DiskArgs,
    /// Run this in the system instead of a login shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What the disks' owner answers.
pub(super) fn disko_answers(args: &DiskoArgs) -> Answers {
    let interactive = prompt::is_interactive();
    let consent = match &args.plan_hash {
        Some(hash) if args.yes => Consent::PlanHash(hash.clone()),
        None if args.yes => Consent::Disks(args.disk_ids.clone()),
        _ if interactive => Consent::Typed,
        _ => Consent::Impossible,
    };
    Answers {
        interactive,
        consent,
        print_plan: !args.link.json,
        password: args.password_file.clone(),
        pin: None,
        unlock_key: args.disks.unlock_key_file.clone(),
        recovery_key_file: args.recovery_key_file.clone(),
    }
}

/// What somebody who repairs answers: there is nothing to agree to.
pub(super) fn rescue_answers(args: &RescueArgs) -> Answers {
    Answers {
        interactive: prompt::is_interactive(),
        consent: Consent::Impossible,
        print_plan: false,
        password: None,
        pin: None,
        unlock_key: args.disks.unlock_key_file.clone(),
        recovery_key_file: None,
    }
}

/// `keystone disko`
pub(super) async fn disko(args: &DiskoArgs, operator: &mut CommandLine, stop: &Stop) -> u8 {
    let done = run_disko(args, operator, stop).await;
    closing(done, &args.link, operator)
}

async fn run_disko(
    args: &DiskoArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let options = InstallOptions {
        unlock: args.unlock.into(),
        erase: args.erase,
        discard: args.discard,
        disko_mode: args.mode,
        disks: args.disks.disks.iter().cloned().collect(),
        ..InstallOptions::default()
    };
    let request = DisksRequest {
        layout: read_layout(&args.disks.layout)?,
        link: link_options(&args.link, operator)?,
        options,
        dry_run: args.dry_run,
    };
    let host = request.link.destination.host.clone();
    let done = disks::disks(request, operator, stop).await?;
    operator.screen().finish();
    if args.link.json {
        return Ok(());
    }
    match &done.report {
        None => {
            let style = Style::of(&io::stdout());
            print(&plan_text(&host, &done.inventory, &done.plan, style));
        }
        Some(report) => {
            use keystone_protocol::event::Outcome;
            let changed = report.steps.iter().filter(|step| step.outcome == Outcome::Created);
            let (changed, all) = (changed.count(), report.steps.len());
            eprintln!("{}: done, {changed} of {all} steps changed something", args.mode);
            for kept in operator.kept() {
                eprintln!("  recovery key of {kept}");
            }
        }
    }
    Ok(())
}

/// `keystone rescue`; ends as the command or shell did.
pub(super) async fn rescue(args: &RescueArgs, operator: &mut CommandLine, stop: &Stop) -> u8 {
    match run_rescue(args, operator, stop).await {
        Ok(Exit::Status(status)) => {
            operator.screen().finish();
            u8::try_from(status).unwrap_or(1)
        }
        Ok(exit) => {
            operator.screen().finish();
            eprintln!("the shell ended by {exit}; everything is closed again");
            1
        }
        Err(error) => closing(Err(error), &args.link, operator),
    }
}

async fn run_rescue(
    args: &RescueArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<Exit, InstallError> {
    let disks = args.disks.disks.iter().cloned().collect();
    let request = RescueRequest {
        layout: read_layout(&args.disks.layout)?,
        link: link_options(&args.link, operator)?,
        options: InstallOptions { disks, ..InstallOptions::default() },
        command: args.command.clone(),
    };
    disks::rescue(request, operator, stop).await
}
