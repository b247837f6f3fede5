//! What is waited for, and what follows for the compression.
//!
//! From a line's rate follows how much work a byte is worth: none on a fast one, much on a slow one, and on
//! a line that is about as fast as the work, as much as there is time for.
//!
//! A rate counts only if it is the line that was waited for. The kernel tells where it can be asked. Where
//! a program or another machine is between, the sender's waits have to do: how long the connection took to
//! accept a block, how long there was no block to give it, and how long the other end did not want one.
//! There a line seems slow that is not while processors are waited for, until it gets blocks as they are.

use super::idle::Idle;
use super::level::Level;
use super::means::Means;
use crate::ssh::line::{Line, Usage};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
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
/// Below this part of the time that it carries something, a line has room for much more: it is taken for
/// that much faster than before.
const ROOMY: f64 = 0.5;
const FASTER: f64 = 1.1;
/// From this ratio on a rate was no rate that a full line had.
const MISTAKEN: f64 = 1.2;
/// From this part of the time on that the other end wants nothing, it is what is waited for.
const HELD_UP: f64 = 0.3;
/// With less than this part of what may wait for the line there, it would be idle before another block
/// is compressed; with more than the last one there is time for a better level.
const FEW: f64 = 0.1;
const SOME: f64 = 0.3;
const MANY: f64 = 0.7;
/// Below this rate one stream with a large window is worth its work, in bytes per second; on busy
/// processors, below that one, which they don't come down to by themselves.
const STREAM_BELOW: f64 = 60e6;
const BUSY_STREAM_BELOW: f64 = 20e6;
/// Less than this is not worth a stream, in bytes.
const STREAM_FROM: u64 = 4 << 20;
/// The largest window of such a stream, as a power of two: 128 MiB.
const LARGEST_WINDOW: u32 = 27;
/// A line that seems so much slower than a limit before it is known is below that.
const SURELY: f64 = 4.0;

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
    means: Means,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sent: u64,
    /// How long the connection took for all of that.
    took: Duration,
    /// Of the current span.
    span: Sent,
    since: Instant,
    /// The part of the last span that the other end wanted nothing.
    held: f64,
    /// Bytes per second, once it is known.
    rate: Option<f64>,
    /// Whether the line was full once, and what it carried is its rate.
    was_full: bool,
    /// While there is a stream.
    level: Option<Level>,
    /// What was seen after the last span.
    seen: Seen,
    /// Whether the kernel says what the line did in a span.
    told: bool,
    senses: Senses,
}

/// What can be asked.
#[derive(Debug, Default)]
pub(super) struct Senses {
    processors: Idle,
    line: Weak<Line>,
}

/// What was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The part of the processors' time that was idle since the last look.
    idle: Option<f64>,
    /// What the line did until now.
    usage: Option<Usage>,
}

#[cfg(test)]
impl Seen {
    /// Of a line that can't be asked.
    pub(super) fn idle(part: f64) -> Seen {
        Seen { idle: Some(part), usage: None }
    }
}

impl Senses {
    fn look(&mut self) -> Seen {
        let usage = self.line.upgrade().and_then(|line| line.usage());
        Seen { idle: self.processors.share(), usage }
    }
}

/// The level of a block of its own on a line of about a gigabit that is full: the better, the more waits
/// for the line. Below 1 are zstd's fast ones.
fn around_a_gigabit(ready: f64) -> i32 {
    match ready {
        r if r > MANY => 1,
        r if r > SOME => -1,
        _ => -3,
    }
}

/// A line's rate after a span in which it carried that, as the kernel says; with no stream, a line that is
/// not full may be faster than it was.
fn told(rate: Option<f64>, carried: Usage, span: Duration, stream: bool) -> f64 {
    let waited_for = carried.busy.as_secs_f64();
    let part = waited_for / span.as_secs_f64();
    let measured = carried.arrived as f64 / waited_for.max(1e-3);
    let at_least = carried.arrived as f64 / span.as_secs_f64();
    match rate {
        None if part >= FULL => measured,
        // What it carries shows once it gets more.
        None => at_least.max(RAW_FROM),
        Some(rate) if part >= FULL && rate > MISTAKEN * measured => measured,
        Some(rate) if part >= FULL => (rate + measured) / 2.0,
        Some(rate) if part < ROOMY && !stream => (rate * FASTER).max(at_least),
        Some(rate) => rate.max(at_least),
    }
}

/// The same by the sender's waits.
fn guessed(rate: Option<f64>, sent: Sent, span: Duration) -> f64 {
    // No line is faster than the first, and nothing is divided by zero.
    let at_most = sent.bytes as f64 / sent.took.as_secs_f64().max(1e-3);
    let at_least = sent.bytes as f64 / span.as_secs_f64();
    let full = sent.took.as_secs_f64() / span.as_secs_f64() >= FULL;
    match rate {
        None => at_most,
        Some(rate) if full || at_most < rate => (rate + at_most) / 2.0,
        // Where something else was waited for, the line may be no faster than it seemed before.
        Some(rate) => rate.max(at_least),
    }
}

impl Default for Pace {
    fn default() -> Self {
        Pace::over(Weak::new(), None, LARGEST_WINDOW)
    }
}

impl Pace {
    /// Of a line that can be asked, as long as it is there, and that carried so many bytes per second
    /// before, if that is known. Frames that go on over blocks have a window of at most 2^`window_log` bytes.
    pub fn over(line: Weak<Line>, rate: Option<f64>, window_log: u32) -> Pace {
        let state = State {
            sent: 0,
            took: Duration::ZERO,
            span: Sent::default(),
            since: Instant::now(),
            held: 0.0,
            rate: rate.filter(|_| line.strong_count() > 0),
            was_full: false,
            level: None,
            seen: Seen::default(),
            told: false,
            senses: Senses { line, ..Senses::default() },
        };
        Pace { means: Means::here(window_log), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a stream's compressor may use.
    pub(super) fn means(&self) -> &Means {
        &self.means
    }

    /// A block was sent.
    pub fn sent(&self, sent: Sent) {
        self.note(sent, Instant::now(), Senses::look);
    }

    /// The same at the time `now`; `look` is done once for each span, and before the first.
    pub(super) fn note(&self, sent: Sent, now: Instant, look: impl FnOnce(&mut Senses) -> Seen) {
        let mut state = self.lock();
        let state = &mut *state;
        state.sent += sent.bytes;
        state.took += sent.took;
        if state.sent <= SWALLOWED {
            (state.since, state.seen) = (now, look(&mut state.senses));
            return;
        }
        state.span.bytes += sent.bytes;
        state.span.took += sent.took;
        state.span.starved += sent.starved;
        state.span.held += sent.held;
        let span = now.duration_since(state.since);
        if span < if state.rate.is_none() { FIRST_SPAN } else { SPAN } {
            return;
        }
        let sent = std::mem::take(&mut state.span);
        state.since = now;
        let seen = look(&mut state.senses);
        let before = std::mem::replace(&mut state.seen, seen).usage;
        let carried = seen.usage.zip(before).map(|(new, old)| new.since(&old));
        let part = |time: Duration| time.as_secs_f64() / span.as_secs_f64();
        state.told = carried.is_some();
        state.held = part(sent.held);
        let rate = match carried {
            Some(carried) => told(state.rate, carried, span, state.level.is_some()),
            None => guessed(state.rate, sent, span),
        };
        state.rate = Some(rate);
        let full = carried.is_some_and(|carried| part(carried.busy) >= FULL);
        if full && !std::mem::replace(&mut state.was_full, true) && state.level.is_some() {
            // It was begun for a rate that was guessed.
            state.level = Some(Level::new(rate, self.means, now));
        }
        tracing::trace!(?span, ?sent, ?seen, rate, level = ?state.level, "pace");
        if let Some(level) = &mut state.level
            && !level.after(span, part(sent.starved), rate, now)
            && rate > STREAM_BELOW
        {
            // The line carries more than the fastest level gives: it is measured anew.
            (state.level, state.rate) = (None, None);
        }
    }

    /// The stream's compressor was waited for.
    pub(super) fn packed(&self, took: Duration) {
        if let Some(level) = &mut self.lock().level {
            level.packed(took);
        }
    }

    /// The line's rate in bytes per second, once it is known.
    pub fn rate(&self) -> Option<f64> {
        self.lock().rate
    }

    /// The same if the line was full once, so that it is no guess.
    pub fn full_rate(&self) -> Option<f64> {
        let state = self.lock();
        state.rate.filter(|_| state.was_full)
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
        let idle = state.seen.idle.filter(|_| !state.told && state.level.is_none());
        let busy = idle.is_some_and(|idle| idle < BUSY);
        let stream_below = if busy { BUSY_STREAM_BELOW } else { STREAM_BELOW };
        if state.level.is_some() || (rate < stream_below && left >= STREAM_FROM) {
            // A line that turned out to be fast needs no stream.
            if rate < 2.0 * STREAM_BELOW {
                let new = || Level::new(rate, self.means, Instant::now());
                let level = state.level.get_or_insert_with(new);
                level.filled(ready);
                return Method::Stream(level.zstd());
            }
            state.level = None;
        }
        match rate {
            r if r >= RAW_FROM => Method::Raw,
            r if r >= STREAM_BELOW => match ready {
                _ if state.told => Method::Alone(around_a_gigabit(ready)),
                _ if state.held > HELD_UP => Method::Raw,
                r if r < FEW => Method::Raw,
                r if r > MANY && !busy => Method::Alone(3),
                _ => Method::Alone(1),
            },
            _ if busy => Method::Alone(1),
            _ => Method::Alone(6),
        }
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
            pace.note(sent, *from, |_| Seen::idle(0.5));
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
            let pace = Pace { means: Means::of(2, LARGEST_WINDOW, None), ..Pace::default() };
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
        pace.note(sent, now, |_| Seen::idle(0.01));
        assert_eq!(pace.method(1 << 30, 0.9), Method::Alone(1));
        // The other end has enough to do with what it has.
        now += SPAN;
        pace.note(Sent { held: SPAN.mul_f64(0.5), ..sent }, now, |_| Seen::idle(0.5));
        assert_eq!(pace.method(1 << 30, 0.9), Method::Raw);
        // Not a stream, unless the line is so slow that it has to be the line.
        for (rate, stream) in [(50e6, false), (11.4e6, true)] {
            let pace = Pace::default();
            for _ in 0..40 {
                let took = Duration::from_secs_f64((1 << 20) as f64 / rate);
                now += took;
                let sent = Sent { bytes: 1 << 20, took, ..Sent::default() };
                pace.note(sent, now, |_| Seen::idle(0.0));
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
        let pace = Pace { means: Means::of(2, LARGEST_WINDOW, None), ..Pace::default() };
        let mut now = Instant::now();
        send(&pace, &mut now, 100, 40e6, 0.0);
        assert!(matches!(pace.method(1 << 30, 0.0), Method::Stream(_)));
        send(&pace, &mut now, 3000, 400e6, 0.6);
        assert!(!matches!(pace.method(1 << 30, 0.0), Method::Stream(_)));
    }

    /// A line that the kernel tells of: each span it carries that, in that part of the time.
    fn spans(pace: &Pace, now: &mut Instant, usage: &mut Usage, count: u32, rate: f64, part: f64) {
        for _ in 0..count {
            *now += SPAN;
            usage.arrived += (rate * SPAN.as_secs_f64()) as u64;
            usage.busy += SPAN.mul_f64(part);
            // However long the sender waited, and however busy this computer is.
            let sent = Sent { bytes: 5 << 20, took: SPAN, ..Sent::default() };
            let seen = Seen { idle: Some(0.0), usage: Some(*usage) };
            pace.note(sent, *now, |_| seen);
        }
    }

    /// A line that begins.
    fn beginning(pace: &Pace) -> (Instant, Usage) {
        let (now, usage) = (Instant::now(), Usage::default());
        let seen = Seen { idle: None, usage: Some(usage) };
        pace.note(Sent { bytes: 1, ..Sent::default() }, now, |_| seen);
        (now, usage)
    }

    #[test]
    fn a_busy_machine_is_not_a_slow_line() {
        let pace = Pace::default();
        let (now, usage) = &mut beginning(&pace);
        // It carries little because it gets little.
        spans(&pace, now, usage, 3, 90e6, 0.4);
        assert_eq!(pace.method(1 << 30, 0.0), Method::Raw);
        // It is full, whoever else is busy.
        spans(&pace, now, usage, 1, 118e6, 1.0);
        let rate = pace.rate().unwrap();
        assert!((117e6..=140e6).contains(&rate), "{rate}");
        for (ready, level) in [(0.0, -3), (0.5, -1), (0.9, 1)] {
            assert_eq!(pace.method(1 << 30, ready), Method::Alone(level), "{ready}");
        }
        // It stays as fast as it is while it gets a little less than it could carry,
        spans(&pace, now, usage, 20, 80e6, 0.7);
        assert_eq!(pace.rate(), Some(rate));
        // and is tried again when it gets much less.
        spans(&pace, now, usage, 5, 50e6, 0.4);
        assert_eq!(pace.method(1 << 30, 0.0), Method::Raw);
    }

    #[test]
    fn a_full_line_s_rate_is_known_at_once() {
        let pace = Pace { means: Means::of(2, LARGEST_WINDOW, None), ..Pace::default() };
        let (now, usage) = &mut beginning(&pace);
        spans(&pace, now, usage, 3, 1e9, 0.9);
        spans(&pace, now, usage, 1, 12e6, 1.0);
        let rate = pace.rate().unwrap();
        assert!((11.9e6..=12.1e6).contains(&rate), "{rate}");
        let method = pace.method(1 << 30, 0.0);
        assert!(matches!(method, Method::Stream(9..=10)), "{method:?}");
        // A source that stops for a while makes no line faster.
        spans(&pace, now, usage, 40, 0.0, 0.0);
        assert_eq!(pace.rate(), Some(rate));
    }
}
