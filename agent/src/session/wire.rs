//! Frames in and out.

use super::lane;
use crate::execute::cancel::Cancel;
use crate::store::buffer::{Buffer, Pool};
use keystone_protocol::frame::{
    self, Arriving, BLOCK_HEADER, BlockHeader, FrameError, Kind, MAX_BLOCK,
};
use keystone_protocol::message::{self, MessageError, ToAgent, ToController};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How many frames may wait between the reader and the executor.
const QUEUE: usize = 64;

/// The most bytes of blocks that may wait there: what the controller is given credit for.
pub const CREDIT: usize = 8 << 20;

/// How long closure data that came before the stream's end may take to be used.
const LAST_BLOCKS: Duration = Duration::from_secs(60);

/// How often a wait looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(200);

/// The conversation can't go on.
#[derive(Debug, Error)]
pub enum WireError {
    /// Reading or writing failed.
    #[error("the channel to the controller broke")]
    Io(#[source] io::Error),
    /// Something came that is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The stream ended, or an abort came.
    #[error("the controller asked to stop or went away")]
    Ended,
    /// Nothing came in time.
    #[error("the controller sent nothing for {0} s while {1} was awaited")]
    Silent(u64, &'static str),
    /// Blocks arrive damaged again and again.
    #[error("{0} blocks arrived damaged: the connection, or a machine's memory, is faulty")]
    Damaged(u32),
    /// A message came that has no place here.
    #[error("the controller sent {0} out of turn")]
    OutOfTurn(&'static str),
}

impl From<FrameError> for WireError {
    fn from(error: FrameError) -> Self {
        WireError::Message(error.into())
    }
}

/// Something that arrived.
pub enum Incoming {
    /// A message.
    Message(ToAgent),
    /// A block of closure data.
    Block(ArrivedBlock),
    /// A block whose bytes are not those that were sent.
    DamagedBlock {
        /// Its number.
        number: u64,
    },
}

/// A block that arrived whole.
#[derive(Debug)]
pub struct ArrivedBlock {
    /// What is said of it.
    pub header: BlockHeader,
    /// Its data, still encoded.
    pub data: Buffer,
    /// Its number.
    pub number: u64,
}

/// Both directions of the channel.
pub struct Wire {
    incoming: Receiver<Result<Incoming, WireError>>,
    /// Bytes of blocks in `incoming`.
    waiting: Arc<AtomicUsize>,
    output: Sender,
    cancel: Cancel,
}

impl Wire {
    /// Starts the reader thread on `input`. An abort, a broken frame or the end of the stream
    /// raises `cancel` as soon as it is read, whatever the executor is doing then; only closure
    /// data that came before the end are waited for.
    pub fn start(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        cancel: Cancel,
    ) -> Wire {
        let (sender, incoming) = sync_channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let intake = Intake { sender, waiting: Arc::clone(&waiting), pool: Pool::default() };
        let mut reader = Reader { intake, cancel: cancel.clone() };
        thread::Builder::new()
            .name("frames".to_owned())
            .spawn(move || reader.read_frames(input))
            .expect("a thread can be started");
        let output =
            Sender { output: Arc::new(Mutex::new(Box::new(output))), cancel: cancel.clone() };
        Wire { incoming, waiting, output, cancel }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &ToController) -> Result<(), WireError> {
        self.output.send(message)
    }

    /// For another thread that has something to say.
    pub fn sender(&self) -> Sender {
        self.output.clone()
    }

    /// The next frame, whenever it comes.
    pub fn next(&mut self) -> Result<Incoming, WireError> {
        let incoming = self.incoming.recv().map_err(|_| WireError::Ended)?;
        self.count(incoming)
    }

    fn count(&self, incoming: Result<Incoming, WireError>) -> Result<Incoming, WireError> {
        if let Ok(Incoming::Block(block)) = &incoming {
            self.waiting.fetch_sub(block.data.len(), Ordering::SeqCst);
        }
        incoming
    }

    /// The next frame, within `bound`, unless cancelled; `what` is named if it does not come.
    pub fn next_within(
        &mut self,
        bound: Duration,
        what: &'static str,
    ) -> Result<Incoming, WireError> {
        let mut waited = Duration::ZERO;
        loop {
            match self.incoming.recv_timeout(POLL) {
                Ok(incoming) => return self.count(incoming),
                Err(RecvTimeoutError::Disconnected) => return Err(WireError::Ended),
                Err(RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                    return Err(WireError::Ended);
                }
                Err(RecvTimeoutError::Timeout) => {
                    waited += POLL;
                    if waited >= bound {
                        // A connection may be gone without a word.
                        self.cancel.abandon();
                        return Err(WireError::Silent(bound.as_secs(), what));
                    }
                }
            }
        }
    }
}

/// The direction to the controller.
#[derive(Clone)]
pub struct Sender {
    output: Arc<Mutex<Box<dyn Write + Send>>>,
    cancel: Cancel,
}

impl Sender {
    /// Sends a message. Once that fails, nobody is there any more.
    pub fn send(&self, message: &ToController) -> Result<(), WireError> {
        let bytes = message::encode(message)?;
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = output.write_all(&bytes.0).and_then(|()| output.flush());
        sent.map_err(|error| {
            self.cancel.unheard();
            WireError::Io(error)
        })
    }
}

/// Where what arrives goes, over whichever connection.
#[derive(Clone)]
pub(super) struct Intake {
    sender: SyncSender<Result<Incoming, WireError>>,
    waiting: Arc<AtomicUsize>,
    pool: Pool,
}

/// The thread that reads.
struct Reader {
    intake: Intake,
    cancel: Cancel,
}

impl Reader {
    fn read_frames(&mut self, mut input: impl Read) {
        loop {
            let incoming = self.intake.read_frame(&mut input);
            let stop = match &incoming {
                Err(error) => {
                    if matches!(error, WireError::Ended | WireError::Io(_)) {
                        self.wait_for_last_blocks();
                        self.cancel.abandon();
                    } else {
                        self.cancel.cancel();
                    }
                    true
                }
                Ok(Incoming::Message(ToAgent::Abort)) => {
                    self.cancel.cancel();
                    continue;
                }
                Ok(Incoming::Message(ToAgent::OpenLanes { socket })) => {
                    if let Err(error) = lane::listen(Path::new(socket), self.intake.clone()) {
                        tracing::warn!("no further connections can be taken at {socket}: {error}");
                    }
                    continue;
                }
                Ok(_) => false,
            };
            if !self.intake.take(incoming) || stop {
                return;
            }
        }
    }

    /// What arrived is used before its end is told. Bounded.
    fn wait_for_last_blocks(&self) {
        let began = Instant::now();
        let waiting = &self.intake.waiting;
        while waiting.load(Ordering::SeqCst) > 0 && began.elapsed() < LAST_BLOCKS {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Intake {
    /// Hands it to the executor; whether there is one.
    fn take(&self, incoming: Result<Incoming, WireError>) -> bool {
        if let Ok(Incoming::Block(block)) = &incoming {
            self.waiting.fetch_add(block.data.len(), Ordering::SeqCst);
        }
        self.sender.send(incoming).is_ok()
    }

    /// Takes what comes over a connection that carries blocks alone, to its end.
    pub(super) fn take_blocks(&self, mut input: impl Read) -> Result<(), WireError> {
        loop {
            let incoming = match self.read_frame(&mut input)? {
                Incoming::Message(_) => {
                    return Err(WireError::OutOfTurn("a message beside blocks"));
                }
                block => block,
            };
            if !self.take(Ok(incoming)) {
                return Ok(());
            }
        }
    }

    fn read_frame(&self, input: &mut impl Read) -> Result<Incoming, WireError> {
        let mut header = [0; frame::HEADER];
        input.read_exact(&mut header).map_err(broken)?;
        let header = frame::parse_header(header)?;
        match header.kind {
            Kind::Control => {
                let mut payload = Arriving::new(header.length);
                loop {
                    let space = payload.space();
                    if space.is_empty() {
                        break;
                    }
                    match input.read(space) {
                        Ok(0) => return Err(WireError::Ended),
                        Ok(count) => payload.advance(count),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(broken(error)),
                    }
                }
                let payload = payload.whole().ok_or(WireError::Ended)?;
                let control = frame::parse_payload(&header, payload)?;
                Ok(Incoming::Message(message::decode(&control)?))
            }
            Kind::Block { number } => {
                if self.waiting.load(Ordering::SeqCst) > CREDIT + MAX_BLOCK {
                    return Err(WireError::OutOfTurn("more closure data than it has credit for"));
                }
                let mut payload = self.pool.take(header.length);
                input.read_exact(&mut payload).map_err(broken)?;
                match frame::parse_block(&header, &payload) {
                    Ok(header) => {
                        let data = payload.after(BLOCK_HEADER);
                        Ok(Incoming::Block(ArrivedBlock { header, data, number }))
                    }
                    Err(FrameError::Damaged) => Ok(Incoming::DamagedBlock { number }),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

fn broken(error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Ended,
        _ => WireError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystone_protocol::version::PROTOCOL_VERSION;

    fn bytes(messages: &[ToAgent]) -> Vec<u8> {
        messages.iter().flat_map(|m| message::encode(m).unwrap().0.clone()).collect()
    }

    #[test]
    fn an_abort_is_noticed_before_what_was_sent_earlier_is_consumed() {
        let hello = ToAgent::Hello { protocol: PROTOCOL_VERSION, version: "1".to_owned() };
        let input = io::Cursor::new(bytes(&[hello, ToAgent::Abort]));
        let cancel = Cancel::default();
        let mut wire = Wire::start(input, io::sink(), cancel.clone());
        let began = std::time::Instant::now();
        while !cancel.is_cancelled() && began.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(cancel.is_cancelled());
        assert!(matches!(wire.next(), Ok(Incoming::Message(ToAgent::Hello { .. }))));
        assert!(matches!(wire.next(), Err(WireError::Ended)));
    }

    #[test]
    fn silence_is_bounded_and_names_what_was_awaited() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut wire = Wire::start(reader, io::sink(), Cancel::default());
        let error = wire.next_within(Duration::from_millis(300), "a block").err().unwrap();
        assert!(error.to_string().contains("a block"), "{error}");
    }
}
