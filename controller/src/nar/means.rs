//! What compressing may take of this computer: processors, and memory.
//!
//! A stream's compressor has its window, what its threads work on, and the tables that each thread's level
//! needs: at the best level nearly as much for two threads as for the window and all else. So threads are bounded
//! ([`CORES`]), and of levels only those are taken with which the compressor stays within [`MOST`], 1 GiB, and
//! within a quarter of what is free ([`PART`]). Where that is little the window becomes smaller, and threads
//! fewer. What was measured stands in `docs/decisions/wire-format.md`.
//!
//! What all else here takes: 16 MiB of blocks that wait (`blocks`), 8 MiB that the other end may ask for again,
//! 32 MiB that are read ahead (`read`), and up to 11 MiB for each thread that compresses blocks alone.

use super::compress::JOB;
use super::level::LEVELS;
use std::fs;

/// The most processors' cores that compress: more are hardly needed for any line that is worth it, and each
/// takes memory.
pub(crate) const CORES: usize = 8;
/// The most memory that a stream's compressor takes, in bytes.
pub(super) const MOST: u64 = 1 << 30;
/// This part of the free memory it takes at most.
const PART: u64 = 4;
/// What a thread takes beside its tables: what it works on, and what comes of it.
const THREAD: u64 = 3 * JOB as u64;
/// Below these, level and window are lowered only when there is one thread.
const GOOD_LEVEL: i32 = 9;
const GOOD_WINDOW: u32 = 23;
/// The smallest window.
const LEAST_WINDOW: u32 = 20;

/// What a stream's compressor may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Means {
    /// Its threads.
    pub(super) cores: usize,
    /// Its window, as a power of two.
    pub(super) window_log: u32,
    /// Its best level, as an index in [`LEVELS`].
    pub(super) best: usize,
}

impl Means {
    /// Of this computer as it is now, for frames with a window of at most 2^`window_log` bytes.
    pub(super) fn here(window_log: u32) -> Means {
        let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text));
        Means::of(cores(), window_log, free)
    }

    /// Of a computer with so many cores, and so much free memory, in bytes; `None` where nobody can tell.
    pub(super) fn of(cores: usize, window_log: u32, free: Option<u64>) -> Means {
        let room = free.map_or(MOST, |free| MOST.min(free / PART));
        let mut means = Means { cores: cores.clamp(1, CORES), window_log, best: LEVELS.len() - 1 };
        while means.memory() > room && means.shrink() {}
        means
    }

    /// The most that the compressor takes with these, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let (cores, job) = (self.cores as u64, u64::from(JOB));
        let window = 1 << self.window_log;
        // Where in the window long matches are, and what is not taken by a thread yet.
        let all = window + window / 2 + 3 * job;
        let behind = (cores * job).saturating_sub(window);
        let tables = LEVELS[..=self.best].iter().map(|level| level.tables).max();
        all + behind + cores * (tables.unwrap_or(0) + THREAD)
    }

    /// Takes the next smaller ones; `false` if there are none.
    fn shrink(&mut self) -> bool {
        if LEVELS[self.best].zstd > GOOD_LEVEL {
            self.best -= 1;
        } else if self.window_log > GOOD_WINDOW {
            self.window_log -= 1;
        } else if self.cores > 1 {
            self.cores -= 1;
        } else if self.best > 0 {
            self.best -= 1;
        } else if self.window_log > LEAST_WINDOW {
            self.window_log -= 1;
        } else {
            return false;
        }
        true
    }
}

/// The processors' cores that are made use of.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(1, CORES)
}

/// The line `MemAvailable: N kB` of `proc_meminfo(5)`, in bytes.
fn free(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Cores, window and level that a computer gets.
    fn of(cores: usize, free: Option<u64>) -> (usize, u32, i32) {
        let means = Means::of(cores, 27, free);
        (means.cores, means.window_log, LEVELS[means.best].zstd)
    }

    #[test]
    fn what_a_computer_has_decides() {
        for (cores, free, expected) in [
            (0, None, (1, 27, 19)),
            (2, None, (2, 27, 19)),
            (4, None, (4, 27, 19)),
            (8, None, (8, 27, 17)),
            (64, None, (8, 27, 17)),
            (64, Some(64 * GIB), (8, 27, 17)),
            (8, Some(4 * GIB), (8, 27, 17)),
            (4, Some(2 * GIB), (4, 27, 12)),
            (8, Some(2 * GIB), (8, 27, 9)),
            (2, Some(GIB), (2, 26, 9)),
            (8, Some(GIB), (5, 23, 9)),
            (2, Some(GIB / 4), (1, 23, 6)),
            (2, Some(0), (1, 20, 3)),
        ] {
            assert_eq!(of(cores, free), expected, "{cores} cores, {free:?} bytes free");
        }
    }

    /// However many cores and however little memory there are, what is stated holds.
    #[test]
    fn it_is_within_what_is_stated() {
        for cores in 1..70 {
            for window_log in LEAST_WINDOW..=27 {
                for free in (0..64).map(|n| n * GIB / 4) {
                    let means = Means::of(cores, window_log, Some(free));
                    assert!((1..=CORES).contains(&means.cores) && means.window_log <= window_log);
                    let least = !Means { ..means }.shrink();
                    assert!(means.memory() <= MOST.min(free / PART) || least, "{means:?} {free}");
                }
                assert!(Means::of(cores, window_log, None).memory() <= MOST);
            }
        }
    }

    #[test]
    fn free_memory() {
        let text = "MemTotal:       24683640 kB\nMemFree: 1 kB\nMemAvailable:   16024 kB\n";
        assert_eq!(free(text), Some(16024 << 10));
        assert_eq!(free("MemTotal: 1 kB\n"), None);
        assert_eq!(free("MemAvailable: many kB\n"), None);
    }
}
