//! Medians and ratios.

use super::Regime;
use super::measure::Taken;
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
}

impl Table {
    /// An empty one.
    pub fn new(regime: Regime) -> Table {
        Table { regime, order: Vec::new(), rows: BTreeMap::new() }
    }

    /// Takes a run.
    pub fn add(&mut self, peer: &'static str, row: Row) {
        if !self.order.contains(&peer) {
            self.order.push(peer);
        }
        self.rows.entry(peer).or_default().push(row);
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
            let other = |of: &dyn Fn(&Row) -> Option<Taken>| match rows.iter().any(|r| of(r).is_some()) {
                true => format!("{:.2}", median(rows.iter().filter_map(|r| of(r)).map(|t| t.whole()))),
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
        Ok(())
    }
}
