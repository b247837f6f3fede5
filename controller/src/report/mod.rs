//! The controller's copy of the report: the machine's, and what came after the seal.

use crate::install::Installed;
use crate::reboot::Verification;
use keystone_protocol::report::Report;
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is kept. No secrets.
#[derive(Debug, Serialize)]
pub struct InstallReport<'a> {
    /// The machine's, which ends at the seal, and how far the installation got.
    #[serde(flatten)]
    pub report: &'a Report,
    /// What the controller adds.
    pub controller: ControllerReport<'a>,
}

/// What the controller adds.
#[derive(Debug, Serialize)]
pub struct ControllerReport<'a> {
    /// Its version.
    pub version: &'static str,
    /// The machine as the operator named it.
    pub destination: String,
    /// Blake3 of the agent, 64 hex digits.
    pub agent: String,
    /// What was seen of the new system; `null` if it was not waited for.
    pub verification: Option<&'a Verification>,
    /// Why the new system was not seen, if it was waited for in vain.
    pub problem: Option<String>,
    /// Unix time, in seconds.
    pub finished_at: u64,
}

impl<'a> InstallReport<'a> {
    /// Of an installation that ended well; `None` if nothing was installed.
    pub fn of(installed: &'a Installed, destination: String, agent: &blake3::Hash) -> Option<Self> {
        let report = installed.report.as_ref()?;
        let verification = installed.verification.as_ref();
        Some(Self::new(report, verification, None, destination, agent))
    }

    /// Of one whose new system was not seen running.
    pub fn unverified(
        report: &'a Report,
        problem: String,
        destination: String,
        agent: &blake3::Hash,
    ) -> Self {
        Self::new(report, None, Some(problem), destination, agent)
    }

    fn new(
        report: &'a Report,
        verification: Option<&'a Verification>,
        problem: Option<String>,
        destination: String,
        agent: &blake3::Hash,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        InstallReport {
            report,
            controller: ControllerReport {
                version: env!("CARGO_PKG_VERSION"),
                destination,
                agent: agent.to_hex().to_string(),
                verification,
                problem,
                finished_at: now.as_secs(),
            },
        }
    }

    /// Writes it to `path`, whole or not at all; missing directories are made.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let parent = crate::parent(path);
        std::fs::create_dir_all(parent)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let partial = parent.join(name);
        let mut file = std::fs::File::create(&partial)?;
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        file.write_all(&json)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    }

    /// Where it goes unless told otherwise: `$XDG_STATE_HOME/keystone/installs/HOST-TIME.json`.
    pub fn default_path(&self, host: &str) -> Option<PathBuf> {
        let state = std::env::var_os("XDG_STATE_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
        let host: String = host
            .chars()
            .map(|c| if c.is_alphanumeric() || ".-".contains(c) { c } else { '_' })
            .collect();
        let name = format!("{host}-{}.json", self.report.started_at);
        Some(state.join("keystone/installs").join(name))
    }
}
