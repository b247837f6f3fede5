//! disko's modes: what is done with the disks.

use crate::phase::Phases;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is done with the disks, as `disko --mode` has it (disko, `cli` and
/// `docs/disko-install.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum DiskoMode {
    /// Destroys what is there, makes everything anew and mounts it. Disks that the layout wants
    /// kept (`destroy = false`) are treated as by [`DiskoMode::FormatMount`].
    #[default]
    Disko,
    /// Makes what is missing; what is there stays.
    Format,
    /// Makes what is missing, and mounts everything.
    #[serde(rename = "format,mount")]
    FormatMount,
    /// Opens and mounts what is there.
    Mount,
    /// Destroys what is there, and makes nothing.
    Destroy,
    /// Unmounts and closes what is there.
    Unmount,
}

impl DiskoMode {
    /// All of them.
    pub const ALL: [DiskoMode; 6] = [
        DiskoMode::Disko,
        DiskoMode::Format,
        DiskoMode::FormatMount,
        DiskoMode::Mount,
        DiskoMode::Destroy,
        DiskoMode::Unmount,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            DiskoMode::Disko => "disko",
            DiskoMode::Format => "format",
            DiskoMode::FormatMount => "format,mount",
            DiskoMode::Mount => "mount",
            DiskoMode::Destroy => "destroy",
            DiskoMode::Unmount => "unmount",
        }
    }

    /// Whether what is there is destroyed.
    pub fn destroys(self) -> bool {
        matches!(self, DiskoMode::Disko | DiskoMode::Destroy)
    }

    /// Whether what is missing is made.
    pub fn formats(self) -> bool {
        matches!(self, DiskoMode::Disko | DiskoMode::Format | DiskoMode::FormatMount)
    }

    /// Whether everything is mounted.
    pub fn mounts(self) -> bool {
        matches!(self, DiskoMode::Disko | DiskoMode::FormatMount | DiskoMode::Mount)
    }

    /// What to type after a failure amid it, and what comes of that. `phases` are those that were
    /// run: what the second one goes on with is closed when it fails.
    pub fn again(self, phases: Phases) -> String {
        let phases = (!phases.disko).then_some("--phases disko,install");
        let erase = (self == DiskoMode::Disko).then_some("--erase");
        let options: Vec<&str> = phases.into_iter().chain(erase).collect();
        let with = match options.is_empty() {
            true => String::new(),
            false => format!(", with `{}`", options.join(" ")),
        };
        let outcome = match self {
            DiskoMode::Disko => "it begins anew",
            DiskoMode::Format | DiskoMode::FormatMount => {
                "what is there stays, and what is missing is made"
            }
            DiskoMode::Mount => "it makes and destroys nothing",
            DiskoMode::Destroy => "it destroys what is still there",
            DiskoMode::Unmount => "it closes what is still open",
        };
        format!("run the same command again{with}: {outcome}")
    }

    /// Whether it is [`DiskoMode::Disko`]; for leaving it out of documents.
    pub fn is_default(&self) -> bool {
        *self == DiskoMode::Disko
    }
}

impl fmt::Display for DiskoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DiskoMode {
    type Err = String;

    /// Reads a mode by its name, or as disko's list of what it stands for
    /// (`destroy,format,mount`).
    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text == "destroy,format,mount" { "disko" } else { text };
        DiskoMode::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            let names: Vec<&str> = DiskoMode::ALL.map(DiskoMode::name).to_vec();
            format!("'{text}' is no mode: {}", names.join(" | "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what begins anew needs agreement that data may be lost.
    #[test]
    fn what_keeps_data_is_not_told_to_erase() {
        for mode in DiskoMode::ALL {
            let again = mode.again(Phases::ALL);
            assert_eq!(again.contains("--erase"), mode == DiskoMode::Disko, "{mode}: {again}");
        }
        let second = Phases { disko: false, install: true };
        let said = DiskoMode::Disko.again(second);
        assert!(said.contains("`--phases disko,install --erase`: it begins anew"), "{said}");
        let said = DiskoMode::FormatMount.again(second);
        assert!(said.contains("`--phases disko,install`: what is there stays"), "{said}");
    }

    #[test]
    fn names_are_read_back() {
        for mode in DiskoMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        assert_eq!("destroy,format,mount".parse(), Ok(DiskoMode::Disko));
        assert!("formt".parse::<DiskoMode>().unwrap_err().contains("format,mount"));
    }
}
