//! Starting processes that end when the lab does, however it ends.
//!
//! The kernel kills them when the *thread* that started them ends, so one thread
//! that never ends starts them all.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command},
    sync::{OnceLock, mpsc},
    thread,
};

use anyhow::{Context, Result};

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// A command that runs `program` so that it is killed when the lab is gone.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a command made by [`command`].
///
/// # Errors
/// It could not be started.
pub(super) fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // Whoever asked may be gone; then the child has nobody to end it.
                if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        sender
    });
    let name = format!("{command:?}");
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).context("the thread that starts processes is gone")?;
    answer.recv()?.with_context(|| format!("starting {name}"))
}

/// Whether somebody listens on the Unix socket that was given this path. A socket has its name a
/// moment before; connecting to ask would be a client more than some programs take.
///
/// # Errors
/// `/proc/net/unix` (unix(7)) can't be read.
pub(crate) fn listens(socket: &Path) -> Result<bool> {
    /// `SO_ACCEPTCON` in the column of flags.
    const ACCEPTS: &str = "00010000";
    let sockets = std::fs::read_to_string("/proc/net/unix").context("reading /proc/net/unix")?;
    let path = socket.to_str();
    Ok(sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        fields.get(3) == Some(&ACCEPTS) && path.is_some() && fields.get(7).copied() == path
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_not_listened_on_by_its_name_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listens(&path).unwrap());
        drop(server);
        assert!(path.exists() && !listens(&path).unwrap());
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| {
            let mut sleep = command("sleep");
            sleep.arg("60");
            spawn(sleep).unwrap()
        })
        .join()
        .unwrap();
        thread::sleep(std::time::Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
