//! Sends the closure's blocks: within the agent's credit, and again what arrived damaged.
//!
//! An agent that hears nothing for two minutes takes the connection for broken. A path that is gone on with is
//! read from its beginning where its source can't begin elsewhere (a compressed file, a path that has to prove
//! itself), which may take longer: so while there is no block but the source gets on, one that brings nothing is
//! sent now and then ([`Block::nothing`]). Of a source that gives nothing at all nobody says that it lives.

use super::lanes::Memory;
use crate::closure::ClosureSource;
use crate::nar::{Block, BlockError, Blocks, Item, Known, Pace, Sent};
use crate::ssh::line::Line;
use bytes::Bytes;
use keystone_protocol::frame::Encoding;
use keystone_protocol::message::{ToAgent, encode};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What the agent has said of what it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// Blocks with lower numbers arrived whole.
    pub(super) whole: u64,
    /// Bytes that may be sent.
    pub(super) bytes: u64,
}

/// What is sent.
pub(super) struct Sending {
    pub(super) source: Arc<dyn ClosureSource>,
    pub(super) items: Vec<Item>,
    /// Bytes that may be sent at first.
    pub(super) credit: u64,
    pub(super) window_log: u32,
    /// What the agent holds already.
    pub(super) known: Arc<Known>,
    /// Where blocks go.
    pub(super) blocks: mpsc::Sender<Block>,
    /// Where it is said that the source failed.
    pub(super) control: mpsc::UnboundedSender<Bytes>,
    /// What can be asked of the line, if it is one.
    pub(super) line: Weak<Line>,
}

/// A stream of blocks that is being sent; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    task: JoinHandle<()>,
    credit: watch::Sender<Credit>,
    again: mpsc::UnboundedSender<u64>,
    known: Arc<Known>,
    pace: Arc<Pace>,
    memory: Arc<Memory>,
}

impl Stream {
    /// Starts sending; what the line is like is known from `memory`, and left there.
    pub(super) fn start(sending: Sending, memory: Arc<Memory>) -> Stream {
        let (credit, credits) = watch::channel(Credit { whole: 0, bytes: sending.credit });
        let (again, agains) = mpsc::unbounded_channel();
        let control = sending.control.clone();
        let known = Arc::clone(&sending.known);
        let line = Weak::clone(&sending.line);
        let pace = Arc::new(Pace::over(line, memory.rate(), sending.window_log));
        let paced = Arc::clone(&pace);
        let task = tokio::spawn(async move {
            let sent = Sender::send_all(sending, paced, credits, agains).await;
            let Err(error) = sent else { return };
            let message = crate::chain(&error);
            match encode(&ToAgent::SourceFailed { message }) {
                Ok(bytes) => drop(control.send(Bytes::copy_from_slice(&bytes.0))),
                Err(e) => tracing::error!("{e}"),
            }
        });
        Stream { task, credit, again, known, pace, memory }
    }

    /// The agent took more.
    pub(super) fn credit(&self, credit: Credit) {
        self.credit.send_replace(credit);
    }

    /// What the agent holds.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// A block arrived damaged, or what it is made of is not there any more.
    pub(super) fn send_again(&self, number: u64) {
        // Nobody hears it if sending has failed, which the agent was told.
        let _ = self.again.send(number);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(rate) = self.pace.full_rate() {
            self.memory.note_rate(rate);
        }
        self.task.abort();
    }
}

struct Sender {
    blocks: mpsc::Sender<Block>,
    credits: watch::Receiver<Credit>,
    agains: mpsc::UnboundedReceiver<u64>,
    /// Blocks that were sent and may be asked for again, and the first one's number.
    kept: VecDeque<Block>,
    first: u64,
    sent: u64,
    known: Arc<Known>,
    /// NAR bytes that no block was sent for yet.
    left: u64,
    /// The path of the last block and its position there, and whether a frame goes on behind it.
    at: (u32, u64),
    amid_frame: bool,
}

/// Nobody is there any more, or nothing can be done.
enum End {
    Gone,
    Failed(BlockError),
}

impl Sender {
    async fn send_all(
        sending: Sending,
        pace: Arc<Pace>,
        credits: watch::Receiver<Credit>,
        agains: mpsc::UnboundedReceiver<u64>,
    ) -> Result<(), BlockError> {
        let Sending { source, items, known, blocks, .. } = sending;
        let left = items.iter().map(|item| item.info.nar_size - item.from).sum();
        let at = items.first().map_or((0, 0), |item| (item.index, item.from));
        let mut stream = Blocks::start(source, items, Arc::clone(&pace), Arc::clone(&known))?;
        let mut sender = Sender {
            blocks,
            credits,
            agains,
            kept: VecDeque::new(),
            first: 0,
            sent: 0,
            known,
            left,
            at,
            amid_frame: false,
        };
        match sender.run(&mut stream, &pace).await {
            Ok(()) | Err(End::Gone) => Ok(()),
            Err(End::Failed(error)) => Err(error),
        }
    }

    async fn run(&mut self, stream: &mut Blocks, pace: &Pace) -> Result<(), End> {
        loop {
            let began = Instant::now();
            let Some(block) = self.next(stream).await? else { break };
            let starved = began.elapsed().min(LONGEST);
            let began = Instant::now();
            self.wait_for_credit(block.cost()).await?;
            let held = began.elapsed();
            let began = Instant::now();
            let bytes = block.data.len() as u64;
            self.send(block).await?;
            pace.sent(Sent { bytes, took: began.elapsed(), starved, held });
            self.forget();
        }
        // What was sent may still be asked for again.
        while let Some(number) = self.agains.recv().await {
            self.repeat(number).await?;
        }
        Ok(())
    }

    /// The next block; while there is none, what was asked for again and signs of life are sent.
    async fn next(&mut self, stream: &mut Blocks) -> Result<Option<Block>, End> {
        let mut given = stream.given();
        loop {
            tokio::select! {
                biased;
                number = self.agains.recv() => self.repeat(number.ok_or(End::Gone)?).await?,
                block = stream.next() => return block.transpose().map_err(End::Failed),
                () = sleep(SIGN_OF_LIFE) => {
                    let before = std::mem::replace(&mut given, stream.given());
                    if given != before {
                        self.sign_of_life().await?;
                    }
                }
            }
        }
    }

    /// Sends a block that brings nothing, if the other end waits for blocks.
    async fn sign_of_life(&mut self) -> Result<(), End> {
        let block = Block::nothing(self.at, self.amid_frame).map_err(End::Failed)?;
        let may = self.sent + block.cost() <= self.credits.borrow().bytes;
        if self.left > 0 && may { self.send(block).await } else { Ok(()) }
    }

    /// Sends the next block, and keeps it.
    async fn send(&mut self, mut block: Block) -> Result<(), End> {
        let what = block.what;
        self.sent += block.cost();
        self.left = self.left.saturating_sub(what.raw_len.into());
        self.at = (what.path, what.offset);
        if let Encoding::Stream { end } = what.encoding {
            self.amid_frame = !end;
        }
        block.number(self.first + self.kept.len() as u64);
        self.kept.push_back(block.clone());
        self.blocks.send(block).await.map_err(|_| End::Gone)
    }

    /// Drops what arrived whole.
    fn forget(&mut self) {
        let whole = self.credits.borrow().whole;
        while self.first < whole && self.kept.pop_front().is_some() {
            self.first += 1;
        }
    }

    async fn wait_for_credit(&mut self, bytes: u64) -> Result<(), End> {
        while self.sent + bytes > self.credits.borrow_and_update().bytes {
            self.forget();
            tokio::select! {
                biased;
                number = self.agains.recv() => self.repeat(number.ok_or(End::Gone)?).await?,
                changed = self.credits.changed() => changed.map_err(|_| End::Gone)?,
            }
        }
        Ok(())
    }

    async fn repeat(&mut self, number: u64) -> Result<(), End> {
        let place = number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        let Some(block) = place.and_then(|place| self.kept.get(place)) else {
            let what = format!("block {number} is asked for again, which was not sent or arrived");
            return Err(End::Failed(BlockError::Thread(what)));
        };
        if block.names_chunks() {
            // What the agent holds changes: all is sent from here on.
            self.known.give_up();
        }
        let block = block.again(number).map_err(|error| End::Failed(error.into()))?;
        tracing::warn!("block {number} is asked for again, and sent");
        self.blocks.send(block).await.map_err(|_| End::Gone)
    }
}

/// How often the other end hears something while there is no block: it gives up after two minutes without.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// The longest time that counts as one wait.
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nar::DumpError;
    use keystone_protocol::manifest::PathInfo;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use tokio::time::timeout;

    const SIZE: usize = 3 << 20;
    const FROM: usize = 1 << 20;

    fn nar() -> Vec<u8> {
        (0..SIZE as u32).map(|n| (n >> 9) as u8).collect()
    }

    /// A path that can be read from its beginning alone, whose first bytes come a few at a time, or not at
    /// all, until it is let go.
    #[derive(Default)]
    struct Slow {
        silent: bool,
        free: AtomicBool,
    }

    impl ClosureSource for Slow {
        fn dump(&self, _: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
            let (first, rest) = (&nar()[..FROM], &nar()[FROM..]);
            let mut pieces = first.chunks(16);
            while !self.free.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                let piece = if self.silent { None } else { pieces.next() };
                piece.map_or(Ok(()), |piece| out.write_all(piece)).map_err(DumpError::Sink)?;
            }
            pieces.try_for_each(|piece| out.write_all(piece)).map_err(DumpError::Sink)?;
            out.write_all(rest).map_err(DumpError::Sink)
        }
    }

    fn start(source: Arc<Slow>, credit: u64) -> (Stream, mpsc::Receiver<Block>) {
        let info = PathInfo {
            path: "slow".into(),
            nar_sha256: String::new(),
            nar_size: SIZE as u64,
            references: vec![],
            deriver: None,
            signatures: vec![],
            ca: None,
        };
        let (blocks, sent) = mpsc::channel(2);
        let items = vec![Item { index: 7, info, from: FROM as u64 }];
        let (known, control) = (Arc::new(Known::nothing()), mpsc::unbounded_channel().0);
        let line = Weak::new();
        let sending =
            Sending { source, items, credit, window_log: 23, known, blocks, control, line };
        (Stream::start(sending, Arc::default()), sent)
    }

    fn number(block: &Block) -> u64 {
        u64::from_le_bytes(block.header[8..16].try_into().unwrap())
    }

    /// While what comes before is read and left out, the other end hears something.
    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_signs_of_life() {
        let source = Arc::new(Slow::default());
        let (stream, mut sent) = start(Arc::clone(&source), 8 << 20);
        for expected in 0..3 {
            let began = tokio::time::Instant::now();
            let block = sent.recv().await.unwrap();
            assert!(began.elapsed() >= SIGN_OF_LIFE);
            let encoding = Encoding::Stream { end: true };
            assert_eq!((block.what.raw_len, block.what.encoding), (0, encoding));
            assert_eq!((block.what.path, block.what.offset), (7, FROM as u64));
            assert!(zstd::decode_all(&block.data[..]).unwrap().is_empty());
            assert_eq!(number(&block), expected);
        }
        // One that arrived damaged comes again, as any block.
        stream.send_again(1);
        while number(&sent.recv().await.unwrap()) != 1 {}
        source.free.store(true, Ordering::Relaxed);
        let mut got = Vec::new();
        while got.len() < SIZE - FROM {
            let block = sent.recv().await.unwrap();
            if block.what.raw_len > 0 {
                assert_eq!(block.what.offset as usize, FROM + got.len());
                got.extend(zstd::decode_all(&block.data[..]).unwrap());
            }
        }
        assert!(got == nar()[FROM..]);
        // Nobody waits for more.
        assert!(timeout(10 * SIGN_OF_LIFE, sent.recv()).await.is_err());
    }

    /// A source that gives nothing is not said to live; and nothing is sent beyond what may be.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_of_a_source_that_is_silent() {
        let source = Arc::new(Slow { silent: true, ..Slow::default() });
        let (_stream, mut sent) = start(Arc::clone(&source), 8 << 20);
        assert!(timeout(20 * SIGN_OF_LIFE, sent.recv()).await.is_err());
        source.free.store(true, Ordering::Relaxed);
        while sent.recv().await.unwrap().what.raw_len == 0 {}
        let source = Arc::new(Slow::default());
        let (_stream, mut sent) = start(Arc::clone(&source), 3);
        assert!(timeout(2000 * SIGN_OF_LIFE, sent.recv()).await.is_err());
        source.free.store(true, Ordering::Relaxed);
    }

    /// Amid a frame that goes on over blocks the sign is a part of it.
    #[tokio::test]
    async fn a_sign_of_life_ends_no_frame() {
        let (blocks, mut sent) = mpsc::channel(9);
        let (credits, agains) =
            (watch::channel(Credit { whole: 0, bytes: 99 }), mpsc::unbounded_channel());
        let mut sender = Sender {
            blocks,
            credits: credits.1,
            agains: agains.1,
            kept: VecDeque::new(),
            first: 0,
            sent: 0,
            known: Arc::new(Known::nothing()),
            left: 1,
            at: (0, 0),
            amid_frame: false,
        };
        let mut signs = Vec::new();
        for begins in [None, Some(true), Some(false)] {
            if let Some(amid) = begins {
                let block = Block::nothing((3, 9), amid).unwrap();
                assert!(sender.send(block).await.is_ok());
                sent.recv().await.unwrap();
            }
            assert!(sender.sign_of_life().await.is_ok());
            let block = sent.recv().await.unwrap();
            signs.push((block.what.path, block.what.encoding, block.data.is_empty()));
        }
        let (ends, goes_on) = (Encoding::Stream { end: true }, Encoding::Stream { end: false });
        assert_eq!(signs, [(0, ends, false), (3, goes_on, true), (3, ends, false)]);
        sender.left = 0;
        assert!(sender.sign_of_life().await.is_ok());
        assert!(sent.try_recv().is_err());
    }
}
