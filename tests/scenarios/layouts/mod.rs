//! Layouts of disko's examples and of Keystone's modes, on one machine's disks: made by the
//! agent's steps, looked at while they are mounted, closed and proven closed; opened and mounted
//! again by such steps; and then by the tools that everyone has.
//!
//! Every layout has its verdict; the scenario goes on after a failure, and fails at its end.
//!
//! | module | job |
//! |---|---|
//! | [`words`] | the plan's words |
//! | [`again`] | from making to opening what was made |
//! | [`disko`] | disko's examples |
//! | [`documents`] | the documents themselves, by `keystone disko` |
//! | [`pools`] | Keystone's modes, and what pools can be made of |

mod again;
mod disko;
pub(super) mod documents;
mod pools;
mod words;

use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Instant;

/// The disks of the machine: serial numbers, and names in the steps.
const DISKS: [&str; 5] = ["d0", "d1", "d2", "d3", "d4"];

/// Key files of disko's tests: `lib/tests.nix`.
const KEYS: &str = "umask 077; printf secretsecret > /tmp/secret.key; \
                    printf additionalSecret > /tmp/additionalSecret.key; \
                    printf %064d 7 > /tmp/hex.key; printf 'disko-passphrase' > /tmp/passphrase";

/// A layout.
struct Made {
    /// As the example is called.
    name: &'static str,
    /// What is done to the disks, up to the proof that everything is closed.
    steps: Vec<Value>,
    /// Whether the last step fails, on purpose: then everything has to be closed all the same.
    fails: bool,
    /// A file that was made while it was mounted, and has to be there when it is mounted again.
    kept: &'static str,
    /// Shell (`set -eux`) that opens and mounts it below `/mnt` by the tools, looks at it, and
    /// closes it again.
    tools: &'static str,
}

/// disko's examples.
pub(super) fn run(cx: &Context) -> Result<()> {
    run_all(cx, "layouts-disko", disko::all())
}

/// disko's example of LUKS, LVM, RAID and ZFS on top of each other, and its failure.
pub(super) fn run_stacked(cx: &Context) -> Result<()> {
    run_all(cx, "layouts-stacked", disko::stacked())
}

/// Keystone's modes and other pools.
pub(super) fn run_pools(cx: &Context) -> Result<()> {
    run_all(cx, "layouts-pools", pools::all())
}

fn run_all(cx: &Context, name: &str, layouts: Vec<Made>) -> Result<()> {
    let example = cx.agent_example("steps")?;
    let hardware = DISKS.iter().fold(Hardware::new(name).memory(3072), |hardware, serial| {
        hardware.disk(Disk::blank(serial, 4))
    });
    let live = Live::boot(hardware, &cx.oracle()?)?;
    live.ssh.put(&example, "/run/steps")?;
    live.ssh.ok(KEYS)?;
    let mut failed = Vec::new();
    for layout in &layouts {
        let began = Instant::now();
        let outcome = one(&live, layout);
        let seconds = began.elapsed().as_secs_f32();
        match &outcome {
            Ok(()) => println!("    {}: as it says ({seconds:.1} s)", layout.name),
            Err(error) => {
                println!("    {}: FAILED ({seconds:.1} s)\n{error:#}", layout.name);
                failed.push(layout.name);
                // What it left must not be in the way of the next.
                let _ = live.ssh.run(CLEAN);
            }
        }
    }
    println!("    {} of {} layouts are as they say", layouts.len() - failed.len(), layouts.len());
    if !failed.is_empty() {
        bail!("{} failed", failed.join(", "));
    }
    timed("turn it off", || live.running.kill())
}

/// Ends whatever a layout that failed has left open.
const CLEAN: &str = "cd /; swapoff -a; umount -R /mnt; for x in 1 2; do zpool export -af; \
                     vgchange -an; mdadm --stop --scan; \
                     for m in $(dmsetup ls --target crypt | cut -f1); do cryptsetup close $m; done; \
                     done; find /mnt -xdev -mindepth 1 -depth -type d -empty -delete; udevadm settle";

fn one(live: &Live, layout: &Made) -> Result<()> {
    let said = by_us(live, &layout.steps, layout.fails).context("made, mounted, closed by us")?;
    ensure!(
        !layout.fails || said.contains("the hook by.hand of the layout failed"),
        "another failure than ours:\n{said}"
    );
    if layout.fails {
        return Ok(());
    }
    by_us(live, &again::steps(&layout.steps, layout.kept), false)
        .context("opened, mounted, closed again by us")?;
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), format!("set -eux\nmkdir -p /mnt\n{}\n", layout.tools))?;
    live.ssh.put(script.path(), "/run/tools.sh")?;
    live.ssh.ok("bash /run/tools.sh").context("opened and mounted again by the tools")?;
    closed(live).context("after the tools")
}

/// Runs steps, which have to fail or not, and have to leave nothing open either way.
fn by_us(live: &Live, steps: &[Value], fails: bool) -> Result<String> {
    let disks: Value = DISKS.iter().map(|disk| (disk.to_string(), json!(disk))).collect();
    let request = json!({"disks": disks, "password": super::steps::PASSWORD, "steps": steps});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), request.to_string())?;
    live.ssh.put(file.path(), "/run/steps.json")?;
    let ended = live.ssh.run("/run/steps /run/steps.json")?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
    ensure!(ended.status.success() != fails, "it ended with {}:\n{said}", ended.status);
    closed(live).with_context(|| format!("after it said:\n{said}"))?;
    Ok(said)
}

/// Nothing is open, by the kernel's word and the tools'.
fn closed(live: &Live) -> Result<()> {
    let open = live.ssh.ok(
        "udevadm settle; findmnt -Rno TARGET /mnt; dmsetup ls | grep -v 'No devices'; \
         ls -d /sys/block/md*/md 2>/dev/null; zpool list -H -o name; tail -n +2 /proc/swaps; true",
    )?;
    ensure!(open.is_empty(), "still open:\n{open}");
    Ok(())
}
