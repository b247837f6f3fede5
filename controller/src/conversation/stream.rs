//! Sends the closure's blocks: within the agent's credit, and again what arrived damaged.

use super::lanes::Memory;
use crate::closure::ClosureSource;
use crate::nar::{Block, BlockError, Blocks, Item, Known, Pace, Sent};
use crate::ssh::line::Line;
use bytes::Bytes;
use keystone_protocol::message::{ToAgent, encode};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

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
        let mut stream = Blocks::start(source, items, Arc::clone(&pace), Arc::clone(&known))?;
        let (kept, first, sent) = (VecDeque::new(), 0, 0);
        let mut sender = Sender { blocks, credits, agains, kept, first, sent, known };
        match sender.run(&mut stream, &pace).await {
            Ok(()) | Err(End::Gone) => Ok(()),
            Err(End::Failed(error)) => Err(error),
        }
    }

    async fn run(&mut self, stream: &mut Blocks, pace: &Pace) -> Result<(), End> {
        loop {
            let began = Instant::now();
            let block = tokio::select! {
                biased;
                number = self.agains.recv() => {
                    self.repeat(number.ok_or(End::Gone)?).await?;
                    continue;
                }
                block = stream.next() => block,
            };
            let Some(block) = block else { break };
            let mut block = block.map_err(End::Failed)?;
            let starved = began.elapsed().min(LONGEST);
            let began = Instant::now();
            self.wait_for_credit(block.cost()).await?;
            let held = began.elapsed();
            let began = Instant::now();
            let bytes = block.data.len() as u64;
            self.sent += block.cost();
            block.number(self.first + self.kept.len() as u64);
            self.kept.push_back(block.clone());
            self.blocks.send(block).await.map_err(|_| End::Gone)?;
            pace.sent(Sent { bytes, took: began.elapsed(), starved, held });
            self.forget();
        }
        // What was sent may still be asked for again.
        while let Some(number) = self.agains.recv().await {
            self.repeat(number).await?;
        }
        Ok(())
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

/// The longest time that counts as one wait.
const LONGEST: Duration = Duration::from_secs(2);
