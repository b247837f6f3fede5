//! Where the system comes from, and how Nix is to build it.

use super::PAIR;
use crate::flake::{Flake, NixOptions};
use clap::{Args, ValueEnum};

/// How Nix evaluates a flake.
#[derive(Debug, Clone, Args)]
pub struct EvaluationArgs {
    /// Give nix this option; may be repeated
    #[arg(long = "option", num_args = 2, value_names = ["NAME", "VALUE"], action = PAIR)]
    pub nix_options: Vec<String>,
    /// Show where an evaluation failed
    #[arg(long)]
    pub show_trace: bool,
}

/// How Nix builds what `--flake` names. Without `--flake` nothing is built.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Building (--flake)")]
pub struct NixArgs {
    /// How it is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Show what builders print
    #[arg(short = 'L', long)]
    pub print_build_logs: bool,
    /// Where it is built
    #[arg(long, value_enum, default_value_t = BuildOn::Auto, value_name = "WHERE")]
    pub build_on: BuildOn,
    /// The same as --build-on remote
    #[arg(long, hide = true, conflicts_with = "build_on")]
    pub build_on_remote: bool,
}

/// `--build-on`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuildOn {
    /// Where keystone runs
    Auto,
    /// Where keystone runs
    Local,
    /// On the machine, in its store and by its own Nix; then it comes here to be checked and sent
    Remote,
}

impl NixArgs {
    /// Whether it is built on the machine.
    pub fn is_remote(&self) -> bool {
        self.place() == BuildOn::Remote
    }

    /// Where it is built.
    fn place(&self) -> BuildOn {
        if self.build_on_remote { BuildOn::Remote } else { self.build_on }
    }

    /// Of nixos-anywhere's older word nothing is left where nothing is built; whether it was given.
    pub fn nothing_is_built(&mut self) -> bool {
        std::mem::take(&mut self.build_on_remote)
    }

    /// For calling nix; `debug` shows everything.
    pub fn options(&self, debug: bool) -> NixOptions {
        NixOptions {
            logs: self.print_build_logs || debug,
            show_trace: self.evaluation.show_trace || debug,
            ..self.evaluation.options()
        }
    }
}

impl EvaluationArgs {
    /// For calling nix.
    pub fn options(&self) -> NixOptions {
        let pair = |pair: &[String]| (pair[0].clone(), pair[1].clone());
        NixOptions {
            options: self.nix_options.chunks_exact(2).map(pair).collect(),
            show_trace: self.show_trace,
            ..NixOptions::default()
        }
    }
}

/// `--flake`, for a value parser with a helpful message.
pub(in crate::cli) fn flake(text: &str) -> Result<Flake, String> {
    text.parse().map_err(|error: crate::flake::reference::FlakeError| error.to_string())
}
