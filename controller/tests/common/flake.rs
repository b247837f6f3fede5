//! A flake of our own that exposes what a NixOS flake does, without nixpkgs; and where it is built:
//! a store that is `/nix` of a mount namespace of its own.

use super::tool;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

pub const LAYOUT: &str = include_str!("../../../tests/layouts/keystone/single-disk-root.json");

/// A configuration whose system has the shape of a NixOS system.
const FLAKE: &str = include_str!("flake.nix");

pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        tool("nix", "nix-bin");
        tool("unshare", "util-linux");
        let dir = tempfile::tempdir_in("/var/cache").unwrap();
        for name in ["flake", "nix", "home", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("flake/flake.nix"), FLAKE).unwrap();
        std::fs::write(dir.path().join("flake/layout.json"), LAYOUT).unwrap();
        Place { dir }
    }

    /// `keystone install --flake FLAKE#NAME` to a machine that nobody listens at.
    pub fn install(&self, name: &str, more: &[&str]) -> (i32, String, String) {
        let machine = ["--target-host", "root@127.0.0.1:1", "--agent", "/bin/cat", "--json"];
        self.keystone("install", name, &[&machine, more].concat())
    }

    /// `keystone COMMAND --flake FLAKE#NAME`.
    pub fn keystone(&self, command: &str, name: &str, more: &[&str]) -> (i32, String, String) {
        said(self.command(command, name, more).output().unwrap())
    }

    /// The same, to be run: its process is keystone's.
    pub fn command(&self, command: &str, name: &str, more: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let script = r#"mkdir -p /nix && mount --bind "$1" /nix && shift && exec "$@""#;
        let mut run = Command::new("unshare");
        run.args(["--mount", "sh", "-c", script, "sh", &at("nix")])
            .arg(option_env!("CARGO_BIN_EXE_keystone").expect("a test of the controller"))
            .args([command, "--flake", &format!("{}#{name}", at("flake"))])
            .args(more)
            .env("HOME", at("home"))
            .env("TMPDIR", at("tmp"))
            .env("NIX_REMOTE", "")
            .env("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstitute = false")
            .current_dir(self.dir.path());
        run
    }

    /// Whether its own store has a path whose name ends so.
    pub fn built(&self, suffix: &str) -> bool {
        has(&self.dir.path().join("nix"), suffix)
    }
}

/// Whether the store that is mounted at `/nix` somewhere has a path whose name ends so.
pub fn has(nix: &Path, suffix: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(nix.join("store")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
}

/// How a program ended, and what it said on both outputs.
pub fn said(Output { status, stdout, stderr }: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}
