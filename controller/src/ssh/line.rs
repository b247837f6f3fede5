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
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that can be asked, with those beside it that carry the same.
#[derive(Debug)]
pub struct Line {
    first: OwnedFd,
    /// With what they had carried when they were last asked.
    beside: Mutex<Vec<(Weak<Line>, u64)>>,
}

/// What a connection did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that arrived at the other end.
    pub arrived: u64,
    /// How long bytes were under way, or waited for the line to carry them.
    pub busy: Duration,
}

/// What a connection is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// What it did so far.
    pub usage: Usage,
    /// How long a round trip takes now.
    pub round_trip: Duration,
    /// How long the shortest one took.
    pub shortest: Duration,
    /// Packets with data, and those of them that were sent again.
    pub packets: u32,
    /// See [`Seen::packets`].
    pub again: u32,
    /// How long no more could be under way because a buffer of either end was full.
    pub bounded: Duration,
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
    before: [u32; 17],
    /// Microseconds, as all times.
    rtt: u32,
    between: [u32; 7],
    total_retrans: u32,
    rates: [u32; 4],
    bytes_acked: u64,
    then: [u32; 5],
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
}

impl Line {
    /// The line of a connection. It stays open until both are dropped.
    pub(super) fn of(stream: &TcpStream) -> Option<Line> {
        let first = stream.as_fd().try_clone_to_owned().ok()?;
        let line = Line { first, beside: Mutex::default() };
        line.usage().is_some().then_some(line)
    }

    /// Counts what `other` carries, too; also after it has ended.
    pub fn join(&self, other: Weak<Line>) {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).push((other, 0));
    }

    /// What it did so far, those beside it included; `None` if the kernel does not count it. All of them
    /// are busy as long as the first is.
    pub fn usage(&self) -> Option<Usage> {
        self.seen().map(|seen| seen.usage)
    }

    /// The same and what the first is like.
    pub fn seen(&self) -> Option<Seen> {
        let info = self.info()?;
        let mut beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        for (line, arrived) in beside.iter_mut() {
            if let Some(info) = line.upgrade().and_then(|line| line.info()) {
                *arrived = info.bytes_acked;
            }
        }
        let usage = Usage {
            arrived: info.bytes_acked + beside.iter().map(|(_, arrived)| arrived).sum::<u64>(),
            busy: Duration::from_micros(info.busy_time),
        };
        let micros = |micros: u32| Duration::from_micros(micros.into());
        Some(Seen {
            usage,
            round_trip: micros(info.rtt),
            shortest: micros(info.min_rtt),
            packets: info.data_segs_out,
            again: info.total_retrans,
            bounded: Duration::from_micros(info.rwnd_limited + info.sndbuf_limited),
        })
    }

    fn info(&self) -> Option<TcpInfo> {
        const SIZE: usize = size_of::<TcpInfo>();
        let mut info = TcpInfo {
            before: [0; 17],
            rtt: 0,
            between: [0; 7],
            total_retrans: 0,
            rates: [0; 4],
            bytes_acked: 0,
            then: [0; 5],
            min_rtt: 0,
            data_segs_in: 0,
            data_segs_out: 0,
            delivery_rate: 0,
            busy_time: 0,
            rwnd_limited: 0,
            sndbuf_limited: 0,
        };
        let mut length = SIZE as socklen_t;
        // SAFETY: the descriptor is open, `info` has the `length` bytes that the kernel may write, any
        // bytes are a value of its type, and both outlive the call.
        let result = unsafe {
            getsockopt(
                self.first.as_raw_fd(),
                IPPROTO_TCP,
                TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        (result == 0 && length as usize == SIZE).then_some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
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
        let seen = line.seen().unwrap();
        let (least, most) = (Duration::from_micros(1), Duration::from_millis(500));
        assert!(least <= seen.shortest && seen.shortest <= seen.round_trip, "{seen:?}");
        assert!(seen.round_trip <= most, "{seen:?}");
        // Nobody reads: it is the other end's buffer that is full.
        assert!(seen.packets > 0 && seen.bounded >= Duration::from_millis(250), "{seen:?}");
        // What another one carries is added, and stays when it ends.
        let beside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let beside = Arc::new(Line::of(&beside).unwrap());
        line.join(Arc::downgrade(&beside));
        assert_eq!(line.usage().unwrap().arrived, after.arrived + 1);
        drop(beside);
        assert_eq!(line.usage().unwrap().arrived, after.arrived + 1);
    }
}
