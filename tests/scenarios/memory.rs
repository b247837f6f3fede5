//! What a copy's two programs take of memory, whatever is copied: a file of 4 GiB, over a line on which
//! nothing is compressed, and over one on which a long frame is, of bytes that become hardly any.

use crate::keystone::Ended;
use crate::loopback::{self, Disk, Line, Source, Sshd};
use crate::process;
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// Of the file, in MiB.
const FILE: u64 = 4 << 10;
/// What the agent may take, in MiB, beside the window of a frame that goes on over blocks.
const AGENT: f64 = 96.0;
/// That window, in MiB, on a computer with 2 GiB of memory or more.
const WINDOW: f64 = 128.0;
/// What the controller may take, in MiB, beside its compressor.
const CONTROLLER: f64 = 192.0;
/// Of a line on which all is compressed, in bytes per second.
const SLOW: u64 = 6 << 20;

/// What its compressor may take, in MiB, with so many threads: docs/decisions/wire-format.md.
fn compressor(threads: usize) -> f64 {
    let window_and_input = 128 + 64 + 24;
    (window_and_input + threads * (24 + 82)).min(1024) as f64
}

/// See the table of scenarios.
///
/// # Errors
/// Something was not as it should be.
pub(super) fn run(context: &Context) -> Result<()> {
    let keystone = context.keystone()?;
    let (sshd, source) = (Sshd::start()?, Source::with_one_file_of(FILE)?);
    let compressor = compressor(thread::available_parallelism()?.get());
    for (what, rate, window, compressor) in
        [("as fast as it can be", 0, 0.0, 0.0), ("slow", SLOW, WINDOW, compressor)]
    {
        let (line, disk) = (Line::to(&sshd)?, Disk::new(FILE + 512)?);
        line.slow_down(rate);
        let mut copy = loopback::copy(keystone, (&sshd, &line), &source, &disk)?;
        let mut copy = copy.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (mut agent, mut controller) = (0.0_f64, 0.0_f64);
        while copy.try_wait()?.is_none() {
            controller = controller.max(process::peak(copy.id()));
            for pid in sshd.running("keystone-agent") {
                agent = agent.max(process::peak(pid));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ended::from(copy.wait_with_output()?).ok()?;
        source.judge(&disk.root()).with_context(|| format!("a line that is {what}"))?;
        println!("a line that is {what}: agent {agent:.0} MiB, controller {controller:.0} MiB");
        ensure!(agent > 0.0 && controller > 0.0, "nobody was seen at work");
        ensure!(agent <= AGENT + window, "the agent took more than {AGENT} + {window} MiB");
        ensure!(
            controller <= CONTROLLER + compressor,
            "the controller took more than {CONTROLLER} + {compressor:.0} MiB"
        );
    }
    Ok(())
}
