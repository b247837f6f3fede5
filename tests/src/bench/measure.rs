//! Wall time, CPU, memory, bytes on the wire.

use super::place::Place;
use crate::process;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::fmt;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Seconds until the command returned.
    pub wall: f64,
    /// Seconds that `syncfs` took after that.
    pub sync: f64,
    /// CPU seconds of the sending end's processes.
    pub cpu_sent: f64,
    /// CPU seconds of the receiving end's processes, sshd's included.
    pub cpu_received: f64,
    /// The largest process of the sending end, in MiB.
    pub rss_sent: f64,
    /// The largest process of the receiving end, in MiB.
    pub rss_received: f64,
    /// Bytes on the wire, both directions, in MB.
    pub wire: f64,
    /// CPU seconds that everything else on the machine took meanwhile.
    pub others: f64,
}

impl Taken {
    /// Until everything is on the disk.
    pub fn whole(&self) -> f64 {
        self.wall + self.sync
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s + {:.2} s sync, CPU {:.1} + {:.1} s (others {:.1} s), memory {:.0} + {:.0} MiB, wire {:.1} MB",
            self.wall,
            self.sync,
            self.cpu_sent,
            self.cpu_received,
            self.others,
            self.rss_sent,
            self.rss_received,
            self.wire
        )
    }
}

/// Runs a command line at the sending end.
///
/// # Errors
/// It can't be started or ends with anything but success.
pub fn run(place: &Place, script: &str) -> Result<Taken> {
    run_with(place, script, None)
}

/// The same; once `after` MB have passed the wire, the connection is cut.
///
/// # Errors
/// As [`run`], and if it was over before.
pub fn run_cut(place: &Place, script: &str, after: f64) -> Result<Taken> {
    run_with(place, script, Some(after))
}

fn run_with(place: &Place, script: &str, cut_after: Option<f64>) -> Result<Taken> {
    let sshd = place.sshd();
    let before = (children()?, waited_for(sshd)?, wire()?, busy()?);
    let (stop, was_cut) = (AtomicBool::new(false), AtomicBool::new(false));
    let began = Instant::now();
    let (output, wall, peaks) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(sshd, &stop));
        if let Some(after) = cut_after {
            let until = before.2 + (after * 1e6) as u64;
            let (stop, was_cut) = (&stop, &was_cut);
            scope.spawn(move || cut(sshd, until, stop, was_cut));
        }
        let output = place.shell(script).stdin(Stdio::null()).output();
        let wall = began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (output, wall, watch.join().unwrap_or_default())
    });
    let output = output.context("starting a peer")?;
    ensure!(
        output.status.success(),
        "{script}\nended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(cut_after.is_none() || was_cut.into_inner(), "it was over before it could be cut");
    let began = Instant::now();
    let target = fs::File::open(place.at("/bench/target"))?;
    nix::unistd::syncfs(&target)?;
    let sync = began.elapsed().as_secs_f64();
    // Sessions of sshd that are about to end.
    std::thread::sleep(Duration::from_millis(150));
    let cpu_sent = children()? - before.0;
    let cpu_received = waited_for(sshd)? - before.1;
    Ok(Taken {
        wall,
        sync,
        cpu_sent,
        cpu_received,
        rss_sent: peaks.0,
        rss_received: peaks.1,
        wire: (wire()? - before.2) as f64 / 1e6,
        others: (busy()? - before.3 - cpu_sent - cpu_received).max(0.0),
    })
}

/// Ends the sessions of an sshd, but not itself, once so many bytes have passed the wire.
fn cut(sshd: u32, until: u64, stop: &AtomicBool, was_cut: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if wire().is_ok_and(|bytes| bytes >= until) {
            for pid in process::all() {
                let session = pid != sshd && process::name(pid).starts_with("sshd");
                if session && process::ancestor(pid, &[sshd]).is_some() {
                    let pid = nix::unistd::Pid::from_raw(pid as i32);
                    // It may have ended by itself.
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    was_cut.store(true, Ordering::Relaxed);
                }
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// CPU seconds of this program's children that ended.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

/// CPU seconds of a process's children that ended (proc(5): cutime and cstime).
fn waited_for(pid: u32) -> Result<f64> {
    let fields = process::stat(pid)?;
    let ticks: f64 = [13, 14].map(|i: usize| fields[i].parse().unwrap_or(0.0)).iter().sum();
    Ok(ticks / 100.0)
}

fn wire() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let line = text.lines().find(|l| l.trim_start().starts_with("source:")).unwrap_or_default();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let bytes = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    // Received and transmitted.
    Ok(bytes(1) + bytes(9))
}

/// CPU seconds that the machine was busy, since it started.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq
    Ok([0, 1, 2, 5, 6].map(|i: usize| fields.get(i).copied().unwrap_or(0.0)).iter().sum::<f64>()
        / 100.0)
}

/// The largest process of either end, in MiB, looked at until told to stop.
fn watch(sshd: u32, stop: &AtomicBool) -> (f64, f64) {
    let mut peaks = (0.0_f64, 0.0_f64);
    let ours = std::process::id();
    while !stop.load(Ordering::Relaxed) {
        for pid in process::all() {
            let side = match process::ancestor(pid, &[sshd, ours]) {
                Some(found) if found == sshd => &mut peaks.1,
                Some(_) if pid != ours => &mut peaks.0,
                _ => continue,
            };
            *side = side.max(process::peak(pid));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    peaks
}
