//! A copy over a line that breaks or flips bits, with an agent and an operator's
//! program that are killed, onto a disk that is full, and one whose power fails.

use crate::keystone::{Ended, Keystone};
use crate::loopback::{self, Disk, Line, Source, Sshd, offsets};
use crate::runner::Context;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::process::{Child, Command, Stdio};
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
/// What may be sent again for each cut, on average: a block, and half of what OpenSSH's window for a
/// channel lets sshd have that it did not hand to the agent yet.
const AGAIN: u64 = (1 << 20) + (1 << 20);
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

    /// Begins one and waits until the line has carried so much in all.
    fn begun(&self, line: &Line, disk: &Disk, until: u64) -> Result<Child> {
        let mut copy = self.copy(line, disk)?;
        let mut copy = copy.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait_for(line, until, &mut copy)?;
        Ok(copy)
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
    operator_killed(&bed, whole).context("an operator's program that is killed")?;
    power_lost(keystone).context("a machine whose power fails")?;
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

fn wait_for(line: &Line, until: u64, copy: &mut Child) -> Result<()> {
    let began = Instant::now();
    while line.sent() < until && copy.try_wait()?.is_none() {
        ensure!(began.elapsed() < Duration::from_secs(120), "it does not get on");
        thread::sleep(Duration::from_millis(10));
    }
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
        wait_for(&line, until, &mut copy)?;
        if bed.sshd.kill("keystone-agent")? == 0 {
            copy.kill()?;
            bail!("kill {part}: no agent was there: {:?}", Ended::from(copy.wait_with_output()?));
        }
    }
    line.slow_down(0);
    Ended::from(copy.wait_with_output()?).ok()?;
    bed.source.judge(&disk.root())
}

/// Another one goes on where it was, though the agent of the first may not know yet that it is gone.
fn operator_killed(bed: &Bed<'_>, whole: u64) -> Result<()> {
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(300)?);
    line.slow_down(20 << 20);
    let mut copy = bed.begun(&line, &disk, whole / 3 * 2)?;
    copy.kill()?;
    ensure!(!copy.wait()?.success(), "it had ended before");
    line.slow_down(0);
    bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    let again = line.sent().saturating_sub(whole);
    println!("{} KiB sent again after the operator's program was killed", again >> 10);
    // Of this one cut all of the window may have been lost.
    let allowed = AGAIN + (1 << 20) + LOGIN;
    ensure!(again <= allowed, "{again} bytes were sent again, {allowed} are allowed");
    Ok(())
}

/// MiB in the closure of the machine whose power fails.
const POWER_SIZE: usize = 200;
/// How fast that is sent, in bytes per second.
const POWER_RATE: u64 = 8 << 20;
/// What may be sent again each time: what comes in the 5 s between two checkpoints and while one is made,
/// and what waits at the agent and on its way.
const POWER_AGAIN: u64 = 6 * POWER_RATE + (20 << 20);

/// What was on the disk at a checkpoint does not come again, and what was not is not taken for whole.
fn power_lost(keystone: &Keystone) -> Result<()> {
    let bed = Bed { keystone, sshd: Sshd::start()?, source: Source::make(POWER_SIZE)? };
    let whole = {
        let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(600)?);
        bed.copied(&line, &disk)?;
        line.sent()
    };
    let (line, disk) = (Line::to(&bed.sshd)?, Disk::new(600)?);
    // The first soon after the large file, which is half of it; so that not all of that is on the disk.
    for (part, share) in [54, 30].into_iter().enumerate() {
        let until = line.sent() + whole / 100 * share;
        line.slow_down(POWER_RATE);
        let mut copy = bed.begun(&line, &disk, until)?;
        disk.power_off()?;
        copy.kill()?;
        ensure!(!copy.wait()?.success(), "power loss {part}: it had ended before");
        bed.sshd.kill("keystone-agent")?;
        disk.power_on()?;
        ensure!(!disk.root().join("nix/var/nix/db/schema").exists(), "something was registered");
    }
    line.slow_down(0);
    bed.copied(&line, &disk)?;
    bed.source.judge(&disk.root())?;
    let again = line.sent().saturating_sub(whole);
    println!("{} MiB of {} sent again after the power failed twice", again >> 20, whole >> 20);
    let allowed = 2 * (POWER_AGAIN + LOGIN);
    ensure!(again <= allowed, "{again} bytes were sent again, {allowed} are allowed");
    Ok(())
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
