//! Medians and ratios.

use super::measure::Taken;
use super::{OURS, Regime, aims};
use std::collections::BTreeMap;
use std::fmt;

/// One run of one peer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// Onto an empty file system.
    pub full: Taken,
    /// Everything is there.
    pub nothing: Option<Taken>,
    /// A twentieth is not.
    pub changed: Option<Taken>,
}

/// All runs of all peers.
#[derive(Debug)]
pub struct Table {
    regime: Regime,
    order: Vec<&'static str>,
    rows: BTreeMap<&'static str, Vec<Row>>,
    cut: Option<(Taken, f64)>,
    idle: Vec<(f64, f64)>,
}

impl Table {
    /// An empty one.
    pub fn new(regime: Regime) -> Table {
        Table { regime, order: Vec::new(), rows: BTreeMap::new(), cut: None, idle: Vec::new() }
    }

    /// Takes a run.
    pub fn add(&mut self, peer: &'static str, row: Row) {
        if !self.order.contains(&peer) {
            self.order.push(peer);
        }
        self.rows.entry(peer).or_default().push(row);
    }

    /// Takes a run of ours that was cut in the middle, and which part of a whole one was sent
    /// again.
    pub fn cut(&mut self, taken: Taken, again: f64) {
        self.cut = Some((taken, again));
    }

    /// Takes a run of ours with nothing to do, and one of `ssh HOST true`, in seconds.
    pub fn idle(&mut self, ours: f64, login: f64) {
        self.idle.push((ours, login));
    }

    /// What a peer sends, in MB.
    pub fn wire(&self, peer: &str) -> f64 {
        self.rows.get(peer).map_or(0.0, |rows| median(rows.iter().map(|r| r.full.wire)))
    }

    /// Seconds that a peer takes until everything is on the disk.
    pub(super) fn whole(&self, peer: &str) -> Option<f64> {
        let rows = self.rows.get(peer)?;
        Some(median(rows.iter().map(|r| r.full.whole())))
    }

    /// The same for a twentieth changed.
    pub(super) fn changed(&self, peer: &str) -> Option<f64> {
        let rows: Vec<f64> =
            self.rows.get(peer)?.iter().filter_map(|r| r.changed).map(|t| t.whole()).collect();
        (!rows.is_empty()).then(|| median(rows.into_iter()))
    }

    /// The peers but ours.
    pub(super) fn others(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.order.iter().copied().filter(|name| !name.starts_with(OURS))
    }

    pub(super) fn regime(&self) -> Regime {
        self.regime
    }

    /// Which part of a whole copy was sent again after a cut.
    pub(super) fn sent_again(&self) -> Option<f64> {
        Some(self.cut?.1)
    }

    /// Seconds of ours with nothing to do, and of a login.
    pub(super) fn idle_medians(&self) -> Option<(f64, f64)> {
        let (ours, login) = self.idle.iter().copied().unzip::<f64, f64, Vec<_>, Vec<_>>();
        (!ours.is_empty()).then(|| (median(ours.into_iter()), median(login.into_iter())))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        writeln!(f, "\n{:?}, load at the end {}\n", self.regime, load.trim())?;
        writeln!(
            f,
            "| peer | n | wall + sync s (min..max) | keystone / it | sync | CPU sent | CPU received | others | MiB sent | MiB received | wire MB | nothing s | 5 % s |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        let whole = |name: &str| median(self.rows[name].iter().map(|r| r.full.whole()));
        let ours = self.order.first().map_or(0.0, |name| whole(name));
        for name in &self.order {
            let rows = &self.rows[name];
            let of = |value: &dyn Fn(&Taken) -> f64| median(rows.iter().map(|r| value(&r.full)));
            let all = || rows.iter().map(|r| r.full.whole());
            let (min, max) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
            let other =
                |of: &dyn Fn(&Row) -> Option<Taken>| match rows.iter().any(|r| of(r).is_some()) {
                    true => format!(
                        "{:.2}",
                        median(rows.iter().filter_map(|r| of(r)).map(|t| t.whole()))
                    ),
                    false => "-".to_owned(),
                };
            writeln!(
                f,
                "| {name} | {} | {:.2} ({min:.2}..{max:.2}) | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {} | {} |",
                rows.len(),
                whole(name),
                ours / whole(name),
                of(&|t| t.sync),
                of(&|t| t.cpu_sent),
                of(&|t| t.cpu_received),
                of(&|t| t.others),
                of(&|t| t.rss_sent),
                of(&|t| t.rss_received),
                of(&|t| t.wire),
                other(&|r| r.nothing),
                other(&|r| r.changed),
            )?;
        }
        if let Some((taken, again)) = &self.cut {
            writeln!(f, "\ncut in the middle: {taken}; sent again: {again:.4} of a whole copy")?;
        }
        aims::write(self, f)
    }
}
