//! What the kernel says of a TCP connection: how long it was the line that bytes waited for.
//!
//! A line that is full and a machine that is busy look alike to whoever writes: both take no more.
//! The kernel tells them apart: it counts the time that bytes are under way or wait for that. With an SSH
//! server that is busy nothing is under way, since its channel has no window; a line that is full, or a
//! relay with a slow line behind it, has something all the time.
//! Source: `struct tcp_info` of the kernel's include/uapi/linux/tcp.h, `tcpi_busy_time` (since 4.10), and
//! net/ipv4/tcp.c, `tcp_get_info_chrono_stats`.

use nix::libc::{IPPROTO_TCP, TCP_INFO, getsockopt, socklen_t};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that can be asked.
#[derive(Debug)]
pub struct Line(OwnedFd);

/// What a connection did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that arrived at the other end.
    pub arrived: u64,
    /// How long bytes were under way, or waited for the line to carry them.
    pub busy: Duration,
}

impl Usage {
    /// What it did after `earlier`.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            arrived: self.arrived.saturating_sub(earlier.arrived),
            busy: self.busy.saturating_sub(earlier.busy),
        }
    }
}

/// The beginning of `struct tcp_info`; the kernel's may be longer.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    before: [u64; 15],
    bytes_acked: u64,
    between: [u64; 5],
    /// Microseconds.
    busy_time: u64,
}

impl Line {
    /// The line of a connection. It stays open until both are dropped.
    pub(super) fn of(stream: &TcpStream) -> Option<Line> {
        let line = Line(stream.as_fd().try_clone_to_owned().ok()?);
        line.usage().is_some().then_some(line)
    }

    /// What it did so far; `None` if the kernel does not count it.
    pub fn usage(&self) -> Option<Usage> {
        const SIZE: usize = size_of::<TcpInfo>();
        let mut info = TcpInfo { before: [0; 15], bytes_acked: 0, between: [0; 5], busy_time: 0 };
        let mut length = SIZE as socklen_t;
        // SAFETY: the descriptor is open, `info` has the `length` bytes that the kernel may write, any
        // bytes are a value of its type, and both outlive the call.
        let result = unsafe {
            getsockopt(
                self.0.as_raw_fd(),
                IPPROTO_TCP,
                TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        (result == 0 && length as usize == SIZE).then(|| Usage {
            arrived: info.bytes_acked,
            busy: Duration::from_micros(info.busy_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn bytes_that_nobody_takes_are_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(connecting, listener.accept());
        let (mut stream, (mut other, _)) = (stream.unwrap(), accepted.unwrap());
        let line = Line::of(&stream).unwrap();
        stream.write_all(&[7; 10_000]).await.unwrap();
        let mut read = [0; 10_000];
        other.read_exact(&mut read).await.unwrap();
        let before = line.usage().unwrap();
        assert_eq!(before.arrived, 10_001, "the kernel counts the beginning as one");
        // Until no more fits anywhere.
        let block = vec![7; 1 << 20];
        while timeout(Duration::from_millis(100), stream.write_all(&block)).await.is_ok() {}
        sleep(Duration::from_millis(300)).await;
        let after = line.usage().unwrap();
        assert!(after.arrived > before.arrived, "{after:?}");
        let busy = after.busy - before.busy;
        assert!(busy >= Duration::from_millis(300), "{after:?}");
    }
}
