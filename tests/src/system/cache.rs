//! A binary cache with a part of the reference system's store, as a disk of its own.

use super::System;
use crate::lab::Lab;
use crate::run::{run, text};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A binary cache: a squashfs, to be mounted and named as `file://`.
#[derive(Debug, Clone)]
pub struct BinaryCache {
    /// The image of the disk.
    pub image: PathBuf,
    /// The key that its signatures are checked with, as `trusted-public-keys` has it.
    pub public_key: String,
}

impl System {
    /// A signed binary cache with the closure of `toplevel`, made by Nix if it is not in the lab's.
    ///
    /// # Errors
    /// Nix or mksquashfs failed.
    pub fn binary_cache(&self, lab: &Lab, toplevel: &str) -> Result<BinaryCache> {
        let recipe = format!("{} {toplevel} 1", self.root.display());
        let dir = lab.artefact("binary-cache", &recipe, |dir| self.fill(toplevel, dir))?;
        let public_key = fs::read_to_string(dir.join("key.pub"))?;
        Ok(BinaryCache { image: dir.join("cache.squashfs"), public_key })
    }

    /// Copies the closure of `toplevel` into the store below `root`, by Nix.
    ///
    /// # Errors
    /// Nix failed.
    pub fn copy_to(&self, root: &Path, toplevel: &str) -> Result<()> {
        let to = format!("local?root={}", root.display());
        run(self.own_nix().args(["copy", "--no-check-sigs", "--to", &to, toplevel])).map(drop)
    }

    fn fill(&self, toplevel: &str, dir: &Path) -> Result<()> {
        let (cache, key) = (dir.join("cache"), dir.join("key"));
        let secret = text(self.own_nix().args(["key", "generate-secret", "--key-name", "lab"]))?;
        fs::write(&key, &secret)?;
        let given = fs::File::open(&key)?;
        let public = self.own_nix().args(["key", "convert-secret-to-public"]).stdin(given).output();
        fs::write(dir.join("key.pub"), String::from_utf8(public?.stdout)?.trim())?;
        // Not compressed, twice: unpacking would be emulated.
        let to =
            format!("file://{}?compression=none&secret-key={}", cache.display(), key.display());
        run(self.own_nix().args(["copy", "--no-check-sigs", "--to", &to, toplevel]))?;
        run(Command::new("mksquashfs").args([&cache, &dir.join("cache.squashfs")]).args([
            "-noI",
            "-noD",
            "-noF",
            "-noX",
            "-no-progress",
            "-quiet",
        ]))
        .context("packing the binary cache: install squashfs-tools")?;
        run(Command::new("rm").arg("-rf").args([&cache, &key]))?;
        Ok(())
    }

    /// This computer's Nix, on this store.
    fn own_nix(&self) -> Command {
        let mut nix = Command::new("nix");
        nix.args(["--extra-experimental-features", "nix-command"])
            .env("NIX_REMOTE", format!("local?root={}", self.root.display()))
            .env("NIX_CONFIG", "build-users-group =\nsubstitute = false\n");
        nix
    }
}

#[cfg(test)]
mod tests {
    use super::super::build;
    use super::*;

    #[test]
    fn a_cache_has_the_closure_and_no_later_generation() {
        let lab = Lab::open().unwrap();
        let system = build(&lab).unwrap();
        let cache = system.binary_cache(&lab, &system.toplevels.reference).unwrap();
        assert!(cache.public_key.starts_with("lab:"), "{}", cache.public_key);
        let files = text(Command::new("unsquashfs").arg("-ls").arg(&cache.image)).unwrap();
        let has = |path: &str| files.contains(&format!("/{}.narinfo", &path[11..43]));
        for path in system.closure(&system.toplevels.reference).unwrap() {
            assert!(has(&path), "{path} is not in it");
        }
        assert!(!has(&system.toplevels.next));
        let name = format!("{}.narinfo", &system.toplevels.reference[11..43]);
        let info =
            text(Command::new("unsquashfs").arg("-cat").arg(&cache.image).arg(name)).unwrap();
        assert!(info.contains("\nSig: lab:"), "{info}");
    }
}
