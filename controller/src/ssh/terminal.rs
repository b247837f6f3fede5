//! A program on the machine, with this terminal as its own.

use super::Session;
use super::error::SshError;
use super::exec::Exit;
use nix::sys::termios::{self, SetArg, Termios};
use russh::ChannelMsg;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

mod ioctl {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// What is read of standard input at once, in bytes.
const INPUT: usize = 8192;

impl Session {
    /// Runs `command` through the login shell, with standard input, output and error as its own.
    /// At a terminal it gets a terminal, which follows this one's size, and every key goes to it.
    ///
    /// # Errors
    /// The connection broke, or the machine refuses to run it.
    pub async fn interactive(&self, command: &str) -> Result<Exit, SshError> {
        let what = || format!("running {command}");
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let command = match &self.elevation {
            Some(elevation) => &elevation.at_terminal(self, command, terminal)?,
            None => command,
        };
        let mut channel =
            self.handle.channel_open_session().await.map_err(|e| self.broken(what(), e))?;
        if terminal {
            let kind = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
            let (columns, rows) = size();
            channel
                .request_pty(false, &kind, columns, rows, 0, 0, &[])
                .await
                .map_err(|e| self.broken(what(), e))?;
        }
        channel.exec(true, command).await.map_err(|e| self.broken(what(), e))?;
        let _raw = terminal.then(Raw::set);
        let mut resized = signal(SignalKind::window_change()).ok();
        let (mut stdin, mut stdout, mut stderr) =
            (tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr());
        let mut input = vec![0; INPUT];
        let mut reading = true;
        let mut ended = Exit::Lost;
        loop {
            let change = async {
                match resized.as_mut() {
                    Some(resized) if terminal => resized.recv().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                message = channel.wait() => match message {
                    Some(ChannelMsg::Data { data }) => show(&mut stdout, &data).await,
                    Some(ChannelMsg::ExtendedData { data, ext: 1 }) => show(&mut stderr, &data).await,
                    Some(ChannelMsg::ExitStatus { exit_status }) => ended = Exit::Status(exit_status),
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        ended = Exit::Signal(format!("{signal_name:?}"));
                    }
                    Some(ChannelMsg::Failure) => {
                        return Err(SshError::ExecRefused {
                            host: self.destination().host.clone(),
                            what: command.to_owned(),
                        });
                    }
                    Some(ChannelMsg::Close) | None => return Ok(ended),
                    Some(_) => {}
                },
                read = stdin.read(&mut input), if reading => match read {
                    Ok(0) | Err(_) => {
                        reading = false;
                        let _ = channel.eof().await;
                    }
                    Ok(length) => {
                        if channel.data(&input[..length]).await.is_err() {
                            reading = false;
                        }
                    }
                },
                _ = change => {
                    let (columns, rows) = size();
                    let _ = channel.window_change(columns, rows, 0, 0).await;
                }
            }
        }
    }
}

/// A reader that is gone does not stop the program.
async fn show(out: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    let _ = out.write_all(bytes).await;
    let _ = out.flush().await;
}

/// Columns and rows of this terminal.
fn size() -> (u32, u32) {
    use std::os::fd::AsRawFd;
    let mut found = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the kernel writes one winsize.
    let read = unsafe { ioctl::window_size(io::stdout().as_raw_fd(), &mut found) };
    match read {
        Ok(_) if found.ws_col > 0 && found.ws_row > 0 => (found.ws_col.into(), found.ws_row.into()),
        _ => (80, 24),
    }
}

/// The terminal hands every key on at once, as it is; as before when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn set() -> Self {
        let stdin = io::stdin();
        let Ok(before) = termios::tcgetattr(stdin.as_fd()) else { return Raw(None) };
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        let _ = termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw);
        Raw(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, before);
        }
    }
}
