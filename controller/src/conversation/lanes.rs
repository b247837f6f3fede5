//! Further connections for blocks, where one does not fill the line.
//!
//! What one TCP connection carries is bounded by losses and by the delay: on a long line with a packet
//! lost now and then it is a part of what there is room for. Then nothing waits in the line, and the
//! time of a round trip is the shortest ever seen, however full the connection is; and either packets are
//! sent again, or a buffer of one of its ends is what is full. Further
//! connections are tried there, as long as all together carry more with them.

use super::transport::{Beside, Incoming, send_block};
use crate::ssh::exec::{Exit, Running, collect};
use crate::ssh::line::Seen;
use crate::ssh::{ConnectOptions, Destination, Session, SshError};
use keystone_protocol::message::{LANE, LANE_IS_OPEN, ToAgent, encode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How many connections carry blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Connections {
    /// More than one where one does not fill the line.
    #[default]
    Auto,
    /// So many, from the beginning.
    Exactly(usize),
}

/// The most of them.
pub const MOST: usize = 8;

impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Connections::Auto => f.write_str("auto"),
            Connections::Exactly(count) => count.fmt(f),
        }
    }
}

impl std::str::FromStr for Connections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Connections::Auto),
            (_, Ok(count @ 1..=MOST)) => Ok(Connections::Exactly(count)),
            _ => Err(format!("neither auto nor a number from 1 to {MOST}")),
        }
    }
}

/// How further connections to an agent are made: by what was given and typed for the first, without
/// asking. (An SSH agent may ask by itself.)
#[derive(Debug, Clone)]
pub struct Lanes {
    /// The machine.
    pub destination: Destination,
    /// How to connect to it.
    pub connect: ConnectOptions,
    /// The agent's file on it.
    pub program: String,
    /// How many.
    pub connections: Connections,
}

/// What is known of the way to a machine from one connection to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether one of several connections broke: it may be that the way does not bear them.
    lane_broke: AtomicBool,
    /// What a stream was carried by, in bytes per second; 0 if that is not known.
    rate: AtomicU64,
}

impl Memory {
    pub(super) fn rate(&self) -> Option<f64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0).map(|rate| rate as f64)
    }

    pub(super) fn note_rate(&self, rate: f64) {
        self.rate.store(rate as u64, Ordering::Relaxed);
    }

    /// One of several connections broke while the others were well.
    pub(super) fn note_lost_lane(&self) {
        self.lane_broke.store(true, Ordering::Relaxed);
        // That was the rate of several.
        self.rate.store(0, Ordering::Relaxed);
    }
}

/// How often it is looked what the line does.
const LOOK: Duration = Duration::from_millis(500);
/// How long a further connection may take to reach the agent, once its program was started: longer than
/// that tries, and than what waits in the first connection before the agent knows.
const REACH: Duration = Duration::from_secs(150);
/// Bound of a program's last words.
const GOODBYE: Duration = Duration::from_secs(2);

/// Opens connections while this is there; those that are open stay as long as blocks may come.
#[derive(Debug)]
pub(super) struct Attendant(JoinHandle<()>);

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lanes {
    /// Sees to it that the conversation `beside` which they are has enough of them.
    pub(super) fn attend(self, beside: Beside, memory: Arc<Memory>) -> Attendant {
        Attendant(tokio::spawn(async move {
            if memory.lane_broke.load(Ordering::Relaxed) {
                return;
            }
            match self.connections {
                Connections::Exactly(count) => drop(self.open(&beside, 1, count).await),
                Connections::Auto => self.as_needed(&beside).await,
            }
        }))
    }

    async fn as_needed(&self, beside: &Beside) {
        let mut need = Need::default();
        loop {
            sleep(LOOK).await;
            let Some(seen) = beside.line.upgrade().and_then(|line| line.seen()) else { return };
            match need.after(seen) {
                Verdict::Enough => {}
                Verdict::Never => return,
                Verdict::More { from, to } => {
                    tracing::debug!("{from} connections do not fill the line, {to} are tried");
                    if !self.open(beside, from, to).await {
                        return;
                    }
                }
            }
        }
    }

    /// Opens what is missing from `from` to `to`; whether all were. One alone first: where that does not get
    /// in, no more are tried.
    async fn open(&self, beside: &Beside, from: usize, to: usize) -> bool {
        let socket = format!("{}.lanes", self.program);
        if from == 1
            && to > 1
            && let Ok(said) = encode(&ToAgent::OpenLanes { socket: socket.clone() })
        {
            beside.say(said);
        }
        let mut open = from;
        while open < to {
            let batch = if open == from { 1 } else { to - open };
            let mut opening = JoinSet::new();
            for _ in 0..batch {
                let (lanes, socket) = (self.clone(), socket.clone());
                opening.spawn(async move { lanes.connect_one(&socket).await });
            }
            let mut opened = 0;
            while let Some(one) = opening.join_next().await {
                match one {
                    Ok(Ok((session, running))) => {
                        opened += 1;
                        if let Some(line) = beside.line.upgrade() {
                            line.join(Weak::clone(&running.line));
                        }
                        tokio::spawn(carry(session, running, beside.clone()));
                    }
                    Ok(Err(error)) => {
                        tracing::info!("no further connection: {}", crate::chain(&error));
                    }
                    Err(error) => tracing::debug!("no further connection: {error}"),
                }
            }
            open += opened;
            if opened < batch {
                break;
            }
        }
        if open > from {
            beside.tell(Incoming::Connections(open)).await;
        }
        open == to
    }

    /// One more connection, up to the agent.
    async fn connect_one(&self, socket: &str) -> Result<(Session, Running), SshError> {
        let connect = self.connect.without_prompt();
        let session = Session::connect(&self.destination, &connect).await?.as_root().await?;
        let mut running = session.start(&format!("{} {LANE} {socket}", self.program)).await?;
        let what = "reaching the agent over a further connection";
        match timeout(REACH, running.stdout.read_u8()).await {
            Ok(Ok(LANE_IS_OPEN)) => Ok((session, running)),
            Ok(_) => {
                let said = timeout(GOODBYE, collect(running.stderr, 1 << 12)).await;
                Err(SshError::Remote {
                    host: self.destination.host.clone(),
                    what: what.to_owned(),
                    status: "no answer".to_owned(),
                    stderr: String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned(),
                })
            }
            Err(_) => Err(SshError::TimedOut { what: what.to_owned(), bound: REACH }),
        }
    }
}

/// Carries blocks until the conversation ends.
async fn carry(session: Session, running: Running, mut beside: Beside) {
    let Running { mut stdin, stdout, stderr, exit, .. } = running;
    drop(stdout);
    let said = tokio::spawn(collect(stderr, 1 << 12));
    let blocks = beside.clone();
    let carried = async {
        while let Some(block) = blocks.next().await {
            send_block(&mut stdin, block).await?;
        }
        std::io::Result::Ok(())
    };
    let broke = tokio::select! {
        () = beside.ended() => None,
        ended = exit => Some(ended.unwrap_or(Exit::Lost).to_string()),
        carried = carried => carried.err().map(|error| error.to_string()),
    };
    if let Some(broke) = broke {
        let said = timeout(GOODBYE, said).await.ok().and_then(Result::ok).unwrap_or_default();
        let why = format!("{broke}: {}", String::from_utf8_lossy(&said).trim());
        beside.tell(Incoming::LaneLost(why)).await;
    }
    session.disconnect().await;
}

/// Whether more connections are needed, from looks at the line every [`LOOK`].
#[derive(Debug, Default)]
struct Need {
    last: Option<Seen>,
    /// The latest looks.
    looks: Vec<Look>,
    /// Connections beside the first.
    more: usize,
    /// Looks that do not count yet: new connections begin slowly.
    settling: usize,
    /// What was carried in as many looks before the last ones were opened.
    before: Option<u64>,
}

/// What was seen between two looks.
#[derive(Debug)]
struct Look {
    /// Bytes.
    arrived: u64,
    /// Whether the connection was full and nothing waited in the line.
    room: bool,
    packets: u32,
    /// Those sent again.
    again: u32,
    /// How long a buffer was what bounded it.
    bounded: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Enough,
    More { from: usize, to: usize },
    Never,
}

/// Looks that count together.
const LOOKS: usize = 12;
/// In how many of them there has to be room.
const ROOM_IN: usize = 10;
/// Looks until connections carry what they can: they begin slowly, or far too fast.
const SETTLING: usize = 8;
/// From this part of the time that the connection carries something on, it is full.
const FULL: f64 = 0.85;
/// Below this delay one connection fills any line.
const LONG: Duration = Duration::from_millis(5);
/// Nothing waits in the line where round trips take no longer than so much of the shortest, and this.
const UNDELAYED: f64 = 1.25;
const SLACK: Duration = Duration::from_millis(2);
/// From this part of the packets sent again on, losses may be what bounds a connection.
const LOSSY: f64 = 5e-4;
/// How many are tried at first.
const FIRST: usize = 4;
/// What so many more have to carry, for more to be tried.
const WORTH: f64 = 1.15;

impl Need {
    fn after(&mut self, seen: Seen) -> Verdict {
        let Some(last) = self.last.replace(seen) else {
            self.settling = SETTLING;
            return Verdict::Enough;
        };
        let carried = seen.usage.since(&last.usage);
        let full = carried.busy >= LOOK.mul_f64(FULL);
        let undelayed = seen.round_trip <= seen.shortest.mul_f64(UNDELAYED) + SLACK;
        if self.settling > 0 {
            self.settling -= 1;
            return Verdict::Enough;
        }
        self.looks.push(Look {
            arrived: carried.arrived,
            room: full && undelayed && seen.shortest >= LONG,
            packets: seen.packets.wrapping_sub(last.packets),
            again: seen.again.wrapping_sub(last.again),
            bounded: seen.bounded.saturating_sub(last.bounded),
        });
        if self.looks.len() > LOOKS {
            self.looks.remove(0);
        }
        if self.looks.len() < LOOKS {
            return Verdict::Enough;
        }
        let rate: u64 = self.looks.iter().map(|look| look.arrived).sum();
        if self.before.is_some_and(|before| (rate as f64) < WORTH * before as f64) {
            return Verdict::Never;
        }
        let count = |of: fn(&Look) -> u32| self.looks.iter().map(of).map(f64::from).sum::<f64>();
        let lossy = count(|look| look.again) > LOSSY * count(|look| look.packets);
        let bounded: Duration = self.looks.iter().map(|look| look.bounded).sum();
        let because = lossy || bounded > LOOK * LOOKS as u32 / 2;
        if !because || self.looks.iter().filter(|look| look.room).count() < ROOM_IN {
            return Verdict::Enough;
        }
        let from = 1 + self.more;
        let to = if from < FIRST { FIRST } else { (2 * from).min(MOST) };
        if to == from {
            return Verdict::Never;
        }
        (self.more, self.settling, self.before) = (to - 1, SETTLING, Some(rate));
        self.looks.clear();
        Verdict::More { from, to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::line::Usage;

    /// Looks at a line that carries so many bytes in each, with that delay over a shortest of 50 ms.
    fn looks(
        need: &mut Need,
        seen: &mut Seen,
        count: usize,
        bytes: u64,
        delay: u64,
    ) -> Vec<Verdict> {
        let one = |_| {
            seen.usage.arrived += bytes;
            seen.usage.busy += LOOK;
            seen.packets += 1000;
            seen.again += 5;
            seen.round_trip = Duration::from_millis(50 + delay);
            need.after(*seen)
        };
        (0..count).map(one).filter(|verdict| *verdict != Verdict::Enough).collect()
    }

    fn begin() -> (Need, Seen) {
        let (usage, delay) = (Usage::default(), Duration::from_millis(50));
        (Need::default(), Seen { usage, round_trip: delay, shortest: delay, ..Seen::default() })
    }

    #[test]
    fn more_are_tried_as_long_as_they_carry_more() {
        let (mut need, mut seen) = begin();
        let until = SETTLING + LOOKS;
        assert_eq!(looks(&mut need, &mut seen, until, 1000, 0), []);
        assert_eq!(looks(&mut need, &mut seen, 1, 1000, 5), [Verdict::More { from: 1, to: 4 }]);
        assert_eq!(looks(&mut need, &mut seen, until - 1, 4000, 0), []);
        assert_eq!(looks(&mut need, &mut seen, 1, 4000, 0), [Verdict::More { from: 4, to: MOST }]);
        assert_eq!(looks(&mut need, &mut seen, until - 1, 4100, 0), []);
        assert_eq!(looks(&mut need, &mut seen, 1, 4100, 0), [Verdict::Never]);
        // A line that gets no faster is left with what was tried.
        let (mut need, mut seen) = begin();
        let tried = looks(&mut need, &mut seen, 2 * until + 1, 1000, 0);
        assert_eq!(tried, [Verdict::More { from: 1, to: 4 }, Verdict::Never]);
    }

    #[test]
    fn a_line_that_is_full_is_left_alone() {
        let (mut need, mut seen) = begin();
        // What waits in the line delays what comes after it.
        assert_eq!(looks(&mut need, &mut seen, 40, 1000, 30), []);
        // Not always full.
        for _ in 0..10 {
            assert_eq!(looks(&mut need, &mut seen, LOOKS - 3, 1000, 0), []);
            assert_eq!(looks(&mut need, &mut seen, 3, 1000, 30), []);
        }
        // Nothing is lost, so that it is the line itself that bounds it; or a buffer.
        for (bounded, tried) in [(0, 0), (400, 1)] {
            let (mut need, mut seen) = begin();
            let mut more = 0;
            for _ in 0..SETTLING + LOOKS + 1 {
                seen.usage.busy += LOOK;
                seen.packets += 1000;
                seen.bounded += Duration::from_millis(bounded);
                more += usize::from(need.after(seen) != Verdict::Enough);
            }
            assert_eq!(more, tried, "{bounded}");
        }
        let (mut need, mut seen) = begin();
        seen.shortest = Duration::from_millis(1);
        assert_eq!(looks(&mut need, &mut seen, 40, 1000, 0), []);
    }

    #[test]
    fn how_many_is_told() {
        assert_eq!("auto".parse(), Ok(Connections::Auto));
        assert_eq!("3".parse(), Ok(Connections::Exactly(3)));
        for wrong in ["0", "9", "-1", "many", ""] {
            let error = wrong.parse::<Connections>().unwrap_err();
            assert!(error.contains("from 1 to 8"), "{error}");
        }
    }
}
