//! Programs of the running system: `mkfs.ext4`, and no other.

use crate::block::{Poll, Timeout, wait};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use thiserror::Error;

/// Where programs are looked for after PATH.
pub const DIRECTORIES: [&str; 3] = ["/run/current-system/sw/bin", "/usr/sbin", "/sbin"];

/// How long such a program may take.
const BOUND: Duration = Duration::from_secs(600);

/// A program is missing or failed.
#[derive(Debug, Error)]
pub enum ToolError {
    /// There is none.
    #[error(
        "the running system has no {name}: it is neither in PATH nor in {}. Boot an installer \
         that has it (e2fsprogs)",
        DIRECTORIES.join(", ")
    )]
    Missing {
        /// Its name.
        name: String,
    },
    /// It can't be run.
    #[error("running {}", path.display())]
    Run {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{} failed ({status}): {output}", path.display())]
    Failed {
        /// Its path.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// It did not end, and was ended.
    #[error(transparent)]
    Timeout(#[from] Timeout),
}

/// Finds a program in `PATH` and [`DIRECTORIES`].
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    find_in(name, directories.chain(DIRECTORIES.map(PathBuf::from)))
}

fn find_in(name: &str, mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.find_map(|dir| {
        let path = dir.join(name);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
    })
}

/// Runs a program with a clean environment and no input, and returns what it said. It is ended if
/// it takes longer than ten minutes.
pub fn run(path: &Path, args: &[&str]) -> Result<String, ToolError> {
    let fail = |source| ToolError::Run { path: path.to_owned(), source };
    let (mut reader, writer) = io::pipe().map_err(fail)?;
    let mut command = Command::new(path);
    command
        .args(args)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(fail)?)
        .stderr(writer);
    let mut child = command.spawn().map_err(fail)?;
    // The command holds the pipe's other end, which has to close for the output to end.
    drop(command);
    let output = std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        output
    });
    let status = wait_for(&mut child, path)?;
    let output = output.join().unwrap_or_default();
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    if !status.success() {
        return Err(ToolError::Failed { path: path.to_owned(), status, output });
    }
    Ok(output)
}

fn wait_for(child: &mut Child, path: &Path) -> Result<ExitStatus, ToolError> {
    let result = wait(&format!("{} to end", path.display()), BOUND, || match child.try_wait() {
        Ok(Some(status)) => Ok(Poll::Ready(status)),
        Ok(None) => Ok(Poll::Pending("it still runs".to_owned())),
        Err(source) => Err(ToolError::Run { path: path.to_owned(), source }),
    });
    if result.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_in_order_and_only_if_executable() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for (directory, mode) in [(&one, 0o644), (&two, 0o755)] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("tool"), "").unwrap();
            fs::set_permissions(directory.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let directories = [dir.path().join("none"), one, two.clone()];
        assert_eq!(find_in("tool", directories.into_iter()), Some(two.join("tool")));
        assert_eq!(find("keystone-no-such-tool"), None);
    }

    #[test]
    fn its_words_are_kept_and_nothing_is_inherited() {
        let said = run(Path::new("/bin/sh"), &["-c", "echo out; echo err >&2; set"]).unwrap();
        assert!(said.contains("out\nerr"), "{said}");
        assert!(!said.contains("CARGO"), "{said}");
        let error = run(Path::new("/bin/sh"), &["-c", "echo no room >&2; exit 3"]).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh failed (exit status: 3): no room");
    }
}
