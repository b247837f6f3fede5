//! A copy onto a disk that holds a former version: what is alike does not come over a slow line.

use crate::keystone::{Ended, Keystone};
use crate::loopback::{self, Disk, Line, Source, Sshd};
use crate::run::run as run_command;
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::process::Command;
use std::time::Instant;

/// MiB in a version.
const SIZE: usize = 60;
/// Bytes per second of a slow line.
const SLOW: u64 = 2_500_000;

struct Bed<'a> {
    keystone: &'a Keystone,
    sshd: Sshd,
    former: Source,
    wanted: Source,
}

/// See the table of scenarios.
///
/// # Errors
/// Something was not as it should be.
pub(super) fn run(context: &Context) -> Result<()> {
    let bed = Bed {
        keystone: context.keystone()?,
        sshd: Sshd::start()?,
        former: Source::make_version(SIZE, 0)?,
        wanted: Source::make_version(SIZE, 1)?,
    };
    let whole = bed.copied("never", SLOW)?;
    let asked = bed.copied("always", 0)?;
    ensure!(asked < whole / 4, "{asked} bytes with what is held, {whole} without");
    let slow = bed.copied("auto", SLOW)?;
    ensure!(slow < whole / 2, "{slow} bytes on a slow line, {whole} without");
    let fast = bed.copied("auto", 0)?;
    ensure!(fast > whole / 2, "{fast} bytes on a fast line, {whole} without");
    Ok(())
}

impl Bed<'_> {
    /// How many bytes a copy of the wanted version sends that way.
    fn copied(&self, delta: &str, rate: u64) -> Result<u64> {
        let (line, disk) = (Line::to(&self.sshd)?, Disk::new(400)?);
        fs::create_dir_all(disk.root().join("nix/store"))?;
        run_command(
            Command::new("cp")
                .arg("-a")
                .arg(format!("{}/nix/store/.", self.former.root().display()))
                .arg(disk.root().join("nix/store")),
        )?;
        line.slow_down(rate);
        let began = Instant::now();
        self.copy(delta, &line, &disk)?;
        let (all, took) = (line.sent(), began.elapsed().as_secs_f64());
        let judged = self.wanted.judge_beside(&disk.root(), &[&self.former]);
        judged.with_context(|| format!("with --delta {delta}"))?;
        // Logging in and the agent, without anything to copy.
        line.slow_down(0);
        self.copy(delta, &line, &disk)?;
        let sent = all.saturating_sub(line.sent() - all);
        println!("--delta {delta}, {rate} B/s: {sent} bytes of the closure sent, {took:.1} s");
        Ok(sent)
    }

    fn copy(&self, delta: &str, line: &Line, disk: &Disk) -> Result<()> {
        let mut copy = loopback::copy(self.keystone, (&self.sshd, line), &self.wanted, disk)?;
        let output = copy.args(["--delta", delta]).output()?;
        Ended::from(output).ok().map(drop)
    }
}
