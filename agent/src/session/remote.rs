//! The executor's supplies from the other end of the wire.

use super::wire::{ArrivedBlock, CREDIT, Incoming, Wire, WireError};
use crate::execute::supplies::{EventSink, Supplies, SupplyError};
use crate::store::buffer::Pool;
use crate::store::held::offer::{Offer, RestoreError};
use crate::store::{Block, ClosureSource, Held, SourceError, window_log};
use keystone_protocol::event::Event;
use keystone_protocol::fetch::{Fetch, NotFetched};
use keystone_protocol::frame::{BlockHeader, Encoding, MAX_BLOCK};
use keystone_protocol::message::{ToAgent, ToController, Wanted};
use keystone_protocol::secret::Secret;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The longest silence while the closure is streamed.
const BLOCK_BOUND: Duration = Duration::from_secs(120);

/// Credit is given anew when so many bytes were taken.
const CREDIT_STEP: u64 = CREDIT as u64 / 8;

/// Damaged blocks that are asked for again before the connection is given up.
const MAX_DAMAGED: u32 = 32;

/// How far a block may be ahead of the next one: what is sent beyond is bounded in bytes by the credit,
/// and in number by what anybody would cut NARs into.
const MOST_EARLY: u64 = 1 << 16;

/// The longest time that the operator may take to keep a recovery key.
const RECOVERY_KEY_BOUND: Duration = Duration::from_secs(30 * 60);

/// The longest time that the operator may take to type a key.
const UNLOCK_KEY_BOUND: Duration = Duration::from_secs(10 * 60);

/// The secrets that came with a confirmed execution.
#[derive(Debug, Default)]
pub struct Secrets {
    /// The password for containers opened by one.
    pub password: Option<Secret>,
    /// The PIN for containers opened by TPM and PIN.
    pub pin: Option<Secret>,
    /// Key files by the path that the layout names.
    pub key_files: BTreeMap<String, Secret>,
    /// SSH host keys in the plan's order.
    pub host_keys: Vec<Secret>,
}

/// What a confirmed execution brought with it, and the wire for the rest.
pub struct Remote<'w> {
    wire: &'w RefCell<Wire>,
    secrets: Secrets,
    arrivals: Arrivals,
    held: Option<Arc<Held>>,
    offer: Option<Offer>,
    pool: Pool,
}

/// Puts blocks in their order.
#[derive(Debug, Default)]
struct Arrivals {
    /// The block to hand out next.
    next: u64,
    /// Blocks asked for again.
    asked: BTreeSet<u64>,
    damaged: u32,
    /// Blocks that came before their turn, and their bytes.
    early: BTreeMap<u64, Block>,
    early_bytes: usize,
    /// Bytes handed out, and bytes of the block handed out last, which are in use.
    taken: u64,
    in_use: u64,
    /// What was taken when credit was given last.
    credited: u64,
}

impl Arrivals {
    /// Takes a block that arrived whole.
    fn whole(&mut self, arrived: ArrivedBlock) -> Result<(), WireError> {
        let ArrivedBlock { header, data, number } = arrived;
        self.expect(number)?;
        if self.asked.remove(&number) && header.encoding == Encoding::Chunks {
            return Err(WireError::OutOfTurn("chunks where bytes were asked for"));
        }
        self.early_bytes += data.len();
        if self.early_bytes > CREDIT + MAX_BLOCK {
            return Err(WireError::OutOfTurn("more closure data than it has credit for"));
        }
        self.early.insert(number, Block { header, data });
        Ok(())
    }

    /// Takes note of one that did not, and has to be asked for again.
    fn damaged(&mut self, number: u64) -> Result<(), WireError> {
        self.expect(number)?;
        self.damaged += 1;
        if self.damaged > MAX_DAMAGED {
            return Err(WireError::Damaged(self.damaged));
        }
        self.asked.insert(number);
        Ok(())
    }

    /// Refuses a block that there is already, or that nobody would send yet.
    fn expect(&self, number: u64) -> Result<(), WireError> {
        let twice = number < self.next || self.early.contains_key(&number);
        if twice || number - self.next > MOST_EARLY {
            return Err(WireError::OutOfTurn("a block that can't come now"));
        }
        Ok(())
    }

    /// The next block, if it is there.
    fn take_next(&mut self) -> Option<Block> {
        let block = self.early.remove(&self.next)?;
        self.early_bytes -= block.data.len();
        Some(block)
    }

    /// The number below which nothing will be asked for again: all arrived whole, and named no chunks that
    /// could turn out not to be there any more.
    fn all_below(&self) -> u64 {
        let is_done = |number: &u64| {
            let block = self.early.get(number);
            block.is_some_and(|block| block.header.encoding != Encoding::Chunks)
        };
        self.next + (self.next..).take_while(is_done).count() as u64
    }
}

impl<'w> Remote<'w> {
    /// Supplies for one execution.
    pub fn new(wire: &'w RefCell<Wire>, secrets: Secrets) -> Self {
        let (held, offer, pool) = (None, None, Pool::default());
        Remote { wire, secrets, arrivals: Arrivals::default(), held, offer, pool }
    }

    /// Starts to cut what is held that is like these paths.
    fn offer(&mut self, paths: Vec<u32>) -> Result<(), SourceError> {
        let held = self.held.clone().filter(|_| self.offer.is_none());
        let held = held.ok_or(WireError::OutOfTurn("that it wants chunks"))?;
        let sender = self.wire.borrow().sender();
        let tell = move |path, first, hashes| {
            sender.send(&ToController::Chunks { path, first, hashes }).is_ok()
        };
        self.offer = Some(Offer::start(held, paths, Box::new(tell))?);
        Ok(())
    }

    /// A block with its bytes; none if they are not there any more.
    fn restored(&mut self, block: Block) -> Result<Option<Block>, SourceError> {
        if block.header.encoding != Encoding::Chunks {
            return Ok(Some(block));
        }
        let offer = self.offer.as_mut().ok_or(WireError::OutOfTurn("chunks of nothing"))?;
        match offer.restore(&block.data, block.header.raw_len, &self.pool) {
            Ok(data) => {
                let header = BlockHeader { encoding: Encoding::Raw, ..block.header };
                Ok(Some(Block { header, data }))
            }
            Err(RestoreError::Wrong(what)) => Err(source_error(WireError::OutOfTurn(what))),
            Err(RestoreError::Gone(error)) => {
                tracing::warn!("what is held has changed: {error}; its bytes are asked for");
                Ok(None)
            }
        }
    }
}

impl ClosureSource for Remote<'_> {
    fn hold(&mut self, held: Held) {
        self.held = Some(Arc::new(held));
    }

    fn let_go(&mut self) {
        (self.offer, self.held) = (None, None);
    }

    fn want(&mut self, wanted: &[Wanted]) -> Result<(), SourceError> {
        self.arrivals = Arrivals::default();
        let message = ToController::WantPaths {
            paths: wanted.to_vec(),
            credit: CREDIT as u64,
            window_log: window_log(),
            alike: self.held.as_ref().map_or_else(Vec::new, |held| held.paths()),
        };
        self.wire.borrow_mut().send(&message).map_err(source_error)
    }

    fn elsewhere(&mut self) -> Result<Option<Fetch>, SourceError> {
        Ok(self.arrive()?.map(|fetch| *fetch))
    }

    fn not_fetched(&mut self, paths: &[NotFetched]) -> Result<(), SourceError> {
        let message = ToController::NotFetched { paths: paths.to_vec() };
        self.wire.borrow_mut().send(&message).map_err(source_error)
    }

    fn next_block(&mut self) -> Result<Block, SourceError> {
        let arrivals = &mut self.arrivals;
        arrivals.taken += std::mem::take(&mut arrivals.in_use);
        if arrivals.taken - arrivals.credited >= CREDIT_STEP {
            arrivals.credited = arrivals.taken;
            let whole = arrivals.all_below();
            let bytes = arrivals.taken + CREDIT as u64;
            let message = ToController::Credit { whole, bytes };
            match self.wire.borrow_mut().send(&message) {
                // Where nobody hears it, what came before that is of use still; then the end is found.
                Ok(()) | Err(WireError::Io(_)) => {}
                Err(error) => return Err(source_error(error)),
            }
        }
        loop {
            if let Some(block) = self.arrivals.take_next() {
                let Some(block) = self.restored(block)? else {
                    let number = self.arrivals.next;
                    self.arrivals.asked.insert(number);
                    let message = ToController::SendAgain { number };
                    self.wire.borrow_mut().send(&message).map_err(source_error)?;
                    continue;
                };
                self.arrivals.next += 1;
                self.arrivals.in_use = block.data.len() as u64;
                return Ok(block);
            }
            if self.arrive()?.is_some() {
                return Err(source_error(WireError::OutOfTurn("where to fetch, amid the closure")));
            }
        }
    }
}

impl Remote<'_> {
    /// Takes the next frame: a block, which goes in its place, or where to fetch paths from.
    fn arrive(&mut self) -> Result<Option<Box<Fetch>>, SourceError> {
        let incoming = self.wire.borrow_mut().next_within(BLOCK_BOUND, "closure data");
        match incoming.map_err(source_error)? {
            Incoming::Block(arrived) => self.arrivals.whole(arrived).map_err(source_error)?,
            Incoming::DamagedBlock { number } => {
                self.arrivals.damaged(number).map_err(source_error)?;
                tracing::warn!("block {number} arrived damaged; it is asked for again");
                let message = ToController::SendAgain { number };
                self.wire.borrow_mut().send(&message).map_err(source_error)?;
            }
            Incoming::Message(ToAgent::Fetch(fetch)) => return Ok(Some(fetch)),
            Incoming::Message(ToAgent::SourceFailed { message }) => return Err(message.into()),
            Incoming::Message(ToAgent::WantChunks { paths }) => self.offer(paths)?,
            Incoming::Message(_) => {
                return Err(source_error(WireError::OutOfTurn("a message amid the closure")));
            }
        }
        Ok(None)
    }
}

fn source_error(error: WireError) -> SourceError {
    Box::new(error)
}

impl Supplies for Remote<'_> {
    fn password(&self) -> Option<&Secret> {
        self.secrets.password.as_ref()
    }

    fn pin(&self) -> Option<&Secret> {
        self.secrets.pin.as_ref()
    }

    fn key_file(&self, path: &str) -> Option<&Secret> {
        self.secrets.key_files.get(path)
    }

    fn host_keys(&self) -> &[Secret] {
        &self.secrets.host_keys
    }

    fn want_extra_files(&mut self) -> Result<(), SupplyError> {
        self.arrivals = Arrivals::default();
        let message =
            ToController::WantExtraFiles { credit: CREDIT as u64, window_log: window_log() };
        let sent = self.wire.borrow_mut().send(&message);
        sent.map_err(|error| SupplyError(error.to_string()))
    }

    fn unlock_key(&mut self, container: &str, tried: &[String]) -> Result<Secret, SupplyError> {
        let fail = |error: WireError| SupplyError(error.to_string());
        let mut wire = self.wire.borrow_mut();
        wire.send(&ToController::WantUnlockKey {
            container: container.to_owned(),
            tried: tried.to_vec(),
        })
        .map_err(fail)?;
        match wire.next_within(UNLOCK_KEY_BOUND, "a key of a container").map_err(fail)? {
            Incoming::Message(ToAgent::UnlockKey { container: of, key }) if of == container => {
                key.ok_or_else(|| SupplyError("no key was given".to_owned()))
            }
            Incoming::Message(_) => Err(fail(WireError::OutOfTurn("another message"))),
            Incoming::Block(_) | Incoming::DamagedBlock { .. } => {
                Err(fail(WireError::OutOfTurn("closure data")))
            }
        }
    }

    fn keep_recovery_key(&mut self, container: &str, key: &Secret) -> Result<(), SupplyError> {
        let fail = |error: WireError| SupplyError(error.to_string());
        let mut wire = self.wire.borrow_mut();
        let message =
            ToController::RecoveryKey { container: container.to_owned(), key: key.clone() };
        wire.send(&message).map_err(fail)?;
        match wire.next_within(RECOVERY_KEY_BOUND, "that the recovery key is kept").map_err(fail)? {
            Incoming::Message(ToAgent::RecoveryKeyStored { container: kept })
                if kept == container =>
            {
                Ok(())
            }
            Incoming::Message(_) => Err(fail(WireError::OutOfTurn("another message"))),
            Incoming::Block(_) | Incoming::DamagedBlock { .. } => {
                Err(fail(WireError::OutOfTurn("closure data")))
            }
        }
    }
}

/// Sends events over the wire.
pub struct RemoteSink<'w>(pub &'w RefCell<Wire>);

impl EventSink for RemoteSink<'_> {
    fn emit(&mut self, event: Event) {
        // A channel that broke is noticed by the reader, which cancels.
        if let Err(error) = self.0.borrow_mut().send(&ToController::Event(event)) {
            tracing::debug!("event not delivered: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::cancel::Cancel;
    use keystone_protocol::frame::{
        HEADER, encode_block_header, parse_header, parse_payload, set_number,
    };
    use keystone_protocol::message::decode;
    use std::io::{Read, Write, pipe};

    /// The bytes of block `number`, and which blocks there are.
    fn frame(number: u32) -> Vec<u8> {
        frame_of(number, 1000 + number as usize)
    }

    /// The same of a block of so many bytes.
    fn frame_of(number: u32, length: usize) -> Vec<u8> {
        let data = vec![number as u8; length];
        let header = BlockHeader {
            path: number,
            offset: 0,
            raw_len: data.len() as u32,
            encoding: Encoding::Raw,
            last: true,
        };
        let mut encoded = encode_block_header(&header, &data).unwrap();
        set_number(&mut encoded, number.into());
        [&encoded[..], &data].concat()
    }

    fn answer(from: &mut impl Read) -> Option<ToController> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header).ok()?;
        let header = parse_header(header).unwrap();
        let mut payload = vec![0; header.length];
        from.read_exact(&mut payload).ok()?;
        Some(decode(&parse_payload(&header, payload).unwrap()).unwrap())
    }

    /// Receives `count` blocks of which a bit is flipped in those that `damage` says, in each as
    /// often as it says; returns how many were asked for again.
    fn receive(count: u32, damage: impl Fn(u32) -> u32 + Send) -> Result<u32, String> {
        let (input, mut to_agent) = pipe().unwrap();
        let (mut from_agent, output) = pipe().unwrap();
        let wire = RefCell::new(Wire::start(input, output, Cancel::default()));
        std::thread::scope(|scope| {
            let controller = scope.spawn(move || {
                assert!(matches!(answer(&mut from_agent), Some(ToController::WantPaths { .. })));
                let send = |to: &mut std::io::PipeWriter, mut bytes: Vec<u8>, damaged: bool| {
                    if damaged {
                        let at = HEADER + bytes.len() % 900;
                        bytes[at] ^= 0x10;
                    }
                    to.write_all(&bytes).is_ok()
                };
                let mut left: Vec<u32> = (0..count).map(&damage).collect();
                for number in 0..count {
                    send(&mut to_agent, frame(number), left[number as usize] > 0);
                }
                let mut again = 0;
                while let Some(message) = answer(&mut from_agent) {
                    let ToController::SendAgain { number } = message else { continue };
                    again += 1;
                    let left = &mut left[number as usize];
                    *left -= 1;
                    if !send(&mut to_agent, frame(number as u32), *left > 0) {
                        break;
                    }
                }
                again
            });
            let mut remote = Remote::new(&wire, Secrets::default());
            let wanted: Vec<Wanted> = (0..count).map(|path| Wanted { path, from: 0 }).collect();
            remote.want(&wanted).unwrap();
            let mut result = Ok(());
            for number in 0..count {
                match remote.next_block() {
                    Ok(block) => {
                        assert_eq!(block.header.path, number);
                        assert!(block.data.iter().all(|b| *b == number as u8));
                        assert_eq!(block.data.len(), 1000 + number as usize);
                    }
                    Err(error) => {
                        result = Err(error.to_string());
                        break;
                    }
                }
            }
            drop(remote);
            // Ends the controller's wait.
            drop(wire.replace(Wire::start(std::io::empty(), std::io::sink(), Cancel::default())));
            let again = controller.join().unwrap();
            result.map(|()| again)
        })
    }

    #[test]
    fn damaged_blocks_come_again_and_in_order() {
        assert_eq!(receive(40, |_| 0), Ok(0));
        assert_eq!(receive(40, |n| u32::from(n % 7 == 3)), Ok(6));
        // Damaged again when they are sent again, and several in a row.
        assert_eq!(receive(40, |n| if (5..9).contains(&n) { 3 } else { 0 }), Ok(12));
        assert_eq!(receive(3, |n| u32::from(n == 2)), Ok(1));
    }

    /// The other end is gone, and what it sent before is still in the pipe.
    #[test]
    fn what_came_before_nobody_hears_any_more_is_used() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let count = (CREDIT as u64 / CREDIT_STEP) as u32;
        let frames = (0..count).map(|number| frame_of(number, CREDIT_STEP as usize));
        let bytes: Vec<u8> = frames.flatten().collect();
        let cancel = Cancel::default();
        let wire = RefCell::new(Wire::start(std::io::Cursor::new(bytes), Gone, cancel.clone()));
        let mut remote = Remote::new(&wire, Secrets::default());
        assert!(remote.want(&[]).is_err());
        assert!(cancel.is_abandoned() && !cancel.is_cancelled(), "somebody may go on");
        for number in 0..count {
            let block = remote.next_block().unwrap_or_else(|e| panic!("block {number}: {e}"));
            assert_eq!(block.header.path, number);
        }
        assert!(remote.next_block().is_err());
        assert!(cancel.is_abandoned() && cancel.is_cancelled());
    }

    fn arrived(number: u64, encoding: Encoding, length: usize) -> ArrivedBlock {
        let raw_len = length as u32;
        let header = BlockHeader { path: 0, offset: 0, raw_len, encoding, last: false };
        ArrivedBlock { header, data: vec![0; length].into(), number }
    }

    #[test]
    fn what_may_be_asked_for_again_is_not_done() {
        let mut arrivals = Arrivals::default();
        for number in [0, 1, 2, 4] {
            let encoding = if number == 1 { Encoding::Chunks } else { Encoding::Raw };
            arrivals.whole(arrived(number, encoding, 10)).unwrap();
        }
        assert_eq!(arrivals.all_below(), 1, "chunks may be gone");
        for next in 1..3 {
            assert!(arrivals.take_next().is_some());
            arrivals.next = next;
        }
        assert_eq!(arrivals.all_below(), 3, "one is missing");
        assert!(arrivals.whole(arrived(1, Encoding::Raw, 10)).is_err(), "it is there already");
        assert!(arrivals.whole(arrived(4, Encoding::Raw, 10)).is_err(), "it is there already");
        assert!(arrivals.whole(arrived(MOST_EARLY + 3, Encoding::Raw, 10)).is_err());
        // As much as there may be, and one more.
        let most = (CREDIT + MAX_BLOCK - 20) >> 20;
        for number in 0..most as u64 {
            arrivals.whole(arrived(10 + number, Encoding::Raw, 1 << 20)).unwrap();
        }
        assert!(arrivals.whole(arrived(5, Encoding::Raw, 1 << 20)).is_err());
    }

    #[test]
    fn a_faulty_line_is_given_up() {
        let error = receive(60, |_| 1).unwrap_err();
        assert!(error.contains("faulty"), "{error}");
    }
}
