//! What the integration tests share: a real sshd and web server on loopback, a real store made by
//! Nix.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod flake;
pub mod flaky;
pub mod nix;
pub mod sshd;
pub mod web;

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program's path, or a failure that says what to install.
pub fn tool(name: &str, package: &str) -> PathBuf {
    let places = std::env::var("PATH").unwrap_or_default();
    places
        .split(':')
        .map(PathBuf::from)
        .chain(["/usr/sbin".into(), "/usr/bin".into(), "/sbin".into(), "/usr/lib/openssh".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this test needs {name}: apt-get install {package}"))
}

/// Whether somebody listens on the Unix socket of this path: it has its name a moment before
/// (`SO_ACCEPTCON` in the flags of `/proc/net/unix`, unix(7)).
pub fn listens(socket: &std::path::Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = socket.to_str().unwrap();
    sockets.lines().any(|line| line.contains(" 00010000 ") && line.ends_with(path))
}

/// Runs to success and returns standard output.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// `cat` for an agent, told apart from others by `mark` behind its end: tests that run at once must
/// not find each other's.
pub fn agent(mark: &str) -> keystone_controller::upload::LocalAgent {
    let mut bytes = std::fs::read("/bin/cat").unwrap();
    bytes.extend_from_slice(mark.as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent");
    std::fs::write(&file, bytes).unwrap();
    keystone_controller::upload::LocalAgent::read(&file).unwrap()
}

/// Methods of an [`Operator`](keystone_controller::operator::Operator) that is asked nothing of an
/// installation.
#[macro_export]
macro_rules! nothing_of_an_installation {
    () => {
        async fn prepare(&mut self, _: &Plan) -> Result<(), OperatorError> {
            unreachable!()
        }

        async fn confirm(&mut self, _: &Proposal<'_>) -> Result<(), OperatorError> {
            unreachable!()
        }

        async fn password(&mut self, _: &[&str]) -> Result<Secret, OperatorError> {
            unreachable!()
        }

        async fn pin(&mut self, _: &[&str]) -> Result<Secret, OperatorError> {
            unreachable!()
        }

        async fn keep_recovery_key(&mut self, _: &str, _: &Secret) -> Result<(), OperatorError> {
            unreachable!()
        }
    };
}
