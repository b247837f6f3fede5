//! A stream's level: as good as the line leaves time for.
//!
//! What waits for the line tells: as long as there is much of it, a better level is tried; when it
//! becomes less, a faster one. So it also makes up for bytes that are harder to compress than others.

use super::means::Means;
use std::time::{Duration, Instant};

/// A zstd level with a large window.
#[derive(Debug)]
pub(super) struct Known {
    /// As zstd counts it.
    pub(super) zstd: i32,
    /// How fast one core is with it, in bytes per second. Measured on NARs of programs and libraries.
    speed: f64,
    /// Bytes that each thread takes for its tables.
    pub(super) tables: u64,
}

const fn known(zstd: i32, speed: f64, mib: u64) -> Known {
    Known { zstd, speed, tables: mib << 20 }
}

/// Levels from the fastest to the best.
pub(super) const LEVELS: &[Known] = &[
    known(3, 140e6, 2),
    known(5, 80e6, 4),
    known(6, 52e6, 4),
    known(8, 42e6, 6),
    known(9, 35e6, 11),
    known(10, 27e6, 21),
    known(11, 21e6, 21),
    known(12, 15e6, 41),
    known(15, 8e6, 65),
    known(17, 4e6, 50),
    known(19, 2.5e6, 82),
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
    means: Means,
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

/// The highest level that keeps a line of that rate busy, of those that there are the means for.
fn best(rate: f64, means: &Means) -> usize {
    let needed = rate * RATIO / means.cores as f64;
    LEVELS[..=means.best].iter().rposition(|level| level.speed >= needed).unwrap_or(0)
}

impl Level {
    /// For a line that carries `rate` bytes per second.
    pub(super) fn new(rate: f64, means: Means, now: Instant) -> Level {
        let (starved, packing, packed, filled) = (0.0, Duration::ZERO, 0.0, 0.0);
        Level { means, at: best(rate, &means), changed: now, starved, packing, packed, filled }
    }

    /// As zstd counts it.
    pub(super) fn zstd(&self) -> i32 {
        LEVELS[self.at].zstd
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
        let speed = |level: usize| LEVELS[level].speed;
        // What is in the compressor goes on as it was begun, so that a level that is too high shows late
        // and stays long.
        let next = if self.starved > TOO_SLOW && held >= BEFORE_MUCH_FASTER {
            self.at.saturating_sub(if self.starved > 0.5 { 3 } else { 2 })
        } else if self.filled < SHORT && self.packed > WORKING && held >= BEFORE_FASTER {
            self.at.saturating_sub(1)
        } else if self.filled > PLENTY && self.starved < 0.02 && held >= BEFORE_BETTER {
            let better = (self.at + 1).min(best(rate, &self.means).max(self.at));
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
        let level = &mut Level::new(11.4e6, Means::of(2, 27, None), Instant::now());
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
        let mut level = Level::new(55e6, Means::of(1, 27, None), Instant::now());
        assert_eq!(level.zstd(), 3);
        let later = level.changed + Duration::from_secs(3);
        assert!(level.after(SPAN, 0.5, 55e6, later), "one span is not enough");
        assert!(!level.after(SPAN, 0.5, 55e6, later));
    }

    /// However slow the line is and however much waits, no level is taken that there is no memory for.
    #[test]
    fn it_stays_within_the_means() {
        for (free, expected) in [(None, 19), (Some(1 << 30), 9), (Some(0), 3)] {
            let level = &mut Level::new(1e5, Means::of(2, 27, free), Instant::now());
            assert_eq!(level.zstd(), expected);
            for _ in 0..60 {
                level.packed(SPAN.mul_f64(0.01));
                level.filled(1.0);
                let now = level.changed + Duration::from_secs(2);
                assert!(level.after(SPAN, 0.0, 1e5, now));
            }
            assert_eq!(level.zstd(), expected);
        }
    }
}
