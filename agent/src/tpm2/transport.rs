//! How a command reaches a TPM and its response comes back.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest command or response: `TPM2_MAX_RESPONSE_SIZE` of the Linux driver and of swtpm.
const MAX_MESSAGE: usize = 4096;

/// How long one command may take. The Linux driver gives up on the slowest commands (making a
/// primary RSA key) after 5 minutes; none of ours is of that kind.
const COMMAND_TIME: Duration = Duration::from_secs(90);

/// Sends one command and returns its whole response.
pub trait Transport: Send {
    /// One command, one response.
    ///
    /// # Errors
    /// I/O errors, and `TimedOut` when no response came in time.
    fn transact(&mut self, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>>;
}

/// The kernel's resource manager, `/dev/tpmrm0`: it swaps objects and sessions, and flushes what
/// is left when the file is closed.
#[derive(Debug)]
pub struct DeviceFile(File);

impl DeviceFile {
    /// Opens a TPM character device.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Non-blocking, so that the driver works in the background and `poll` can be bounded.
        let flags = nix::libc::O_NONBLOCK;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map(DeviceFile)
    }
}

impl Transport for DeviceFile {
    fn transact(&mut self, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        let written = self.0.write(command)?;
        if written != command.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "command taken in part only"));
        }
        let timeout = PollTimeout::try_from(COMMAND_TIME).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                Ok(0) => return Err(timed_out()),
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut response = Zeroizing::new(vec![0; MAX_MESSAGE]);
        let length = self.0.read(&mut response)?;
        response.truncate(length);
        Ok(response)
    }
}

/// Raw commands over a Unix socket, as `swtpm socket --server type=unixio` speaks. There is no
/// resource manager behind it.
#[derive(Debug)]
pub struct Socket(UnixStream);

impl Socket {
    /// Connects.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(COMMAND_TIME))?;
        stream.set_write_timeout(Some(COMMAND_TIME))?;
        Ok(Socket(stream))
    }
}

impl Transport for Socket {
    fn transact(&mut self, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        self.0.write_all(command)?;
        let mut response = Zeroizing::new(vec![0; MAX_MESSAGE]);
        // Tag (2 bytes), length of all (4 bytes), response code (4 bytes).
        read_exact(&mut self.0, &mut response[..10])?;
        let length = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(10..=MAX_MESSAGE).contains(&length) {
            let what = format!("a response that says it has {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        read_exact(&mut self.0, &mut response[10..length])?;
        response.truncate(length);
        Ok(response)
    }
}

fn read_exact(stream: &mut UnixStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => timed_out(),
        _ => error,
    })
}

fn timed_out() -> io::Error {
    let what = format!("no response within {} seconds", COMMAND_TIME.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, what)
}
