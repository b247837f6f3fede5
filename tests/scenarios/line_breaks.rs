//! An installation whose line breaks amid the closure goes on by itself; one whose controller is
//! killed is closed by the machine when patience is over.

use super::installed::Installed;
use super::steps;
use crate::keystone::Request;
use crate::lab::timed;
use crate::loopback::Line;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// How long an installation may take until its closure comes, on a busy computer.
const BOUND: Duration = Duration::from_secs(600);

/// Bytes per second of the line: slow enough to cut it amid the closure.
const RATE: u64 = 8 << 20;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let hardware = Hardware::new("line-breaks").disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let line = Line::to_port(ssh.port())?;
    line.slow_down(RATE);
    let through = ssh.behind(line.port())?;
    let direct = steps::request(cx, &ssh, &medium, toplevel, &layout)?;
    let request = Request { ssh: &through, ..direct.clone() };
    let keystone = cx.keystone()?;

    timed("kill the controller amid the closure", || {
        let options = [files.outputs(), vec!["--patience".to_owned(), "5".to_owned()]].concat();
        let mut install = keystone.start_install(&request, &[], &steps::words(&options))?;
        install.wait_for(&["\"progress\"", "\"closure\""], BOUND)?;
        drop(install);
        ssh.ok("test -e /run/keystone/begun.json").context("nothing was left to go on with")?;
        let began = Instant::now();
        while ssh
            .run(
                "test -d /proc/spl/kstat/zfs/rpool || grep -qsx credstore /sys/block/dm-*/dm/name",
            )?
            .status
            .success()
        {
            ensure!(began.elapsed() < Duration::from_secs(120), "it was not closed");
            thread::sleep(Duration::from_secs(1));
        }
        ssh.ok("test ! -e /run/keystone/begun.json")
            .context("it can be gone on with, though closed")?;
        files.forget();
        Ok(())
    })?;
    timed("install over a line that is cut twice", || {
        let mut install =
            keystone.start_install(&request, &["--erase"], &steps::words(&files.outputs()))?;
        install.wait_for(&["\"progress\"", "\"closure\""], BOUND)?;
        for _ in 0..2 {
            thread::sleep(Duration::from_secs(4));
            line.cut();
        }
        line.slow_down(0);
        let ended = install.end(BOUND + super::BOOT)?.ok()?;
        let again = ended.stdout.lines().filter(|line| line.contains("\"reconnecting\"")).count();
        ensure!(again >= 2, "it connected again {again} times:\n{}", ended.stdout);
        Ok(())
    })?;
    let ssh = running.ssh(&medium.key)?;
    Installed { ssh: &ssh, toplevel, report: &files.report()?, unlock: "tpm2" }.check()?;
    running.kill()
}
