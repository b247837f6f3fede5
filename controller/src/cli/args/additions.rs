//! What the operator adds to the system.

use super::PAIR;
use crate::additions::owner;
use crate::secrets::SecretSource;
use clap::Args;
use keystone_protocol::options::Chown;
use std::path::PathBuf;

/// Files, owners and keys besides the closure. All of it is in the plan; keys with their public
/// halves only.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files and keys")]
pub struct AdditionArgs {
    /// Put the contents of this directory into the system, owned by root; modes, links and
    /// extended attributes are kept
    #[arg(long, value_name = "DIR")]
    pub extra_files: Option<PathBuf>,
    /// Give a path of the system, and all below it, to USER:GROUP, numbers or the system's own
    /// names; may be repeated
    #[arg(long, num_args = 2, value_names = ["PATH", "OWNER"], action = PAIR)]
    pub chown: Vec<String>,
    /// For a container whose key file the layout names: take the file (or pipe) LOCAL for it; may
    /// be repeated
    #[arg(long, num_args = 2, value_names = ["REMOTE", "LOCAL"], action = PAIR)]
    pub disk_encryption_keys: Vec<String>,
    /// Give the system the installer's SSH host keys
    #[arg(long, conflicts_with = "host_key_files")]
    pub copy_host_keys: bool,
    /// Give the system this SSH host key, a private key in OpenSSH's format; may be repeated. Else
    /// one is made, and reported
    #[arg(long = "host-key-file", value_name = "FILE")]
    pub host_key_files: Vec<PathBuf>,
}

impl AdditionArgs {
    /// The first of these options that was given.
    pub fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--extra-files", self.extra_files.is_some()),
            ("--chown", !self.chown.is_empty()),
            ("--disk-encryption-keys", !self.disk_encryption_keys.is_empty()),
            ("--copy-host-keys", self.copy_host_keys),
            ("--host-key-file", !self.host_key_files.is_empty()),
        ];
        given.iter().find(|(_, given)| *given).map(|(option, _)| *option)
    }

    /// The owners, in order.
    ///
    /// # Errors
    /// A sentence.
    pub fn owners(&self) -> Result<Vec<Chown>, String> {
        self.chown.chunks_exact(2).map(|pair| owner::chown(&pair[0], &pair[1])).collect()
    }

    /// Key files by the layout's path.
    pub fn disk_keys(&self) -> Vec<(String, SecretSource)> {
        let keys = self.disk_encryption_keys.chunks_exact(2);
        keys.map(|pair| {
            let Ok(source) = pair[1].parse();
            (pair[0].clone(), source)
        })
        .collect()
    }
}
