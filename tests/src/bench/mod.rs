//! `cargo lab bench closure`: Keystone's closure transfer beside what others use.
//!
//! | module | job |
//! |---|---|
//! | [`closure`] | a deterministic closure, made of this machine's installed packages |
//! | [`place`] | a private root with the peers, a network of its own, fresh file systems |
//! | [`peer`] | what is measured, as command lines |
//! | [`measure`] | wall time, CPU, memory, bytes on the wire |
//! | [`judge`] | whether what arrived is what was sent, by real Nix and by `find` |
//! | [`report`] | medians and ratios |
//!
//! Every run starts on a file system that was made anew: on one whose files were removed, ext4
//! searches long for inodes that were not freed recently. Peers are interleaved, so that what
//! else the machine does spreads over all of them.

pub mod closure;
pub mod judge;
pub mod measure;
pub mod peer;
pub mod place;
pub mod report;

use crate::keystone::Keystone;
use crate::lab::{Lab, timed};
use crate::run::run;
use crate::{native, setup};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use place::Place;
use report::{Row, Table};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How fast the line is
    #[arg(long, value_enum, default_value_t = Regime::Unshaped)]
    regime: Regime,
    /// Only peers whose name contains one of these (comma separated); keystone always
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Runs of each peer, of which the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Also measure a copy with nothing to do, and one with a twentieth changed
    #[arg(long)]
    more: bool,
}

/// How fast the line between the two ends is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Regime {
    /// As fast as the machine.
    Unshaped,
    /// 1 Gbit/s, by the kernel's token bucket filter.
    Gigabit,
    /// 100 Mbit/s, by the same.
    Fast,
}

impl Regime {
    /// The rate, as `tc` takes it.
    fn rate(self) -> Option<&'static str> {
        match self {
            Regime::Unshaped => None,
            Regime::Gigabit => Some("1gbit"),
            Regime::Fast => Some("100mbit"),
        }
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

/// Packages of the root in which everything runs.
const PACKAGES: &[&str] = &[
    "iproute2", "nix-bin", "nginx-light", "openssh-client", "openssh-server", "rsync", "tar", "zstd",
];

/// Measures, and prints the table.
///
/// # Errors
/// Something could not be set up, or a result is not what was sent.
pub fn closure(options: &Options) -> Result<()> {
    setup::ensure_all()?;
    let lab = Lab::open()?;
    let keystone = Keystone::release(&native::ensure(&native::default_cache())?)?;
    let root = crate::debian::Root::new("bench", PACKAGES).build(&lab)?;
    let mut place = Place::make(&lab.dir("bench")?, &root, &keystone)?;
    let closure = closure::make(&place)?;
    println!("{closure}");
    place.line(options.regime)?;
    let wanted = |name: &str| {
        options.peers.is_empty() || options.peers.iter().any(|part| name.contains(part.as_str()))
    };
    let peers: Vec<_> = peer::all(options.regime)
        .into_iter()
        .filter(|peer| peer.name.starts_with("keystone") || wanted(peer.name))
        .collect();
    if peers.iter().any(|peer| peer.name.starts_with("http")) {
        cache(&mut place, &closure)?;
    }
    let mut table = Table::new(options.regime);
    for run in 0..options.repeat {
        for peer in &peers {
            place.fresh_target()?;
            let mut row = Row { full: measure::run(&place, &peer.command(&closure.first))?, ..Row::default() };
            if run == 0 {
                let judged = judge::same(&place, &closure.first, peer.verified);
                if let Err(error) = judged {
                    bail!("{}: what arrived is not what was sent: {error:#}", peer.name);
                }
            }
            if options.more {
                row.nothing = Some(measure::run(&place, &peer.command(&closure.first))?);
                row.changed = Some(measure::run(&place, &peer.command(&closure.second))?);
                if run == 0 {
                    judge::same(&place, &closure.second, peer.verified)?;
                }
            }
            eprintln!("{} {}: {}", run + 1, peer.name, row.full);
            table.add(peer.name, row);
        }
    }
    println!("{table}");
    Ok(())
}
