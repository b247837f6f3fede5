//! The `keystone` command: what it refuses, how it says so, and with which exit code.

#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod agents;
mod given;
mod refused;
mod ssh;
mod usage;

use common::nix::{self, NixStore, logical};
use common::sshd::{Sshd, with_people};
use common::tool;
use keystone_controller::ssh::host_key::fingerprint;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LAYOUT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/layouts/keystone/single-disk-root.json");

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `keystone` without a terminal and without the machine's own keys.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keystone"));
    command
        .args(args)
        .env("HOME", "/nonexistent")
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("SSH_PRIVATE_KEY")
        .env_remove("KEYSTONE_AGENT")
        .stdin(Stdio::null());
    command
}

fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// Runs `keystone`, with a home of its own.
fn keystone(args: &[&str]) -> Said {
    let home = tempfile::tempdir().unwrap();
    said(command(args).env("HOME", home.path()))
}

#[track_caller]
fn assert_refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{}{}", said.out, said.err);
    for word in words {
        assert!(said.err.contains(word), "'{word}' is not in: {}", said.err);
    }
}

/// `fstab` as Keystone's layout wants it.
const FSTAB: &str = "rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0\n\
     rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0\n\
     rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0\n\
     /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2\n";

fn store() -> NixStore {
    let store = NixStore::with_system();
    std::fs::write(store.physical(nix::ETC).join("etc/fstab"), FSTAB).unwrap();
    store
}

/// A machine that must not be contacted: nobody listens there.
const NOWHERE: &str = "root@127.0.0.1:1";

fn install(store: &NixStore, destination: &str, more: &[&str]) -> Said {
    let root = store.root().display().to_string();
    let system = logical(nix::SYSTEM);
    let mut args = vec!["install", destination, "--store", &root, "--store-path", &system];
    if !more.contains(&"--layout") {
        args.extend(["--layout", LAYOUT]);
    }
    args.extend(more);
    keystone(&args)
}
