//! `cargo lab bench closure`: Keystone's closure transfer beside what others use.
//!
//! | module | job |
//! |---|---|
//! | [`closure`] | a deterministic closure, made of this machine's installed packages |
//! | [`place`] | a private root with the peers, a network of its own, fresh file systems |
//! | [`link`] | a line with a rate, a delay and losses |
//! | [`peer`] | what is measured, as command lines |
//! | [`measure`] | wall time, CPU, memory, bytes on the wire |
//! | [`judge`] | whether what arrived is what was sent, by real Nix and by `find` |
//! | [`report`] | medians and ratios |
//! | [`aims`] | what the ratios are to be |
//!
//! Every run starts on a file system that was made anew: on one whose files were removed, ext4
//! searches long for inodes that were not freed recently. Peers are interleaved, so that what
//! else the machine does spreads over all of them.

pub mod aims;
pub mod closure;
pub mod judge;
pub mod link;
pub mod measure;
pub mod peer;
pub mod place;
pub mod report;

use crate::keystone::Keystone;
use crate::lab::{Lab, timed};
use crate::run::run;
use crate::{native, setup};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use link::Quality;
use peer::{Kind, Peer};
use place::Place;
use report::{Row, Table};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How fast the line is
    #[arg(long, value_enum, default_value_t = Lines::Unshaped)]
    regime: Lines,
    /// Only peers whose name contains one of these (comma separated); keystone always
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Runs of each peer, of which the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Also measure a copy with nothing to do, one with a twentieth changed, and one that is cut
    #[arg(long)]
    more: bool,
    /// TCP's congestion control at both ends; without it, what this computer's is
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
}

/// Which lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lines {
    /// As fast as the machine
    Unshaped,
    /// 1 Gbit/s
    Gigabit,
    /// 100 Mbit/s, 20 ms
    Fast,
    /// 100 Mbit/s, 100 ms, 0.5 % of the packets lost
    Far,
    /// One after the other
    All,
}

impl Lines {
    fn regimes(self) -> &'static [Regime] {
        match self {
            Lines::Unshaped => &[Regime::Unshaped],
            Lines::Gigabit => &[Regime::Gigabit],
            Lines::Fast => &[Regime::Fast],
            Lines::Far => &[Regime::Far],
            Lines::All => &[Regime::Unshaped, Regime::Gigabit, Regime::Fast, Regime::Far],
        }
    }
}

/// How fast the line between the two ends is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// As fast as the machine.
    Unshaped,
    /// 1 Gbit/s, by the kernel's token bucket filter.
    Gigabit,
    /// 100 Mbit/s, 20 ms there and back.
    Fast,
    /// 100 Mbit/s, 100 ms there and back, one packet in 200 lost.
    Far,
}

impl Regime {
    /// The rate, as `tc` takes it, where the kernel shapes.
    fn token_bucket(self) -> Option<&'static str> {
        (self == Regime::Gigabit).then_some("1gbit")
    }

    /// What a line of our own is like.
    fn quality(self) -> Option<Quality> {
        let line = |ms, loss| Quality { rate: 100e6, delay: Duration::from_millis(ms), loss };
        match self {
            Regime::Unshaped | Regime::Gigabit => None,
            Regime::Fast => Some(line(10, 0.0)),
            Regime::Far => Some(line(50, 0.005)),
        }
    }

    /// Whether peers that would take minutes are worth it.
    fn is_slow(self) -> bool {
        self.quality().is_some()
    }
}

/// Makes the binary caches that the HTTP peers pull from, unless they are there; not measured.
fn cache(place: &mut Place, closure: &closure::Made) -> Result<()> {
    for compression in ["none", "zstd"] {
        let made = place.at(&format!("/bench/cache/{compression}/made"));
        let top = &closure.second.toplevel;
        if std::fs::read_to_string(&made).unwrap_or_default() != *top {
            timed(&format!("make a binary cache ({compression})"), || {
                let copy = format!(
                    "rm -rf /bench/cache/{compression}; nix copy --from 'local?root=/bench/source' \
                     --to 'file:///bench/cache/{compression}?compression={compression}' {top} {}",
                    closure.first.toplevel
                );
                run(&mut place.shell(&copy))
            })?;
            std::fs::write(&made, top)?;
        }
    }
    place.serve_cache()
}

/// Makes the file that a limit sends, unless it is there; not measured.
fn pack(place: &Place, closure: &closure::Made, regime: Regime) -> Result<()> {
    let Some((level, file)) = peer::packed(regime) else { return Ok(()) };
    let stamp = place.at(&format!("{file}.made"));
    let closure::Part { toplevel, list, .. } = &closure.first;
    if std::fs::read_to_string(&stamp).unwrap_or_default() == *toplevel {
        return Ok(());
    }
    timed("pack the closure", || {
        let pack = format!(
            "sed s,^/,, {list} | tar -C /bench/source -cf - -T - | zstd -q {level} -T0 -f -o {file}"
        );
        run(&mut place.shell(&pack))?;
        Ok(std::fs::write(&stamp, toplevel)?)
    })
}

/// Packages of the root in which everything runs.
const PACKAGES: &[&str] = &[
    "iproute2",
    "nix-bin",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "rsync",
    "tar",
    "zstd",
];

/// Goes on in a process namespace of its own, which ends with this program, however that ends:
/// servers, mounts, namespaces and loop devices go with it.
fn enter_namespace() -> Result<()> {
    const INSIDE: &str = "KEYSTONE_LAB_BENCH_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    // The shell is the namespace's init, on which signals that are not handled have no effect.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c"]);
    command.args(["\"$@\"; exit $?", "sh"]).arg(std::env::current_exe()?);
    Err(command.args(std::env::args_os().skip(1)).env(INSIDE, "1").exec())
        .context("running unshare (util-linux)")
}

/// Measures, and prints the table.
///
/// # Errors
/// Something could not be set up, or a result is not what was sent.
pub fn closure(options: &Options) -> Result<()> {
    setup::ensure_all()?;
    enter_namespace()?;
    let lab = Lab::open()?;
    let keystone = Keystone::release(&native::ensure(&native::default_cache())?)?;
    let root = crate::debian::Root::new("bench", PACKAGES).build(&lab)?;
    let mut place = Place::make(&lab.dir("bench")?, &root, &keystone)?;
    let closure = closure::make(&place)?;
    println!("{closure}");
    let wanted = |name: &str| {
        options.peers.is_empty() || options.peers.iter().any(|part| name.contains(part.as_str()))
    };
    for &regime in options.regime.regimes() {
        place.line(regime, options.congestion.as_deref())?;
        let peers: Vec<_> = peer::all(regime)
            .into_iter()
            .filter(|peer| peer.name == OURS || wanted(peer.name))
            .collect();
        if peers.iter().any(|peer| peer.name.starts_with("http")) {
            cache(&mut place, &closure)?;
        }
        if peers.iter().any(|peer| peer.kind == Kind::Limit) {
            pack(&place, &closure, regime)?;
        }
        let table = measure_all(&place, &closure, regime, &peers, options)?;
        println!("{table}");
    }
    Ok(())
}

/// Keystone's name among the peers.
pub const OURS: &str = "keystone";

/// Runs of `keystone` and `ssh HOST true` with nothing to do.
const IDLE_RUNS: usize = 15;

/// Reads what is copied: nobody is to wait for this computer's disk, the first no more than the others.
fn warm(place: &Place) -> Result<()> {
    let read = "find /bench/source /bench/cache -type f -print0 | xargs -0 cat > /dev/null";
    run(&mut place.shell(read)).map(drop)
}

fn measure_all(
    place: &Place,
    closure: &closure::Made,
    regime: Regime,
    peers: &[Peer],
    options: &Options,
) -> Result<Table> {
    let mut table = Table::new(regime);
    warm(place)?;
    for run in 0..options.repeat {
        for peer in peers {
            place.fresh_target()?;
            let full = measure::run(place, &peer.command(&closure.first))?;
            let mut row = Row { full, ..Row::default() };
            eprintln!("{} {}: {}", run + 1, peer.name, row.full);
            let verified = match peer.kind {
                Kind::Limit => {
                    if options.more && !peer.is_fixed() {
                        row.changed = Some(measure::run(place, &peer.command(&closure.new))?);
                    }
                    table.add(peer.name, row);
                    continue;
                }
                kind => kind == Kind::Verified,
            };
            if run == 0
                && let Err(error) = judge::same(place, &closure.first, verified)
            {
                bail!("{}: what arrived is not what was sent: {error:#}", peer.name);
            }
            if options.more {
                row.nothing = Some(measure::run(place, &peer.command(&closure.first))?);
                row.changed = Some(measure::run(place, &peer.command(&closure.second))?);
                if run == 0 {
                    judge::same(place, &closure.second, verified)?;
                }
            }
            table.add(peer.name, row);
        }
    }
    if let (true, Some(ours)) = (options.more, peers.iter().find(|peer| peer.name == OURS)) {
        place.fresh_target()?;
        let command = ours.command(&closure.first);
        let whole = table.wire(OURS);
        let cut = measure::run_cut(place, &command, whole / 2.0)?;
        judge::same(place, &closure.first, true)?;
        table.cut(cut, (cut.wire - whole) / whole);
        for _ in 0..IDLE_RUNS {
            let idle = measure::run(place, &command)?;
            let login = measure::run(place, "ssh -c aes128-gcm@openssh.com target true")?;
            table.idle(idle.wall, login.wall);
        }
    }
    Ok(table)
}
