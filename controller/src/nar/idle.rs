//! How much of this computer's processors' time nobody used.

use std::fs;

/// Since the last look.
#[derive(Debug, Default)]
pub(super) struct Idle {
    before: Option<Times>,
}

/// Clock ticks since the system started, over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    idle: u64,
    all: u64,
}

impl Idle {
    /// The part that was idle since the last call, from 0 to 1; `None` the first time, and where
    /// the system does not say it.
    pub(super) fn share(&mut self) -> Option<f64> {
        let now = Times::parse(&fs::read_to_string("/proc/stat").ok()?)?;
        let before = self.before.replace(now)?;
        let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
        Some(now.idle.saturating_sub(before.idle) as f64 / all as f64)
    }
}

impl Times {
    /// The line `cpu  user nice system idle iowait irq softirq steal …` of `proc_stat(5)`. Time
    /// stolen by a hypervisor counts as used; guests' time is part of user's.
    fn parse(stat: &str) -> Option<Times> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let idle = fields.get(3)? + fields.get(4)?;
        Some(Times { idle, all: fields.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let stat = "cpu  10 1 5 70 4 0 2 8 3 0\ncpu0 10 1 5 70 4 0 2 8 3 0\n";
        assert_eq!(Times::parse(stat), Some(Times { idle: 74, all: 100 }));
        assert_eq!(Times::parse("intr 1\n"), None);
        assert_eq!(Times::parse("cpu  1 2\n"), None);
    }

    #[test]
    fn a_share_of_what_passed() {
        let mut idle = Idle::default();
        assert_eq!(idle.share(), None);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let share = idle.share().expect("ticks pass");
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
