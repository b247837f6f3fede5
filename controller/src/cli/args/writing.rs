//! Which disks, and how they are written.

use clap::{Args, ValueEnum};
use keystone_protocol::options::{InstallOptions, Unlock};

/// Which of the machine's disks.
#[derive(Debug, Clone, Args)]
pub struct DiskNameArgs {
    /// Which disk the layout's disk NAME is: a name in /dev/disk/by-id or a serial number; or
    /// serial:…, wwn:…, model:…, by-id:…, path:…, size:largest, size:smallest, if that is one disk
    #[arg(long = "disk", value_name = "NAME=ID", value_parser = named_disk)]
    pub disks: Vec<(String, String)>,
}

/// How disks are written.
#[derive(Debug, Clone, Args)]
pub struct WritingArgs {
    /// What opens encrypted containers at boot; auto takes the TPM if it can be trusted to
    #[arg(long, value_enum, default_value_t = UnlockArg::Auto)]
    pub unlock: UnlockArg,
    /// Agree that what is on the disks now is destroyed; blank disks don't need it
    #[arg(long)]
    pub erase: bool,
    /// Tell disks that are wiped to forget everything (discard, TRIM), where they can
    #[arg(long)]
    pub discard: bool,
}

impl DiskNameArgs {
    /// The operator's options with these.
    pub fn options(&self) -> InstallOptions {
        InstallOptions { disks: self.disks.iter().cloned().collect(), ..InstallOptions::default() }
    }
}

impl WritingArgs {
    /// The operator's options with these, for the disks that `names` names.
    pub fn options(&self, names: &DiskNameArgs) -> InstallOptions {
        InstallOptions {
            unlock: self.unlock.into(),
            erase: self.erase,
            discard: self.discard,
            ..names.options()
        }
    }
}

/// `--unlock`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnlockArg {
    /// The TPM if it can be trusted to open at the next boot, else a password
    Auto,
    /// The TPM
    Tpm2,
    /// A password typed at boot
    Password,
}

impl From<UnlockArg> for Unlock {
    fn from(arg: UnlockArg) -> Self {
        match arg {
            UnlockArg::Auto => Unlock::Auto,
            UnlockArg::Tpm2 => Unlock::Tpm2,
            UnlockArg::Password => Unlock::Password,
        }
    }
}

fn named_disk(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, id)) if !name.is_empty() && !id.is_empty() => Ok((name.into(), id.into())),
        _ => Err("expected NAME=ID, as root=/dev/disk/by-id/nvme-…".into()),
    }
}
