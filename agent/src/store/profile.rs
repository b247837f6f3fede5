//! The system profile, and the file that says that a root file system is NixOS's.
//!
//! `/nix/var/nix/profiles/system` → `system-1-link` → the system's store path. Source: Nix's
//! manual, "Profiles", and nixpkgs `nixos-install.sh`.

use super::Store;
use super::fs::{FsError, Io};
use crate::ensure::Ensured;
use keystone_protocol::store_path::base_name;
use thiserror::Error;

/// What setting the profile did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileSet {
    /// Whether something was changed.
    pub ensured: Ensured,
    /// The number of the generation that is the system now.
    pub generation: u32,
}

/// Why the profile was not set.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The system is no store path, or not in the store.
    #[error("{0} is not a path in the target's store")]
    NotInStore(String),
    /// A link could not be made.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Store {
    /// Makes `toplevel` the system: the generation that has it already, else the next one.
    pub fn set_profile(&self, toplevel: &str) -> Result<ProfileSet, ProfileError> {
        let not_in_store = || ProfileError::NotInStore(toplevel.to_owned());
        let base = base_name(toplevel).ok_or_else(not_in_store)?;
        self.store.stat(base)?.ok_or_else(not_in_store)?;
        let mut changed = false;
        let mut generations = Vec::new();
        for name in self.profiles.names()? {
            let name = name.to_string_lossy();
            if let Some(number) = generation(&name) {
                generations.push((number, self.profiles.read_symlink(&name)?));
            }
        }
        let has_it = generations
            .iter()
            .filter(|(_, target)| target.as_deref() == Some(toplevel))
            .map(|(number, _)| *number)
            .max();
        let number = match has_it {
            Some(number) => number,
            None => generations.iter().map(|(number, _)| *number).max().unwrap_or(0) + 1,
        };
        let link = format!("system-{number}-link");
        changed |= self.profiles.ensure_symlink(&link, toplevel)?;
        changed |= self.profiles.ensure_symlink("system", &link)?;
        let (etc, made) = self.root.ensure("etc", 0o755)?;
        changed |= made;
        changed |= etc.ensure_empty_file("NIXOS", 0o644)?;
        nix::unistd::syncfs(&self.profiles.fd).at("sync", &self.profiles.path)?;
        nix::unistd::syncfs(&etc.fd).at("sync", &etc.path)?;
        let ensured = if changed { Ensured::Created } else { Ensured::AlreadySo };
        Ok(ProfileSet { ensured, generation: number })
    }
}

/// The number in `system-<number>-link`.
fn generation(name: &str) -> Option<u32> {
    name.strip_prefix("system-")?.strip_suffix("-link")?.parse().ok()
}
