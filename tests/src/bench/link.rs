//! A line with a rate, a delay and losses, between two tun devices.
//!
//! The kernel's `netem` does this too, but many kernels lack it. Each direction is a thread that
//! takes packets in and one that hands them out when they are due. A packet leaves when those
//! before it have left at the line's rate, and arrives after the delay; what does not fit into
//! the queue, and what the dice say, is lost. Source of the device's interface: the kernel's
//! Documentation/networking/tuntap.rst.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// What the line is like, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Bits per second.
    pub rate: f64,
    /// One way.
    pub delay: Duration,
    /// Packets lost, from 0 to 1.
    pub loss: f64,
}

/// Time that the queue before the line may hold, as a router's does.
const QUEUE: Duration = Duration::from_millis(60);
/// The longest packet, in bytes: the devices' MTU and room.
const PACKET: usize = 2048;

/// A line; it ends when it is dropped and its devices are gone.
#[derive(Debug)]
pub struct Link {
    stop: Arc<AtomicBool>,
}

type Packet = (Instant, Vec<u8>);

impl Link {
    /// Makes the devices `ends` and joins them.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, or not the right to use it.
    pub fn join(ends: [&str; 2], quality: Quality) -> Result<Link> {
        let stop = Arc::new(AtomicBool::new(false));
        let [one, other] = [open(ends[0])?, open(ends[1])?];
        let both = [(one.try_clone()?, other.try_clone()?), (other, one)];
        for (seed, (from, to)) in both.into_iter().enumerate() {
            // Packets are at least an IP header long; the queue is bounded by time first.
            let (sender, receiver) = sync_channel(1 << 16);
            let direction =
                Direction { quality, stop: Arc::clone(&stop), dice: 0x9e37_79b9 + seed as u64 };
            thread::Builder::new()
                .name("line-in".to_owned())
                .spawn(move || direction.take_in(from, &sender))?;
            thread::Builder::new()
                .name("line-out".to_owned())
                .spawn(move || hand_out(to, &receiver))?;
        }
        Ok(Link { stop })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Direction {
    quality: Quality,
    stop: Arc<AtomicBool>,
    dice: u64,
}

impl Direction {
    fn take_in(mut self, mut from: File, to: &SyncSender<Packet>) {
        let mut buffer = [0; PACKET];
        // When the line has passed on what it has.
        let mut free = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            // An error is a device that is gone, or not up yet.
            let Ok(length) = from.read(&mut buffer) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let now = Instant::now();
            free = free.max(now);
            if free - now > QUEUE || self.is_lost() {
                continue;
            }
            free += Duration::from_secs_f64(length as f64 * 8.0 / self.quality.rate);
            let due = free + self.quality.delay;
            if let Err(TrySendError::Disconnected(_)) =
                to.try_send((due, buffer[..length].to_vec()))
            {
                return;
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        // xorshift64
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        ((self.dice >> 11) as f64 / (1u64 << 53) as f64) < self.quality.loss
    }
}

fn hand_out(mut to: File, packets: &Receiver<Packet>) {
    while let Ok((due, packet)) = packets.recv() {
        let wait = due.saturating_duration_since(Instant::now());
        // A sleep is longer than asked for; what is nearly due goes at once.
        if wait > Duration::from_micros(150) {
            thread::sleep(wait - Duration::from_micros(80));
        }
        // A device that is gone or down loses packets, as lines do.
        let _ = to.write(&packet);
    }
}

/// `struct ifreq` as far as TUNSETIFF looks at it: name and flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

const IFF_TUN: i16 = 0x0001;
const IFF_NO_PI: i16 = 0x1000;

nix::ioctl_write_ptr_bad!(
    /// Gives a descriptor of `/dev/net/tun` its device.
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<i32>()),
    InterfaceRequest
);

/// Makes a tun device; it goes with the last descriptor.
fn open(name: &str) -> Result<File> {
    let file =
        File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request is as long as the kernel's `struct ifreq` (40 bytes), lives through the
    // call, and its name ends in a NUL byte.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }
        .with_context(|| format!("making the device {name}"))?;
    Ok(file)
}
