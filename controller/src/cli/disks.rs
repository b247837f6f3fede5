//! `keystone disko` and `keystone rescue`.

use super::args::LinkArgs;
use super::args::agreement::{AgreementArgs, MadeSecretsArgs};
use super::args::nix::{self, EvaluationArgs};
use super::args::writing::{DiskNameArgs, WritingArgs};
use super::link::link_options;
use super::output::{closing, print};
use super::system::layout_of;
use crate::confirm::{Consent, plan_text};
use crate::disks::{self, DisksRequest, RescueRequest};
use crate::flake::Flake;
use crate::install::InstallError;
use crate::secrets::SecretSource;
use crate::ssh::exec::Exit;
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::command_line::Answers;
use crate::ui::prompt;
use crate::ui::style::Style;
use clap::Args;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::options::InstallOptions;
use std::io;
use std::path::PathBuf;

/// Which disks, and what is known of them.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// The layout of its disks: disko.devices as JSON (- for standard input)
    #[arg(long, value_name = "LAYOUT.json", required_unless_present = "flake")]
    pub layout: Option<PathBuf>,
    /// The layout of a flake's configuration, which nix evaluates
    #[arg(short, long, value_name = "URI#NAME", value_parser = nix::flake,
          conflicts_with = "layout")]
    pub flake: Option<Flake>,
    /// How it is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Which disks.
    #[command(flatten)]
    pub names: DiskNameArgs,
    /// Read a password or recovery key of containers that are there already from a file or pipe
    /// (- for standard input); the TPM is tried first
    #[arg(long, value_name = "FILE")]
    pub unlock_key_file: Option<SecretSource>,
}

impl DiskArgs {
    /// The layout document, JSON.
    async fn layout(
        &self,
        operator: &mut CommandLine,
        stop: &Stop,
    ) -> Result<String, InstallError> {
        let evaluation = self.evaluation.options();
        layout_of(self.layout.as_deref(), self.flake.as_ref(), &evaluation, operator, stop).await
    }
}

/// `keystone disko`
#[derive(Debug, Args)]
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
    /// How they are written.
    #[command(flatten)]
    pub writing: WritingArgs,
    /// What it agrees to.
    #[command(flatten)]
    pub agreement: AgreementArgs,
    /// The secrets of what is made.
    #[command(flatten)]
    pub secrets: MadeSecretsArgs,
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
    Answers {
        interactive,
        consent: args.agreement.consent(interactive),
        end_system: None,
        print_plan: !args.link.output.json,
        password: args.secrets.password_file.clone(),
        pin: None,
        unlock_key: args.disks.unlock_key_file.clone(),
        recovery_key_file: args.secrets.recovery_key_file.clone(),
    }
}

/// What somebody who repairs answers: there is nothing to agree to.
pub(super) fn rescue_answers(args: &RescueArgs) -> Answers {
    Answers {
        interactive: prompt::is_interactive(),
        consent: Consent::Impossible,
        end_system: None,
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
    closing(done, args.link.output.json, operator)
}

async fn run_disko(
    args: &DiskoArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let options =
        InstallOptions { disko_mode: args.mode, ..args.writing.options(&args.disks.names) };
    let request = DisksRequest {
        layout: args.disks.layout(operator, stop).await?,
        link: link_options(&args.link, operator)?,
        options,
        dry_run: args.agreement.dry_run,
    };
    let host = request.link.destination.host.clone();
    let done = disks::disks(request, operator, stop).await?;
    operator.screen().finish();
    if args.link.output.json {
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
        Err(error) => closing(Err(error), args.link.output.json, operator),
    }
}

async fn run_rescue(
    args: &RescueArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<Exit, InstallError> {
    let request = RescueRequest {
        layout: args.disks.layout(operator, stop).await?,
        link: link_options(&args.link, operator)?,
        options: args.disks.names.options(),
        command: args.command.clone(),
    };
    disks::rescue(request, operator, stop).await
}
