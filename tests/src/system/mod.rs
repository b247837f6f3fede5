//! The reference system: what the installer installs in every scenario.
//!
//! A real Nix closure, built by real Nix (Debian's `nix-bin`): one store path per
//! Debian package, their references found by Nix's own scan, and system closures
//! on top that keep the contract of NixOS's. Its sources are in `tests/system/`:
//! `default.nix` says what there is, and each script there builds one kind of path.
//!
//! How Debian's programs run from the store: ELF files get their loader and their
//! libraries by store path (`package.sh`), so that `activate` and Nix run with
//! nothing outside `/nix`. Everything that Debian addresses by name below `/usr`
//! is found there once `activate` has linked `/usr` to the merged tree
//! (`system-path.sh`).
//!
//! The store lies under the lab's cache and can be read there with Nix's
//! `local?root=`.

mod builder;
mod cache;
mod packages;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use builder::Builder;
pub use cache::BinaryCache;
use serde::{Deserialize, Serialize};

use crate::{debian, installer, lab::Lab, native};

/// The reference system and its variants, in one store.
#[derive(Debug, Clone)]
pub struct System {
    /// The directory under which the store lies, for `--store`: the store itself is
    /// `<root>/nix/store`, its database `<root>/nix/var/nix/db/db.sqlite`.
    pub root: PathBuf,
    /// The system closures, as `/nix/store/…` paths.
    pub toplevels: Toplevels,
    /// The directory with `default.nix`, which they are evaluated from.
    pub expressions: PathBuf,
    /// The file that is given to it.
    pub inputs: PathBuf,
    builder: Builder,
}

/// The system closures, as `/nix/store/…` paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toplevels {
    /// Boots from the layout `single-disk-root.json`.
    pub reference: String,
    /// Boots from the layout `os-zfs-single.json`.
    pub os_zfs_single: String,
    /// Boots from the layout `os-zfs-mirror.json`, made with `--mirror-esp`.
    pub os_zfs_mirror: String,
    /// A later generation of `os_zfs_mirror`.
    pub os_zfs_mirror_next: String,
    /// Boots from the layout `os-ext4-single.json`.
    pub os_ext4_single: String,
    /// A later generation of `reference`.
    pub next: String,
    /// `activate` does all its work and then exits with 1.
    pub activate_fails: String,
    /// `system` and `boot.json` say aarch64-linux.
    pub other_architecture: String,
    /// `etc/fstab` names another partition for `/boot`.
    pub other_device: String,
    /// Without `etc/hostid`.
    pub no_hostid: String,
    /// Without `bin/switch-to-configuration`.
    pub no_switch: String,
    /// `boot.json` names an initrd outside the closure.
    pub outside_closure: String,
    /// A store path that is no NixOS system.
    pub not_nixos: String,
}

/// Builds the reference system and its variants if they are not in the cache
/// (under two minutes once the packages are there).
///
/// # Errors
/// The packages could not be had, or Nix failed; the end of its log is in the error.
pub fn build(lab: &Lab) -> Result<System> {
    let expressions = native::workspace_root().join("tests/system");
    let kernel = debian::kernel(lab)?;
    let builder = Builder::new(lab, &kernel, &expressions)?;
    let key_file = installer::key(lab)?.with_extension("pub");
    let key =
        fs::read_to_string(&key_file).with_context(|| format!("reading {}", key_file.display()))?;
    let mirror_esp = native::workspace_root().join("nix/mirror-esp.sh");
    let mirror_esp = fs::read_to_string(&mirror_esp)
        .with_context(|| format!("reading {}", mirror_esp.display()))?;
    let inputs = serde_json::to_string_pretty(&serde_json::json!({
        "packages": builder.packages()?,
        "kernel": { "root": builder::KERNEL, "version": kernel.version, "id": builder.kernel_id() },
        "authorizedKeys": key.trim(),
        "mirrorEsp": mirror_esp,
    }))?;
    let recipe = format!("{inputs} {}", builder::hash_tree(&expressions)?);
    let artefact = lab.artefact("system", &recipe, |dir| {
        let root = dir.join("root");
        fs::create_dir_all(root.join("nix"))?;
        fs::write(dir.join("inputs.json"), &inputs)?;
        let toplevels = builder.build(&root, &dir.join("inputs.json"))?;
        fs::write(dir.join("toplevels.json"), toplevels)?;
        Ok(())
    })?;
    let toplevels = fs::read_to_string(artefact.join("toplevels.json"))?;
    let toplevels = serde_json::from_str(&toplevels)
        .context("reading what the reference system's variants are")?;
    let (root, inputs) = (artefact.join("root"), artefact.join("inputs.json"));
    Ok(System { root, toplevels, expressions, inputs, builder })
}

impl System {
    /// The `/nix/store/…` paths of the closure of `toplevel`, dependencies first, as Nix has it.
    ///
    /// # Errors
    /// Nix failed.
    pub fn closure(&self, toplevel: &str) -> Result<Vec<String>> {
        let text = self.nix(&["nix-store", "--query", "--requisites", toplevel])?;
        let paths: Vec<String> = text.lines().map(str::to_owned).collect();
        ensure!(
            paths.last().is_some_and(|p| p == toplevel),
            "the closure of {toplevel} does not end with it"
        );
        Ok(paths)
    }

    /// The registration of `paths`, as `nix-store --dump-db` prints it.
    ///
    /// # Errors
    /// Nix failed.
    pub fn registration(&self, paths: &[String]) -> Result<String> {
        let mut command = vec!["nix-store", "--dump-db"];
        command.extend(paths.iter().map(String::as_str));
        self.nix(&command)
    }

    /// Runs one of Nix's programs on this store and returns what it printed.
    ///
    /// # Errors
    /// It ended with an error.
    pub fn nix(&self, command: &[&str]) -> Result<String> {
        self.builder.text(&self.root, None, command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_of_real_nix() {
        let system = build(&Lab::open().unwrap()).unwrap();
        let paths = system.closure(&system.toplevels.reference).unwrap();
        let packages =
            paths.iter().filter(|p| system.root.join(&p[1..]).join("usr").is_dir()).count();
        assert!(packages >= 150, "{packages} packages");
        // References come from the scan: a program's loader is one of them.
        let bash = paths.iter().find(|p| p.contains("-bash-5")).unwrap();
        let references = system.nix(&["nix-store", "--query", "--references", bash]).unwrap();
        assert!(references.contains("-libc6-"), "{references}");
        // A file of the tree that is altered is noticed, so the database is worth something.
        system.nix(&["nix-store", "--verify-path", bash]).unwrap();
    }
}
