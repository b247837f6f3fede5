//! A store below a temporary root, registered by real Nix, with a path of a system's shape.

use super::{run, tool};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

pub struct NixStore {
    pub dir: TempDir,
}

/// Store names: made-up hashes, as nobody looks at them here.
pub const SYSTEM: &str = "11111111111111111111111111111111-nixos-system-nas-25.11";
pub const ETC: &str = "22222222222222222222222222222222-etc";
pub const KERNEL: &str = "33333333333333333333333333333333-linux-6.12.48";
pub const INITRD: &str = "44444444444444444444444444444444-initrd-linux-6.12.48";
pub const ZFS: &str = "55555555555555555555555555555555-zfs-kernel-2.3.4-6.12.48";
pub const OTHER: &str = "66666666666666666666666666666666-not-in-the-closure";

pub fn logical(name: &str) -> String {
    format!("/nix/store/{name}")
}

impl NixStore {
    /// An empty store.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("nix/store")).unwrap();
        let store = NixStore { dir };
        store.query(&["--query", "--requisites"]);
        store
    }

    /// With a system that can be installed.
    pub fn with_system() -> Self {
        let store = Self::new();
        store.write_system();
        store.register_system();
        store
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn physical(&self, name: &str) -> PathBuf {
        self.root().join("nix/store").join(name)
    }

    /// Writes the system's files, unregistered.
    pub fn write_system(&self) {
        let write = |path: PathBuf, text: &[u8]| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(self.physical(KERNEL).join("bzImage"), &vec![7; 3_000_001]);
        write(self.physical(INITRD).join("initrd"), &vec![9; 50_000]);
        write(self.physical(ZFS).join("lib/modules/6.12.48/extra/zfs.ko.xz"), b"not looked into");
        write(self.physical(OTHER).join("file"), b"");
        let etc = self.physical(ETC).join("etc");
        write(etc.join("hostid"), &0x1234_5678_u32.to_le_bytes());
        write(etc.join("hostname"), b"nas\n");
        write(
            etc.join("fstab"),
            b"rpool/crypt/system / zfs x-initrd.mount 0 0\n\
              /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2\n",
        );
        let top = self.physical(SYSTEM);
        write(top.join("init"), b"#!/bin/sh\n");
        write(top.join("activate"), b"#!/bin/sh\n");
        write(top.join("bin/switch-to-configuration"), b"#!/bin/sh\n");
        for program in ["init", "activate", "bin/switch-to-configuration"] {
            let mode = std::fs::Permissions::from_mode(0o555);
            std::fs::set_permissions(top.join(program), mode).unwrap();
        }
        write(top.join("system"), b"x86_64-linux");
        write(top.join("nixos-version"), b"25.11");
        write(top.join("sw/empty"), b"");
        symlink(logical(ETC) + "/etc", top.join("etc")).unwrap();
        symlink(logical(KERNEL) + "/bzImage", top.join("kernel")).unwrap();
        symlink(logical(INITRD) + "/initrd", top.join("initrd")).unwrap();
        symlink(logical(ZFS) + "/", top.join("kernel-modules")).unwrap();
        write(top.join("boot.json"), boot_json(&(logical(KERNEL) + "/bzImage")).as_bytes());
    }

    /// Registers the system and what it refers to, with hashes and sizes by Nix.
    pub fn register_system(&self) {
        let parts = [ETC, KERNEL, INITRD, ZFS];
        let mut text = String::new();
        for name in parts.iter().chain(&[OTHER]) {
            text.push_str(&self.registration(name, "", &[]));
        }
        // With a reference to itself, as systems have.
        let mut references: Vec<String> = parts.iter().map(|name| logical(name)).collect();
        references.push(logical(SYSTEM));
        let deriver = logical("77777777777777777777777777777777-nixos-system-nas.drv");
        text.push_str(&self.registration(SYSTEM, &deriver, &references));
        self.feed(&["--load-db"], &text);
    }

    /// Registers a path of the system again, after it was changed.
    pub fn register_again(&self, name: &str, references: &[&str]) {
        let references: Vec<String> = references.iter().map(|&r| r.to_owned()).collect();
        self.feed(&["--load-db"], &self.registration(name, "", &references));
    }

    /// A path in the format of `--load-db`.
    fn registration(&self, name: &str, deriver: &str, references: &[String]) -> String {
        let hash = run(Command::new(tool("nix-hash", "nix-bin"))
            .args(["--type", "sha256"])
            .arg(self.physical(name)));
        let dump = Command::new(tool("nix-store", "nix-bin"))
            .arg("--dump")
            .arg(self.physical(name))
            .output()
            .unwrap();
        let mut lines = vec![
            logical(name),
            hash.trim().to_owned(),
            dump.stdout.len().to_string(),
            deriver.to_owned(),
            references.len().to_string(),
        ];
        lines.extend(references.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// `nix-store --store local?root=… ARGS`.
    pub fn query(&self, args: &[&str]) -> String {
        run(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tool("nix-store", "nix-bin"));
        command.arg("--store").arg(format!("local?root={}", self.root().display()));
        // No user or group of the machine, no daemon.
        command.env("NIX_REMOTE", "").env("NIX_CONFIG", "build-users-group =");
        command
    }

    /// `nix ARGS` with the commands that are called experimental.
    pub fn nix(&self, args: &[&str]) -> String {
        run(self.nix_command().args(args))
    }

    /// The same, to be run.
    pub fn nix_command(&self) -> Command {
        let mut command = Command::new(tool("nix", "nix-bin"));
        command
            .args(["--extra-experimental-features", "nix-command", "--offline"])
            .env("NIX_REMOTE", format!("local?root={}", self.root().display()))
            .env("NIX_CONFIG", "build-users-group =")
            // What it keeps of caches that it has seen would outlive them.
            .env("XDG_CACHE_HOME", self.root().join("cache"));
        command
    }

    /// Copies a path and what it refers to into a new binary cache in a directory.
    pub fn copy_to_cache(&self, path: &str, directory: &Path, compression: &str) {
        let to = format!("file://{}?compression={compression}", directory.display());
        self.nix(&["copy", "--no-check-sigs", "--to", &to, path]);
    }

    fn feed(&self, args: &[&str], text: &str) {
        use std::io::Write;
        let mut child = self.command().args(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nix-store {args:?}");
    }
}

pub fn boot_json(kernel: &str) -> String {
    let top = logical(SYSTEM);
    format!(
        r#"{{"org.nixos.bootspec.v1":{{"system":"x86_64-linux","init":"{top}/init","kernel":"{kernel}",
        "kernelParams":["loglevel=4"],"label":"NixOS 25.11 (Linux 6.12.48)","toplevel":"{top}",
        "initrd":"{}/initrd"}},"org.nixos.specialisation.v1":{{}}}}"#,
        logical(INITRD)
    )
}
