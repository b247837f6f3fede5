//! A description of the hardware by the machine's own tools.

use crate::ssh::exec::Exit;
use crate::ssh::{Session, SshError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Bound of the tool: it asks every bus.
const BOUND: Duration = Duration::from_secs(180);
/// The longest description that is taken, in bytes.
const LONGEST: usize = 16 << 20;
/// What sh says of a program that is not there. Source: POSIX, sh, exit status.
const NOT_FOUND: u32 = 127;

/// A tool that describes hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// nixos-facter: JSON.
    Facter,
    /// nixos-generate-config: a NixOS module, without file systems, which the layout has.
    GenerateConfig,
}

impl Tool {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Facter => "nixos-facter",
            Tool::GenerateConfig => "nixos-generate-config",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Tool::Facter => "nixos-facter",
            Tool::GenerateConfig => "nixos-generate-config --show-hardware-config --no-filesystems",
        }
    }
}

impl FromStr for Tool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Tool::Facter, Tool::GenerateConfig]
            .into_iter()
            .find(|tool| tool.name() == text)
            .ok_or_else(|| {
                format!(
                    "--generate-hardware-config {text}: the tool has to be nixos-facter or \
                     nixos-generate-config"
                )
            })
    }
}

/// There is no description.
#[derive(Debug, Error)]
pub enum HardwareError {
    /// The machine does not have the tool.
    #[error(
        "--generate-hardware-config: the machine has no {0}. Boot it from an installer that has, \
         or use --hardware-report FILE, which needs nothing on the machine"
    )]
    NoTool(&'static str),
    /// The tool failed.
    #[error("{tool} failed on the machine ({exit}): {said}")]
    Failed {
        /// Which.
        tool: &'static str,
        /// How it ended.
        exit: Exit,
        /// What it said.
        said: String,
    },
    /// It could not be asked.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The description can't be kept.
    #[error("writing the description of the hardware to {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Has the machine describe its hardware, and writes that to `path`: what the tool says on
/// standard output, and nothing else. A file in a Git work tree is made known to Git, without
/// which a flake would not see it.
///
/// # Errors
/// [`HardwareError`].
pub async fn describe(session: &Session, tool: Tool, path: &Path) -> Result<(), HardwareError> {
    // A login shell that is not asked for a login has no PATH for a system's own tools.
    let script = format!(
        "{{\nPATH=$PATH:/run/current-system/sw/bin:/usr/sbin:/sbin\ncommand -v {} >/dev/null 2>&1 \
         || exit {NOT_FOUND}\nexec {}\n}} </dev/null\n",
        tool.name(),
        tool.command()
    );
    let what = format!("describing the hardware with {}", tool.name());
    let output = session.output(&what, "/bin/sh -s", script.into_bytes(), LONGEST, BOUND).await?;
    match output.exit {
        Exit::Status(0) if !output.stdout.is_empty() => {}
        Exit::Status(NOT_FOUND) => return Err(HardwareError::NoTool(tool.name())),
        exit => {
            let (tool, said) = (tool.name(), output.stderr);
            return Err(HardwareError::Failed { tool, exit, said });
        }
    }
    write(path, &output.stdout)
        .map_err(|source| HardwareError::Write { path: path.to_owned(), source })
}

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let parent = crate::parent(path);
    std::fs::create_dir_all(parent)?;
    let mut file = std::fs::File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()?;
    let name = path.file_name().unwrap_or_default();
    // Outside a work tree, or without Git, there is nothing to make known.
    let added = Command::new("git")
        .current_dir(parent)
        .args(["add", "--intent-to-add", "--force", "--"])
        .arg(name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tracing::debug!("git add: {added:?}");
    Ok(())
}
