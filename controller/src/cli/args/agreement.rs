//! What the operator agrees to, and the secrets of what is made.

use crate::confirm::Consent;
use crate::secrets::SecretSource;
use clap::{ArgGroup, Args};
use std::path::PathBuf;

/// What the operator agrees to.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what-is-agreed-to").args(["plan_hash", "disk_ids"]).multiple(true))]
pub struct AgreementArgs {
    /// Agree without being asked, together with --plan-hash or --disk-id, and with --end-system where
    /// --kexec ends what runs
    #[arg(long, requires = "what-is-agreed-to")]
    pub yes: bool,
    /// Agree to the plan with this hash, as keystone plan or --dry-run prints it
    #[arg(long, value_name = "HASH", requires = "yes", conflicts_with = "disk_ids")]
    pub plan_hash: Option<String>,
    /// Agree to writing this disk, by its stable name; all disks of the plan have to be named
    #[arg(long = "disk-id", value_name = "ID", requires = "yes")]
    pub disk_ids: Vec<String>,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

impl AgreementArgs {
    /// What counts as agreement.
    pub fn consent(&self, interactive: bool) -> Consent {
        match &self.plan_hash {
            Some(hash) if self.yes => Consent::PlanHash(hash.clone()),
            None if self.yes => Consent::Disks(self.disk_ids.clone()),
            _ if interactive => Consent::Typed,
            _ => Consent::Impossible,
        }
    }
}

/// The secrets of containers that are made.
#[derive(Debug, Clone, Args)]
pub struct MadeSecretsArgs {
    /// Read the boot password of what is made from a file or pipe (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<SecretSource>,
    /// Write recovery keys to this new file, instead of showing them
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Option<PathBuf>,
}
