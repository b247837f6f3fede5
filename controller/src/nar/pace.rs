//! What is waited for, and what follows for the compression.
//!
//! The sender says how long the connection took to accept a block, how long there was no block to
//! give it, and how long the other end did not want one. Bytes per second of the first are the
//! line's rate: nearly without bounds as long as something else is waited for. From the rate follows
//! how much work a byte is worth. On a line that is about as fast as that work, a block is compressed
//! if enough others wait for the line meanwhile, and if it is the line that they wait for: where
//! processors are waited for, a line seems slow that is not, until it gets blocks as they are.

use super::idle::Idle;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that buffers on the way swallow at once: they say nothing of the line.
const SWALLOWED: u64 = 4 << 20;
/// What is measured at once, at least; and at first, so that little is sent before it is known how.
const SPAN: Duration = Duration::from_millis(250);
const FIRST_SPAN: Duration = Duration::from_millis(80);
/// From this rate on compressing takes longer than sending, in bytes per second: whatever is faster
/// than a line of 1 Gbit/s.
const RAW_FROM: f64 = 140e6;
/// Below this part of idle time the processors are what is waited for.
const BUSY: f64 = 0.05;
/// From this part of the time on that the line is waited for, its rate is what gets through.
const FULL: f64 = 0.85;
/// From this part of the time on that the other end wants nothing, it is what is waited for.
const HELD_UP: f64 = 0.3;
/// With less than this part of what may wait for the line there, it would be idle before another block
/// is compressed; with more than the second one there is time for a better level.
const FEW: f64 = 0.1;
const MANY: f64 = 0.7;
/// Below this rate one stream with a large window is worth its work, in bytes per second; on busy
/// processors, below that one, which they don't come down to by themselves.
const STREAM_BELOW: f64 = 60e6;
const BUSY_STREAM_BELOW: f64 = 20e6;
/// Less than this is not worth a stream, in bytes.
const STREAM_FROM: u64 = 4 << 20;
/// From this part of the time without work on, at the fastest level, a line is too fast for a stream.
const OUTRUN: f64 = 0.3;
/// From this part of the time on that the compressor is waited for, it has nothing to spare; a better
/// level is to leave it this much below.
const SATURATED: f64 = 0.9;
/// The part of the time without work from which on a level is too slow.
const TOO_SLOW: f64 = 0.08;
/// A line that seems so much slower than a limit before it is known is below that.
const SURELY: f64 = 4.0;
/// How long a level is kept at least.
const HELD: Duration = Duration::from_millis(1500);

/// zstd levels with a large window, and how fast one core is with them, in bytes per second.
/// Measured on NARs of programs and libraries; only where to begin depends on them.
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
/// What compression makes of a byte, roughly, when the level to begin with is chosen.
const RATIO: f64 = 3.8;

/// How a piece is to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Raw,
    /// As a zstd frame of its own.
    Alone(i32),
    /// As a part of one long zstd frame.
    Stream(i32),
}

/// What a block took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Bytes that were sent.
    pub bytes: u64,
    /// How long the connection took to accept them.
    pub took: Duration,
    /// How long there was nothing to send before.
    pub starved: Duration,
    /// How long the other end wanted nothing before.
    pub held: Duration,
}

/// Measures, and decides.
#[derive(Debug)]
pub struct Pace {
    cores: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sent: u64,
    /// How long the connection took for all of that.
    took: Duration,
    /// What was sent in the current span, and what that was waited for.
    bytes: u64,
    sending: Duration,
    starving: Duration,
    holding: Duration,
    /// The part of the last span that the other end wanted nothing.
    held: f64,
    since: Instant,
    /// Bytes per second, once it is known.
    rate: Option<f64>,
    /// Index in [`LEVELS`], while there is a stream.
    level: Option<usize>,
    changed: Instant,
    /// Parts of the time since then that there was nothing to send.
    starved: f64,
    /// How long the stream's compressor was waited for in the current span, and parts of the time
    /// since the level changed that it was.
    packing: Duration,
    packed: f64,
    /// What part of the processors' time was idle in the last span.
    idle: Option<f64>,
    processors: Idle,
}

impl Default for Pace {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let now = Instant::now();
        let state = State {
            sent: 0,
            took: Duration::ZERO,
            bytes: 0,
            sending: Duration::ZERO,
            starving: Duration::ZERO,
            holding: Duration::ZERO,
            held: 0.0,
            since: now,
            rate: None,
            level: None,
            changed: now,
            starved: 0.0,
            packing: Duration::ZERO,
            packed: 0.0,
            idle: None,
            processors: Idle::default(),
        };
        Pace { cores: cores as f64, state: Mutex::new(state) }
    }
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was sent.
    pub fn sent(&self, sent: Sent) {
        self.note(sent, Instant::now(), Idle::share);
    }

    /// The same at the time `now`; `idle` is asked once for each span.
    pub(super) fn note(
        &self,
        sent: Sent,
        now: Instant,
        idle: impl FnOnce(&mut Idle) -> Option<f64>,
    ) {
        let Sent { bytes, took, starved, held } = sent;
        let mut state = self.lock();
        state.sent += bytes;
        state.took += took;
        if state.sent <= SWALLOWED {
            state.since = now;
            return;
        }
        state.bytes += bytes;
        state.sending += took;
        state.starving += starved;
        state.holding += held;
        let span = now.duration_since(state.since);
        let enough = if state.rate.is_none() { FIRST_SPAN } else { SPAN };
        if span < enough {
            return;
        }
        state.idle = idle(&mut state.processors);
        // No line is faster than the first, and nothing is divided by zero.
        let at_most = state.bytes as f64 / state.sending.as_secs_f64().max(1e-3);
        let at_least = state.bytes as f64 / span.as_secs_f64();
        let waited_for = state.sending.as_secs_f64() / span.as_secs_f64() >= FULL;
        state.rate = Some(match state.rate {
            None => at_most,
            Some(rate) if waited_for || at_most < rate => (rate + at_most) / 2.0,
            // Where something else was waited for, the line may be no faster than it seemed before.
            Some(rate) => rate.max(at_least),
        });
        let starved = state.starving.as_secs_f64() / span.as_secs_f64();
        state.starved = (state.starved + starved) / 2.0;
        let packed =
            (std::mem::take(&mut state.packing).as_secs_f64() / span.as_secs_f64()).min(1.0);
        state.packed = (3.0 * state.packed + packed) / 4.0;
        (state.bytes, state.sending) = (0, Duration::ZERO);
        state.held = state.holding.as_secs_f64() / span.as_secs_f64();
        (state.starving, state.holding) = (Duration::ZERO, Duration::ZERO);
        state.since = now;
        self.adjust(&mut state, now);
    }

    /// The stream's compressor was waited for.
    pub(super) fn packed(&self, took: Duration) {
        self.lock().packing += took;
    }

    /// A stream's level follows what is waited for.
    fn adjust(&self, state: &mut State, now: Instant) {
        let Some(level) = state.level else { return };
        if now.duration_since(state.changed) < HELD {
            return;
        }
        let fast = state.rate.is_some_and(|rate| rate > STREAM_BELOW);
        if level == 0 && fast && state.starved > OUTRUN {
            // The line carries more than the fastest level gives: it is measured anew.
            (state.level, state.rate) = (None, None);
            return;
        }
        // How fast it has to be, by the speed of the levels; what is in the compressor already goes on
        // as it was begun, so that a level that is too high shows late and stays long.
        let speed = |level: usize| LEVELS[level].1;
        let next = if state.starved > TOO_SLOW {
            let needed = speed(level) / (1.0 - state.starved.min(0.75));
            let fast_enough = |level: &usize| speed(*level) >= needed;
            (0..level).rev().find(fast_enough).unwrap_or(0)
        } else {
            let better = (level + 1).min(LEVELS.len() - 1);
            let then = state.packed * speed(level) / speed(better);
            if state.starved < 0.02 && then < SATURATED { better } else { level }
        };
        if next != level {
            state.packed *= speed(level) / speed(next);
            (state.level, state.changed, state.starved) = (Some(next), now, 0.05);
        }
    }

    /// The line's rate in bytes per second, once it is known.
    pub fn rate(&self) -> Option<f64> {
        self.lock().rate
    }

    /// Whether the line carries less than `limit` bytes per second; none as long as nobody can tell.
    pub fn is_below(&self, limit: f64) -> Option<bool> {
        let state = self.lock();
        // What buffers swallow makes a line seem faster; slower it seems for a moment only.
        let at_most = limit / SURELY * state.took.as_secs_f64();
        let surely = state.took >= SPAN && (state.sent as f64) < at_most;
        match state.rate {
            Some(rate) => Some(rate < limit),
            None => surely.then_some(true),
        }
    }

    /// How to encode the next piece. `left` is what is still to come, in bytes; `ready` says
    /// how much of what may wait for the connection does, from 0 to 1.
    pub fn method(&self, left: u64, ready: f64) -> Method {
        let mut state = self.lock();
        let Some(rate) = state.rate else { return Method::Alone(1) };
        // What waits does so for a processor, also of the other end, if that is here. (A stream
        // keeps them busy itself.)
        let busy = state.level.is_none() && state.idle.is_some_and(|idle| idle < BUSY);
        let stream_below = if busy { BUSY_STREAM_BELOW } else { STREAM_BELOW };
        if state.level.is_some() || (rate < stream_below && left >= STREAM_FROM) {
            // A line that turned out to be fast needs no stream.
            if rate < 2.0 * STREAM_BELOW {
                let level = *state.level.get_or_insert_with(|| self.first_level(rate));
                return Method::Stream(LEVELS[level].0);
            }
            state.level = None;
        }
        match rate {
            r if r >= RAW_FROM => Method::Raw,
            r if r >= STREAM_BELOW => match ready {
                _ if state.held > HELD_UP => Method::Raw,
                r if r < FEW => Method::Raw,
                r if r > MANY && !busy => Method::Alone(3),
                _ => Method::Alone(1),
            },
            _ if busy => Method::Alone(1),
            _ => Method::Alone(6),
        }
    }

    /// The highest level that keeps a line of that rate busy.
    fn first_level(&self, rate: f64) -> usize {
        let needed = rate * RATIO / self.cores;
        LEVELS.iter().rposition(|(_, speed)| *speed >= needed).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `mib` MiB at `rate` bytes per second, with that part of the time without work.
    fn send(pace: &Pace, from: &mut Instant, mib: u64, rate: f64, starved: f64) {
        for _ in 0..mib {
            let took = Duration::from_secs_f64((1 << 20) as f64 / rate);
            let idle = took.mul_f64(starved / (1.0 - starved));
            *from += took + idle;
            let sent = Sent { bytes: 1 << 20, took, starved: idle, ..Sent::default() };
            pace.note(sent, *from, |_| Some(0.5));
        }
    }

    #[test]
    fn the_line_decides() {
        let cases: [(f64, fn(Method) -> bool); 4] = [
            (400e6, |m| m == Method::Raw),
            (118e6, |m| matches!(m, Method::Alone(1..=3))),
            (11.4e6, |m| matches!(m, Method::Stream(9..=10))),
            (1.1e6, |m| matches!(m, Method::Stream(17..=19))),
        ];
        for (rate, expected) in cases {
            let pace = Pace { cores: 2.0, ..Pace::default() };
            assert_eq!(pace.method(1 << 30, 0.5), Method::Alone(1));
            let mut now = Instant::now();
            send(&pace, &mut now, 4, 1e12, 0.0);
            send(&pace, &mut now, 200, rate, 0.0);
            let method = pace.method(1 << 30, 0.5);
            assert!(expected(method), "{rate}: {method:?}");
        }
    }

    #[test]
    fn what_is_waited_for_decides() {
        let pace = Pace::default();
        let mut now = Instant::now();
        send(&pace, &mut now, 200, 118e6, 0.0);
        for (ready, wanted) in
            [(0.0, Method::Raw), (0.3, Method::Alone(1)), (0.9, Method::Alone(3))]
        {
            assert_eq!(pace.method(1 << 30, ready), wanted, "{ready}");
        }
        // Processors that have nothing to spare get no more to do than has to be.
        now += SPAN;
        let sent = Sent { bytes: 1 << 20, took: Duration::from_millis(9), ..Sent::default() };
        pace.note(sent, now, |_| Some(0.01));
        assert_eq!(pace.method(1 << 30, 0.9), Method::Alone(1));
        // The other end has enough to do with what it has.
        now += SPAN;
        pace.note(Sent { held: SPAN.mul_f64(0.5), ..sent }, now, |_| Some(0.5));
        assert_eq!(pace.method(1 << 30, 0.9), Method::Raw);
        // Not a stream, unless the line is so slow that it has to be the line.
        for (rate, stream) in [(50e6, false), (11.4e6, true)] {
            let pace = Pace::default();
            for _ in 0..40 {
                let took = Duration::from_secs_f64((1 << 20) as f64 / rate);
                now += took;
                let sent = Sent { bytes: 1 << 20, took, ..Sent::default() };
                pace.note(sent, now, |_| Some(0.0));
            }
            let method = pace.method(1 << 30, 0.5);
            assert_eq!(matches!(method, Method::Stream(_)), stream, "{rate}: {method:?}");
        }
    }

    /// That a line is slow shows before it is known how slow.
    #[test]
    fn a_slow_line_is_found_soon() {
        let (slow, fast) = (Pace::default(), Pace::default());
        let mut now = Instant::now();
        assert_eq!(slow.is_below(40e6), None);
        send(&slow, &mut now, 2, 5e6, 0.0);
        assert_eq!((slow.is_below(40e6), slow.rate()), (Some(true), None));
        send(&fast, &mut now, 2, 100e6, 0.0);
        assert_eq!(fast.is_below(40e6), None);
        send(&fast, &mut now, 200, 100e6, 0.0);
        assert_eq!(fast.is_below(40e6), Some(false));
    }

    /// Blocks that are compressed too slowly for a line get through at once, which says nothing of it.
    #[test]
    fn a_line_that_is_not_full_seems_no_faster() {
        let pace = Pace::default();
        let mut now = Instant::now();
        send(&pace, &mut now, 200, 118e6, 0.0);
        let full = pace.rate().unwrap();
        send(&pace, &mut now, 200, 2e9, 0.95);
        assert_eq!(pace.rate(), Some(full));
        // Until more gets through than it was thought to carry.
        send(&pace, &mut now, 900, 2e9, 0.5);
        assert!(pace.rate().unwrap() > 900e6);
        send(&pace, &mut now, 900, 118e6, 0.0);
        assert!(pace.rate().unwrap() < 140e6);
    }

    /// A line that was slow for a moment outruns the fastest level, and is measured anew.
    #[test]
    fn a_line_that_recovers_needs_no_stream() {
        let pace = Pace { cores: 2.0, ..Pace::default() };
        let mut now = Instant::now();
        send(&pace, &mut now, 100, 40e6, 0.0);
        assert!(matches!(pace.method(1 << 30, 0.0), Method::Stream(_)));
        send(&pace, &mut now, 3000, 400e6, 0.6);
        assert!(!matches!(pace.method(1 << 30, 0.0), Method::Stream(_)));
    }

    #[test]
    fn a_level_that_is_too_slow_is_left() {
        let pace = Pace { cores: 2.0, ..Pace::default() };
        let mut now = Instant::now();
        send(&pace, &mut now, 20, 11.4e6, 0.0);
        let Method::Stream(first) = pace.method(1 << 30, 0.0) else { panic!() };
        send(&pace, &mut now, 100, 11.4e6, 0.5);
        let Method::Stream(lower) = pace.method(1 << 30, 0.0) else { panic!() };
        assert!(lower < first);
        // A better one is left alone, too, if the compressor could not keep up with it.
        for _ in 0..300 {
            pace.packed(Duration::from_secs_f64(0.8 * (1 << 20) as f64 / 11.4e6));
            send(&pace, &mut now, 1, 11.4e6, 0.0);
        }
        assert_eq!(pace.method(1 << 30, 0.0), Method::Stream(lower));
        send(&pace, &mut now, 300, 11.4e6, 0.0);
        let Method::Stream(higher) = pace.method(1 << 30, 0.0) else { panic!() };
        assert!(higher > lower);
    }
}
