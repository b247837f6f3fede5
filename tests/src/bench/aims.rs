//! What Keystone's copy is to reach against its peers, as ratios of time.

use super::report::Table;
use super::{OURS, Regime};
use std::fmt;

/// Peers of an aim.
enum Against {
    /// One.
    Peer(&'static str),
    /// The fastest of all that go over SSH.
    FastestOverSsh,
}

/// Ratios of time of a whole copy: against whom, and at most.
fn whole(regime: Regime) -> &'static [(Against, f64)] {
    use Against::{FastestOverSsh, Peer};
    match regime {
        Regime::Unshaped => &[
            (Peer("nix copy ssh-ng://"), 0.55),
            (FastestOverSsh, 0.80),
            (Peer("http cache, raw"), 1.0),
            (Peer("nixos-anywhere (ssh://?compress=true)"), 0.08),
        ],
        Regime::Gigabit => {
            &[(Peer("tar zstd -3"), 0.50), (Peer("nixos-anywhere (ssh://?compress=true)"), 0.09)]
        }
        Regime::Fast => &[(Peer("tar zstd -3"), 0.82), (Peer("tar zstd -9 --long=27 gcm"), 0.97)],
        Regime::Far => &[],
    }
}

/// A twentieth changed, against the fastest.
const CHANGED: f64 = 0.75;
/// Nothing to do, over a login, in seconds.
const IDLE: f64 = 0.060;
/// Part of a copy that is sent again when it was cut in the middle.
const SENT_AGAIN: f64 = 0.02;

/// Writes the aims that were measured.
pub(super) fn write(table: &Table, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "\n| aim | against | measured | at most | |\n|---|---|---|---|---|")?;
    let mut line = |aim: &str, against: &str, measured: f64, most: f64| {
        let verdict = if measured <= most { "reached" } else { "not reached" };
        writeln!(f, "| {aim} | {against} | {measured:.3} | {most} | {verdict} |")
    };
    let limit = |name: &&str| name.starts_with("limit");
    let over_ssh = |name: &&str| !name.starts_with("http") && !limit(name);
    let fastest = |of: &dyn Fn(&str) -> Option<f64>,
                   names: &mut dyn Iterator<Item = &'static str>| {
        names.filter_map(|name| Some((name, of(name)?))).min_by(|a, b| a.1.total_cmp(&b.1))
    };
    if let Some(ours) = table.whole(OURS) {
        for (against, most) in whole(table.regime()) {
            let found = match against {
                Against::Peer(name) => table.whole(name).map(|time| (*name, time)),
                Against::FastestOverSsh => {
                    fastest(&|name| table.whole(name), &mut table.others().filter(over_ssh))
                }
            };
            if let Some((name, time)) = found {
                line("whole copy", name, ours / time, *most)?;
            }
        }
    }
    if let Some(ours) = table.changed(OURS)
        && matches!(table.regime(), Regime::Unshaped | Regime::Fast)
    {
        let changed = |name: &str| table.changed(name);
        let mut peers = table.others().filter(|name| !limit(name));
        if let Some((name, time)) = fastest(&changed, &mut peers) {
            line("a twentieth changed", name, ours / time, CHANGED)?;
        }
        if let Some((name, time)) = fastest(&changed, &mut table.others().filter(over_ssh)) {
            line("a twentieth changed, over SSH", name, ours / time, CHANGED)?;
        }
    }
    if let Some((ours, login)) = table.idle_medians() {
        line("nothing to do, s more", "ssh HOST true", ours - login, IDLE)?;
    }
    if let Some(again) = table.sent_again() {
        line("cut in the middle", "bytes of a copy", again, SENT_AGAIN)?;
    }
    Ok(())
}
