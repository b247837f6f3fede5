//! A root with busybox in it, and a system of shell scripts.

use keystone_agent::activation::System;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TOPLEVEL: &str = "/nix/store/00000000000000000000000000000000-nixos-system-test";

pub(crate) struct Target {
    dir: tempfile::TempDir,
}

impl Target {
    pub(crate) fn new() -> Target {
        assert!(nix::unistd::geteuid().is_root(), "namespaces and chroot need root");
        let target = Target { dir: tempfile::tempdir().unwrap() };
        let bin = target.path("sw/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(target.root().join("bin")).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox"))
            .expect("needs a static /bin/busybox: apt-get install busybox-static");
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            let _ = symlink("busybox", bin.join(applet));
        }
        symlink(format!("{TOPLEVEL}/sw/bin/sh"), target.root().join("bin/sh")).unwrap();
        target
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn toplevel(&self) -> &'static str {
        TOPLEVEL
    }

    /// Where a file of the system is, from outside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(&TOPLEVEL[1..]).join(name)
    }

    /// Makes one of the system's programs.
    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\nTOP={TOPLEVEL}\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o555)).unwrap();
    }

    pub(crate) fn system(&self) -> System {
        System {
            agent: env!("CARGO_BIN_EXE_keystone-agent").into(),
            ..System::new(self.root(), TOPLEVEL)
        }
    }

    /// Processes whose root is the target.
    pub(crate) fn processes(&self) -> Vec<String> {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|e| std::fs::read_link(e.path().join("root")).is_ok_and(|r| r == self.root()))
            .filter_map(|e| std::fs::read_to_string(e.path().join("cmdline")).ok())
            .filter(|cmdline| !cmdline.is_empty())
            .collect()
    }

    pub(crate) fn assert_nothing_mounted(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.root().to_str().unwrap()), "{mounts}");
    }

    pub(crate) fn wait_for(&self, what: &str, ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !ready() {
            assert!(began.elapsed() < Duration::from_secs(20), "waited for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
