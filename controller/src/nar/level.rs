//! A stream's level: as good as the line leaves time for.
//!
//! What waits for the line tells: as long as there is much of it, a better level is tried; when it
//! becomes less, a faster one. So it also makes up for bytes that are harder to compress than others.

use std::time::{Duration, Instant};

/// zstd levels with a large window, and how fast one core is with them, in bytes per second.
/// Measured on NARs of programs and libraries.
const LEVELS: &[(i32, f64)] = &[
    (3, 140e6),
    (5, 80e6),
    (6, 52e6),
    (8, 42e6),
    (9, 35e6),
    (10, 27e6),
    (11, 21e6),
    (12, 15e6),
    (15, 8e6),
    (17, 4e6),
    (19, 2.5e6),
];
/// What compression makes of a byte, roughly.
const RATIO: f64 = 3.8;

/// How full what may wait for the line is, below which a level is too slow, and above which there is time
/// for a better one.
const SHORT: f64 = 0.4;
const PLENTY: f64 = 0.7;
/// From this part of the time without work on a level is much too slow, and from the other one on that
/// the fastest level is too slow for a line.
const TOO_SLOW: f64 = 0.08;
const OUTRUN: f64 = 0.3;
/// From this part of the time on that the compressor is waited for, it works, and has nothing to spare; a
/// better level is to leave it that much below.
const WORKING: f64 = 0.8;
const SATURATED: f64 = 0.9;
/// How long a level is kept at least before a better one, before a faster one, and before a much faster one.
const BEFORE_BETTER: Duration = Duration::from_millis(1200);
const BEFORE_FASTER: Duration = Duration::from_millis(600);
const BEFORE_MUCH_FASTER: Duration = Duration::from_millis(1000);

/// The level of a stream.
#[derive(Debug)]
pub(super) struct Level {
    cores: f64,
    /// Index in [`LEVELS`].
    at: usize,
    changed: Instant,
    /// Parts of the time since then that there was nothing to send.
    starved: f64,
    /// How long the compressor was waited for in the current span, and parts of the time since the level
    /// changed that it was.
    packing: Duration,
    packed: f64,
    /// How much of what may wait for the line does, from 0 to 1.
    filled: f64,
}

/// The highest level that keeps a line of that rate busy.
fn best(rate: f64, cores: f64) -> usize {
    let needed = rate * RATIO / cores;
    LEVELS.iter().rposition(|(_, speed)| *speed >= needed).unwrap_or(0)
}

impl Level {
    /// For a line that carries `rate` bytes per second, and so many processors' cores.
    pub(super) fn new(rate: f64, cores: f64, now: Instant) -> Level {
        let (starved, packing, packed, filled) = (0.0, Duration::ZERO, 0.0, 0.0);
        Level { cores, at: best(rate, cores), changed: now, starved, packing, packed, filled }
    }

    /// As zstd counts it.
    pub(super) fn zstd(&self) -> i32 {
        LEVELS[self.at].0
    }

    /// The compressor was waited for.
    pub(super) fn packed(&mut self, took: Duration) {
        self.packing += took;
    }

    /// So much of what may wait for the line does, from 0 to 1.
    pub(super) fn filled(&mut self, part: f64) {
        self.filled = (3.0 * self.filled + part) / 4.0;
    }

    /// After a span: there was nothing to send for the part `starved` of it, and the line carries `rate`
    /// bytes per second. `false` if the fastest level is too slow for the line.
    pub(super) fn after(&mut self, span: Duration, starved: f64, rate: f64, now: Instant) -> bool {
        self.starved = (self.starved + starved) / 2.0;
        let packed = std::mem::take(&mut self.packing).as_secs_f64() / span.as_secs_f64();
        self.packed = (3.0 * self.packed + packed.min(1.0)) / 4.0;
        let held = now.duration_since(self.changed);
        if self.at == 0 && self.starved > OUTRUN && held >= BEFORE_BETTER {
            return false;
        }
        let speed = |level: usize| LEVELS[level].1;
        // What is in the compressor goes on as it was begun, so that a level that is too high shows late
        // and stays long.
        let next = if self.starved > TOO_SLOW && held >= BEFORE_MUCH_FASTER {
            self.at.saturating_sub(if self.starved > 0.5 { 3 } else { 2 })
        } else if self.filled < SHORT && self.packed > WORKING && held >= BEFORE_FASTER {
            self.at.saturating_sub(1)
        } else if self.filled > PLENTY && self.starved < 0.02 && held >= BEFORE_BETTER {
            let better = (self.at + 1).min(best(rate, self.cores).max(self.at));
            let then = self.packed * speed(self.at) / speed(better);
            if then < SATURATED { better } else { self.at }
        } else {
            self.at
        };
        if next != self.at {
            self.packed *= speed(self.at) / speed(next);
            (self.at, self.changed, self.starved) = (next, now, 0.05);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(250);

    /// Where a level is after `spans` of a line of 11.4 MB/s, on each of which that holds.
    fn after(level: &mut Level, spans: u32, starved: f64, packed: f64, filled: f64) -> i32 {
        for _ in 0..spans {
            level.packed(SPAN.mul_f64(packed));
            for _ in 0..8 {
                level.filled(filled);
            }
            let now = level.changed + Duration::from_secs(2);
            assert!(level.after(SPAN, starved, 11.4e6, now));
        }
        level.zstd()
    }

    #[test]
    fn it_follows_what_waits_for_the_line() {
        let level = &mut Level::new(11.4e6, 2.0, Instant::now());
        let first = level.zstd();
        assert!((9..=10).contains(&first), "{first}");
        assert_eq!(after(level, 20, 0.0, 0.1, 1.0), first, "no better than the line's rate allows");
        let faster = after(level, 1, 0.0, 1.0, 0.1);
        assert_eq!(faster, first, "not before it is known that the compressor is busy");
        let faster = after(level, 8, 0.0, 1.0, 0.1);
        assert!(faster < first, "{faster}");
        assert_eq!(after(level, 9, 0.0, 1.0, 0.5), faster, "neither few nor many wait");
        assert_eq!(after(level, 9, 0.0, 1.0, 1.0), faster, "the compressor has nothing to spare");
        assert_eq!(after(level, 40, 0.0, 0.2, 1.0), first);
        let much_faster = after(level, 2, 1.0, 1.0, 0.0);
        assert!(much_faster <= 6, "{much_faster}");
    }

    #[test]
    fn the_fastest_is_too_slow_for_a_fast_line() {
        let mut level = Level::new(55e6, 1.0, Instant::now());
        assert_eq!(level.zstd(), 3);
        let later = level.changed + Duration::from_secs(3);
        assert!(level.after(SPAN, 0.5, 55e6, later), "one span is not enough");
        assert!(!level.after(SPAN, 0.5, 55e6, later));
    }
}
