//! Making a root file system with mmdebstrap.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::SUITE;
use crate::{lab::Lab, native, run::run};

/// A root file system: a name and the packages in it.
#[derive(Debug, Clone)]
pub struct Root {
    name: String,
    packages: Vec<String>,
    customize: Vec<String>,
    documentation: bool,
    unpacked: bool,
}

impl Root {
    /// A root with the essential packages, apt, and `packages` with what they depend on.
    pub fn new(name: &str, packages: &[&str]) -> Root {
        Root {
            name: name.to_owned(),
            packages: packages.iter().map(ToString::to_string).collect(),
            customize: Vec::new(),
            documentation: false,
            unpacked: false,
        }
    }

    /// Runs `script` with `sh` at the end, outside the root, which it gets as `$1`.
    /// `chroot "$1" …` works in it: `/dev`, `/proc` and `/sys` are mounted.
    #[must_use]
    pub fn customize(mut self, script: &str) -> Root {
        self.customize.push(script.to_owned());
        self
    }

    /// Keeps documentation, manual pages and translations, which are left out otherwise.
    #[must_use]
    pub fn with_documentation(mut self) -> Root {
        self.documentation = true;
        self
    }

    /// Only the packages and what they depend on, unpacked and not configured.
    #[must_use]
    pub fn unpacked(mut self) -> Root {
        self.unpacked = true;
        self
    }

    /// The directory of the root, built if it is not in the cache. Never write to it.
    ///
    /// # Errors
    /// mmdebstrap failed: its output is in the error.
    pub fn build(&self, lab: &Lab) -> Result<PathBuf> {
        let artefact =
            lab.artefact(&format!("root-{}", self.name), &format!("{SUITE} {self:?}"), |dir| {
                let debs = lab.dir("debs")?;
                let root = dir.join("root");
                // In namespaces of its own: however this ends, no process goes on and
                // nothing stays mounted below the cache.
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation"]);
                command.args(["private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
                // Without a terminal to ask, debconf takes its defaults; and no initrd of
                // Debian's is ever booted.
                command
                    .arg("mmdebstrap")
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .env("INITRD", "No");
                command.env("TMPDIR", dir);
                self.arguments(&mut command, &debs.display().to_string());
                let mirror = native::machine_mirror()
                    .context("looking for the Debian mirror of this machine")?;
                command.arg(SUITE).arg(&root).arg(format!("deb {mirror} {SUITE} main contrib"));
                run(&mut command)?;
                // What the shared cache already holds would only be carried along.
                for entry in fs::read_dir(root.join("var/cache/apt/archives"))? {
                    let path = entry?.path();
                    if path.extension().is_some_and(|e| e == "deb") {
                        fs::remove_file(path)?;
                    }
                }
                Ok(())
            })?;
        Ok(artefact.join("root"))
    }

    fn arguments(&self, command: &mut Command, debs: &str) {
        let variant = if self.unpacked { "--variant=extract" } else { "--variant=apt" };
        command.args(["--mode=root", "--format=directory", variant]);
        command.arg(format!("--include={}", self.packages.join(",")));
        for option in [
            "APT::Install-Recommends \"false\"",
            "Acquire::Languages \"none\"",
            "Acquire::Retries \"3\"",
            // The cache may lie under a home directory that `_apt` cannot enter.
            "APT::Sandbox::User \"root\"",
        ] {
            command.arg(format!("--aptopt={option}"));
        }
        command.arg("--dpkgopt=force-unsafe-io");
        if !self.documentation {
            for path in ["doc", "man", "locale", "info", "lintian", "bug"] {
                command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
            }
        }
        // Packages are hard links into the shared cache: nothing is copied, and
        // several roots can be built at once.
        command.args([
            "--skip=essential/unlink",
            "--skip=download/empty",
            "--skip=cleanup/apt/cache",
        ]);
        command.arg(format!(
            "--setup-hook=mkdir -p \"$1/var/cache/apt/archives\" && cp -aln '{debs}/.' \"$1/var/cache/apt/archives/\""
        ));
        for script in &self.customize {
            command.arg(format!("--customize-hook={script}"));
        }
        command
            .arg(format!("--customize-hook=cp -aln \"$1\"/var/cache/apt/archives/*.deb '{debs}/'"));
    }
}

/// The root every machine starts from: systemd, udev and sshd, without a kernel.
///
/// # Errors
/// As [`Root::build`].
pub fn base_root(lab: &Lab) -> Result<PathBuf> {
    Root::new("base", &["systemd", "systemd-sysv", "udev", "kmod", "openssh-server", "iproute2"])
        .build(lab)
}
