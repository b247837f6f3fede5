//! What to install, and how.

use super::additions::AdditionArgs;
use super::nix::{self, NixArgs};
use super::writing::{DiskNameArgs, WritingArgs};
use crate::cli::origin::OriginArgs;
use crate::flake::Flake;
use crate::secrets::SecretSource;
use clap::Args;
use keystone_protocol::disko_mode::DiskoMode;
use std::path::PathBuf;

/// What to install, and how.
#[derive(Debug, Args)]
pub struct SystemArgs {
    /// Where it comes from.
    #[command(flatten)]
    pub origin: OriginArgs,
    /// The system: a configuration of a flake, which nix builds
    #[arg(short, long, value_name = "URI#NAME", value_parser = nix::flake,
          conflicts_with_all = ["store_path", "store_paths", "from"])]
    pub flake: Option<Flake>,
    /// The system, the second of the two; the first, disko's script, is not run: give --layout
    #[arg(short = 's', long, num_args = 2, value_names = ["SCRIPT", "TOPLEVEL"],
          conflicts_with = "store_path")]
    pub store_paths: Vec<PathBuf>,
    /// The layout of its disks: disko.devices as JSON (- for standard input); a flake has its own
    #[arg(long, value_name = "LAYOUT.json", required_unless_present_any = ["flake", "store_paths"])]
    pub layout: Option<PathBuf>,
    /// Which disks.
    #[command(flatten)]
    pub names: DiskNameArgs,
    /// How they are written.
    #[command(flatten)]
    pub writing: WritingArgs,
    /// PCRs to bind the TPM to: 7, 0+7, or none
    #[arg(long, value_name = "PCRS", value_parser = pcrs)]
    pub tpm2_pcrs: Option<Pcrs>,
    /// Ask for a PIN besides the TPM
    #[arg(long)]
    pub tpm2_pin: bool,
    /// Read that PIN from a file or pipe (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub tpm2_pin_file: Option<SecretSource>,
    /// Put an ESP of the same size first on every other member of the root pool's mirror, and copy
    /// the first one to it; a deviation from disko
    #[arg(long)]
    pub mirror_esp: bool,
    /// What to do with the disks first: disko (destroy, format, mount), mount (install into what
    /// is there), or format,mount (make what is missing)
    #[arg(long, value_name = "MODE", default_value_t = DiskoMode::Disko)]
    pub disko_mode: DiskoMode,
    /// How it is built.
    #[command(flatten)]
    pub nix: NixArgs,
    /// What is added to it.
    #[command(flatten)]
    pub additions: AdditionArgs,
}

impl SystemArgs {
    /// Whether a system is named, and not only its layout.
    pub fn names_a_system(&self) -> bool {
        self.flake.is_some()
            || !self.store_paths.is_empty()
            || self.origin.store_path.is_some()
            || self.origin.place.from.is_some()
    }
}

/// `--tpm2-pcrs`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcrs(pub Vec<u8>);

fn pcrs(text: &str) -> Result<Pcrs, String> {
    if text == "none" || text.is_empty() {
        return Ok(Pcrs(Vec::new()));
    }
    let mut list = Vec::new();
    for part in text.split(['+', ',']) {
        match part.trim().parse::<u8>() {
            Ok(pcr) if pcr < 24 => list.push(pcr),
            _ => return Err(format!("'{part}' is not a PCR: 0 to 23, joined by +, or none")),
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(Pcrs(list))
}
