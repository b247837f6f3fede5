//! `keystone layout`.

use super::args::link::OutputArgs;
use super::args::nix::{self, EvaluationArgs};
use super::output::print;
use crate::flake::{self, Flake};
use crate::install::{InstallError, PreflightError};
use crate::stop::Stop;
use crate::ui::CommandLine;
use clap::Args;
use keystone_protocol::layout::Layout;
use serde_json::Value;

/// `keystone layout`
#[derive(Debug, Args)]
pub struct LayoutArgs {
    /// The configuration
    #[arg(short, long, value_name = "URI#NAME", value_parser = nix::flake)]
    pub flake: Flake,
    /// How it is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Evaluates the layout and prints it. One that can't be used is printed too, to be looked at,
/// and is a failure.
pub(super) async fn layout(
    args: &LayoutArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let text = flake::layout(&args.flake, &args.evaluation.options(), operator, stop).await?;
    operator.screen().finish();
    // Nix prints it in one line.
    let document = serde_json::from_str::<Value>(&text).ok();
    let document = document.and_then(|document| serde_json::to_string_pretty(&document).ok());
    print(&format!("{}\n", document.as_deref().unwrap_or(text.trim_end())));
    Layout::parse(&text).map_err(PreflightError::from)?;
    Ok(())
}
