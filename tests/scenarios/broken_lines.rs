//! A copy over a line that breaks or flips bits, with an agent that dies, onto a disk that is full.

use crate::keystone::{Ended, Keystone};
use crate::loopback::{self, Disk, Line, Source, Sshd, offsets};
use crate::runner::Context;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Exit codes: docs/exit-codes.md.
const TRANSFER: i32 = 74;

/// MiB in the closure.
const SIZE: usize = 60;
/// How often the line is cut.
const CUTS: usize = 20;
/// In how many bytes a bit is flipped.
const FLIPS: usize = 5;
/// What may be sent again for each cut: a block, and what sshd had not yet handed to the agent,
/// which is at most the window that OpenSSH gives a channel.
const AGAIN: u64 = (1 << 20) + (2 << 20);
/// What a connection takes beside blocks: keys, the agent's upload checked, the manifest.
const LOGIN: u64 = 64 << 10;

struct Bed<'a> {
    keystone: &'a Keystone,
    sshd: Sshd,
    source: Source,
}

impl Bed<'_> {
    fn copy(&self, line: &Line, disk: &Disk) -> Result<Command> {
        loopback::copy(self.keystone, (&self.sshd, line), &self.source, disk)
    }

    fn copied(&self, line: &Line, disk: &Disk) -> Result<Ended> {
        Ended::from(self.copy(line, disk)?.output()?).ok()
    }
}

/// See the table of scenarios.
///
/// # Errors
/// Something was not as it should be.
pub(super) fn run(context: &Context) -> Result<()> {
    let keystone = context.keystone()?;
    let bed = Bed { keystone, sshd: Sshd::start()?, source: Source::make(SIZE)? };
    let whole = uncut(&bed).context("a whole copy")?;
    killed(&bed).context("an agent that is killed")?;
    full(&bed).context("a disk that is full")?;
    cut(&bed, whole).context("a line that is cut")?;
    several(&bed, whole).context("several connections at once")?;
    flipped(&bed, whole).context("a line that flips bits")
}

/// Returns how many bytes a copy sends.
fn uncut(bed: &Bed<'_>) -> Result<u64> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
    bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    Ok(line.sent())
}

fn cut(bed: &Bed<'_>, whole: u64) -> Result<()> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
    let at = offsets(seed()?, CUTS, whole / 10 * 9);
    println!("cuts at {at:?} of {whole}");
    line.cut_at(at);
    let ended = bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    ensure!(line.left() == 0, "{} cuts were not made", line.left());
    let again = line.sent().saturating_sub(whole);
    println!("{} KiB sent again for each of {CUTS} cuts", (again >> 10) / CUTS as u64);
    let allowed = CUTS as u64 * (AGAIN + LOGIN);
    let said: Vec<&str> =
        ended.stdout.lines().filter(|line| !line.contains(r#""progress""#)).collect();
    ensure!(
        again <= allowed,
        "{again} bytes were sent again, {allowed} are allowed:\n{}",
        said.join("\n")
    );
    Ok(())
}

fn seed() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// Blocks come over all of several connections; where one of them is cut the copy goes on.
fn several(bed: &Bed<'_>, whole: u64) -> Result<()> {
    for cuts in [0, 1] {
        let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
        // So that there is time to open them.
        line.slow_down(10 << 20);
        line.cut_at(offsets(seed()?, cuts, whole / 10 * 9).into_iter().map(|at| at.max(whole / 2)));
        let mut copy = bed.copy(&line, &disk)?;
        let ended = Ended::from(copy.args(["--connections", "4"]).output()?).ok()?;
        bed.source.judge(&disk.root())?;
        let count = |what: &str| ended.stdout.lines().filter(|line| line.contains(what)).count();
        let (opened, broke) = (count(r#""count":4"#), count("reconnecting"));
        // If it was the first of them, nothing is known of the others.
        let expected = 1..=1 + cuts;
        let as_expected = expected.contains(&opened) && broke == cuts;
        ensure!(as_expected, "{cuts} cuts:\n{}", ended.stdout);
    }
    Ok(())
}

/// SSH notices each and ends the connection; nothing that was altered counts.
fn flipped(bed: &Bed<'_>, whole: u64) -> Result<()> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
    // One in each part: of two on their way at the same time the second one is not seen any more.
    let part = whole / 10 * 9 / FLIPS as u64;
    let within = offsets(seed()?, FLIPS, part / 2);
    let at: Vec<u64> = (0..).zip(within).map(|(i, offset)| i * part + offset).collect();
    println!("flips at {at:?} of {whole}");
    line.flip_at(at);
    let ended = bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    ensure!(line.left() == 0, "{} bits were not flipped", line.left());
    let broke = ended.stdout.lines().filter(|line| line.contains("reconnecting")).count();
    ensure!(broke >= FLIPS, "{FLIPS} flips broke the line {broke} times:\n{}", ended.stdout);
    Ok(())
}

fn killed(bed: &Bed<'_>) -> Result<()> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
    line.slow_down(20 << 20);
    let mut copy = bed.copy(&line, &disk)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It has to be there before it can be killed.
    let mut until = fs::metadata(&bed.keystone.agent)?.len();
    for part in 1..=3 {
        until += SIZE as u64 / 6 << 20;
        let began = Instant::now();
        while line.sent() < until && copy.try_wait()?.is_none() {
            ensure!(began.elapsed() < Duration::from_secs(120), "it does not get on");
            thread::sleep(Duration::from_millis(10));
        }
        if bed.sshd.kill("keystone-agent")? == 0 {
            copy.kill()?;
            bail!("kill {part}: no agent was there: {:?}", Ended::from(copy.wait_with_output()?));
        }
    }
    line.slow_down(0);
    Ended::from(copy.wait_with_output()?).ok()?;
    bed.source.judge(&disk.root())
}

fn full(bed: &Bed<'_>) -> Result<()> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(160)?);
    let filler = disk.root().join("filler");
    fs::write(&filler, vec![1; 110 << 20])?;
    let ended = Ended::from(bed.copy(&line, &disk)?.output()?);
    ended.refused(TRANSFER, &["No space left on device"])?;
    ensure!(!disk.root().join("nix/var/nix/db/schema").exists(), "something was registered");
    let before = line.sent();
    fs::remove_file(&filler)?;
    bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    let second = line.sent() - before;
    ensure!(second < before + (1 << 20) && second < (SIZE as u64) << 20, "all was sent again");
    Ok(())
}
