//! A way for `nix` to a program on the machine, over the connection that is there already.
//!
//! `nix` reaches another store by starting a program and talking to its standard input and output.
//! Here that program is `keystone` itself under another name: it connects to a socket beside it,
//! and who listens there starts the machine's program in an SSH session that is authenticated. So
//! whatever holds for that session holds for `nix` (the host key that was checked, jumps, passwords,
//! root by `sudo`), and no `ssh` is started.
//!
//! Source: Nix, `src/libstore/ssh.cc` and `ssh-store.cc`: `ssh-ng://localhost` starts `remote-program`
//! here, with `--stdio`, and not through `ssh`; so since Nix 2.0.

use crate::ssh::exec::{Exit, Running};
use crate::ssh::{Session, SshError};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The name under which `keystone` relays.
const NAME: &str = "keystone-relay";
/// The socket beside it.
const SOCKET: &str = "socket";
/// What `nix` calls the store that is behind it.
pub(super) const CALLED: &str = "ssh-ng://localhost";
/// Lines kept of what the machine's program says.
const KEPT: usize = 20;
/// The longest directory for the socket, in bytes: its address takes 104 on some systems
/// (unix(4) of the BSDs), 108 on Linux.
const LONGEST: usize = 60;

/// Listens for as long as it lives. Only this user gets at it.
#[derive(Debug)]
pub struct Relay {
    url: String,
    said: Arc<Mutex<VecDeque<String>>>,
    listening: JoinHandle<()>,
    _dir: TempDir,
}

impl Relay {
    /// For each connection `command` is started in `session`.
    ///
    /// # Errors
    /// There is no place for the socket.
    pub fn open(session: &Session, command: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keystone-").tempdir_in(place_for_socket())?;
        let program = dir.path().join(NAME);
        symlink(std::env::current_exe()?, &program)?;
        let listener = UnixListener::bind(dir.path().join(SOCKET))?;
        let url = format!("{CALLED}?remote-program={}", program.display());
        let said: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (session, command, into) = (session.clone(), command.to_owned(), Arc::clone(&said));
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (session, command, into) =
                    (session.clone(), command.clone(), Arc::clone(&into));
                tokio::spawn(async move {
                    if let Err(error) = join(&session, &command, stream, &into).await {
                        keep(&into, format!("error: {}", crate::chain(&error)));
                    }
                });
            }
        });
        Ok(Relay { url, said, listening, _dir: dir })
    }

    /// The store behind it, as `nix` takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The end of what the machine's program said on standard error, and what went wrong with it.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Whether a path can stand in a URL and in a command line as it is.
pub(super) fn is_plain(path: &Path) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    path.is_absolute() && path.as_os_str().as_encoded_bytes().iter().copied().all(plain)
}

fn place_for_socket() -> PathBuf {
    let usual = std::env::temp_dir();
    match is_plain(&usual) && usual.as_os_str().len() <= LONGEST {
        true => usual,
        false => "/tmp".into(),
    }
}

fn keep(said: &Mutex<VecDeque<String>>, line: String) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() == KEPT {
        said.pop_front();
    }
    said.push_back(line);
}

/// Joins a connection with the program's input and output until both ends are through.
async fn join(
    session: &Session,
    command: &str,
    stream: UnixStream,
    said: &Mutex<VecDeque<String>>,
) -> Result<(), SshError> {
    let Running { stdin, mut stdout, stderr, exit, .. } = session.start(command).await?;
    let (mut from, mut to) = stream.into_split();
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if stdin.send(buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
        let _ = stdin.eof().await;
    };
    let back = async {
        // Where nobody reads any more, the program's end is waited for all the same.
        let _ = tokio::io::copy(&mut stdout, &mut to).await;
        let _ = to.shutdown().await;
        let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
    };
    let heard = async {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            keep(said, crate::conversation::log::clean(&line));
        }
    };
    tokio::join!(there, back, heard);
    if exit.await.unwrap_or(Exit::Lost) == Exit::Lost && session.has_ended().await {
        return Err(session.broken("building there", russh::Error::Disconnect));
    }
    Ok(())
}

/// What `keystone` does under the name that `nix` starts it by; `None` if that is not its name.
pub fn called() -> Option<ExitCode> {
    let program = PathBuf::from(std::env::args_os().next()?);
    if program.file_name()? != NAME {
        return None;
    }
    Some(match speak(&program.with_file_name(SOCKET)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: nothing comes from the machine: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Standard input to the socket, and the socket to standard output, unbuffered.
fn speak(socket: &Path) -> io::Result<()> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut there = stream.try_clone()?;
    std::thread::spawn(move || {
        // Either way nothing more comes.
        let _ = pass(&mut input, &mut there);
        let _ = there.shutdown(Shutdown::Write);
    });
    pass(&mut stream, &mut output)
}

/// Reads and writes to the end. Not [`io::copy`]: that may splice, and what is spliced into a socket
/// is not always seen there at once.
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_takes_as_it_is() {
        for path in ["/tmp", "/var/folders/z_/x1/T", "/a.b/c-d"] {
            assert!(is_plain(Path::new(path)), "{path}");
        }
        for path in ["", "tmp", "/my tmp", "/a&b", "/a%20b", "/a?b", "/a'b", "/ä", "/a\nb"] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
        assert!(is_plain(&place_for_socket()));
    }
}
