//! What several scenarios do.

use super::BOOT;
use super::installed::Installed;
use crate::installer::Medium;
use crate::keystone::Request;
use crate::lab::timed;
use crate::machine::ssh::Ssh;
use crate::machine::{Machine, Running, arguments};
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};
use tempfile::TempDir;

/// What systemd-cryptsetup asks (v257 `src/cryptsetup/cryptsetup.c`).
pub(super) const PROMPT: &str = "Please enter";

/// What the initrd says of a pool that another system did not export (OpenZFS 2.3
/// `cmd/zpool/zpool_main.c`).
pub(super) const NOT_EXPORTED: &str =
    "cannot import 'rpool': pool was previously in use from another system";

/// A password that is long enough.
pub(super) const PASSWORD: &str = "correct horse battery staple";

/// The installation of `toplevel` with Keystone's own layout.
pub(super) fn request<'a>(
    cx: &'a Context,
    ssh: &'a Ssh,
    medium: &'a Medium,
    toplevel: &'a str,
    layout: &'a Path,
) -> Result<Request<'a>> {
    Ok(Request { ssh, key: &medium.key, store: &cx.system()?.root, toplevel, layout })
}

/// The machine was restarted by the installation, whose report ends with the new system, which is
/// what it should be.
pub(super) fn rebooted(
    running: &Running,
    medium: &Medium,
    toplevel: &str,
    files: &Files,
) -> Result<Ssh> {
    let report = files.report()?;
    ensure!(report["ends_at"] == "verified", "the report ends at {}", report["ends_at"]);
    let ssh = running.ssh(&medium.key)?;
    Installed { ssh: &ssh, toplevel, report: &report, unlock: "tpm2" }.check()?;
    Ok(ssh)
}

/// Files that an installation reads and writes on the operator's computer.
pub(super) struct Files {
    dir: TempDir,
}

impl Files {
    /// A directory with [`PASSWORD`] in it.
    pub(super) fn new() -> Result<Files> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n"))?;
        Ok(Files { dir })
    }

    /// Where `name` is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Recovery key and report go to the files `recovery-key` and `report`.
    pub(super) fn outputs(&self) -> Vec<String> {
        let report = ["--report".to_owned(), self.word("report")];
        let recovery = ["--recovery-key-file".to_owned(), self.word("recovery-key")];
        [report, recovery].concat()
    }

    /// The boot password is [`PASSWORD`].
    pub(super) fn password(&self) -> Vec<String> {
        vec!["--password-file".to_owned(), self.word("password")]
    }

    /// The report.
    pub(super) fn report(&self) -> Result<Value> {
        let text = fs::read_to_string(self.path("report")).context("reading the report")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Fails if the text has the password or the recovery key.
    pub(super) fn no_secret_in(&self, what: &str, text: &str) -> Result<()> {
        let key = recovery_key(&fs::read_to_string(self.path("recovery-key"))?)?;
        ensure!(!text.contains(&key), "the recovery key is in the {what}");
        ensure!(!text.contains(PASSWORD), "the password is in the {what}");
        Ok(())
    }

    /// Fails if the password or the recovery key is in the installed system's store, its logs, or on
    /// its unencrypted partition; or if a word that is in each of them is not found there.
    pub(super) fn no_secret_in_files(&self, ssh: &Ssh) -> Result<()> {
        let key = recovery_key(&fs::read_to_string(self.path("recovery-key"))?)?;
        // The store can't be written to, but the system's name is in it.
        let (planted, host) = ("the search finds this", "keystone-ref");
        let written = ["/boot", "/etc", "/run/log", "/var/log"];
        for place in written {
            ssh.ok(&format!("mkdir -p {place} && echo '{planted}' > {place}/planted"))?;
        }
        let places = format!("-r -o -H /nix/store {}", written.join(" "));
        let found = arguments::search(ssh, &[&key, PASSWORD, planted, host], &places)?;
        let found: Vec<_> = found.lines().filter_map(|line| line.rsplit_once(':')).collect();
        for (file, word) in &found {
            ensure!(*word != key && *word != PASSWORD, "a secret is in {file}");
        }
        let known = |place: &str, known: &str| {
            found.iter().any(|(file, word)| file.starts_with(place) && *word == known)
        };
        for place in written {
            ensure!(
                known(place, planted),
                "what was written to {place} was not found, so it was not searched"
            );
        }
        ensure!(
            known("/nix/store", host),
            "{host} is not found in the store, so it was not searched"
        );
        Ok(())
    }

    /// Fails if the password or the recovery key was seen by [`arguments`].
    pub(super) fn no_secret_in_arguments(&self, ssh: &Ssh) -> Result<()> {
        let key = recovery_key(&fs::read_to_string(self.path("recovery-key"))?)?;
        arguments::stop(ssh, &[&key, PASSWORD], "/keystone-agent")
    }

    /// Forgets what an installation wrote, so that the next one may write it.
    pub(super) fn forget(&self) {
        for name in ["recovery-key", "report"] {
            let _ = fs::remove_file(self.path(name));
        }
    }
}

/// The key among the words of its file: eight groups of eight modhex characters.
pub(super) fn recovery_key(text: &str) -> Result<String> {
    text.split_whitespace()
        .find(|word| {
            let groups: Vec<&str> = word.split('-').collect();
            groups.len() == 8 && groups.iter().all(|group| group.len() == 8)
        })
        .map(str::to_owned)
        .with_context(|| "the recovery key's file has no key in systemd's format".to_owned())
}

/// As words of a command line.
pub(super) fn words(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

/// Starts the machine without a medium, types `secret` at the prompt, and waits for SSH.
///
/// There is one try: of systemd's three (v257 `src/cryptsetup/cryptsetup.c`) the first is the
/// TPM's, and the last takes the password of the second out of the kernel's keyring.
pub(super) fn boot_typing(
    machine: &mut Machine,
    medium: &Medium,
    what: &str,
    secret: &str,
) -> Result<(Running, Ssh)> {
    timed(what, || {
        let mut running = machine.start(None)?;
        running.serial.wait_for(PROMPT, &[], BOOT)?;
        thread::sleep(Duration::from_secs(1));
        running.serial.type_secret(secret)?;
        let ssh = running.ssh(&medium.key)?;
        running.wait_ssh(&ssh, BOOT)?;
        Ok((running, ssh))
    })
}

/// Starts the machine without a medium, which must end with `why` on the console and in an
/// emergency, without having asked for anything.
pub(super) fn boots_not(machine: &mut Machine, what: &str, why: &str) -> Result<()> {
    timed(&format!("{what} must not boot"), || {
        let running = machine.start(None)?;
        running.serial.wait_for(why, &[PROMPT], BOOT)?;
        running.serial.wait_for("emergency", &[PROMPT], BOOT)?;
        running.kill()
    })
}
