//! Frames in and out.

use crate::execute::cancel::Cancel;
use keystone_protocol::frame::{self, BlockHeader, Frame, FrameError};
use keystone_protocol::message::{self, MessageError, ToAgent, ToController};
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// How many frames may wait between the reader and the executor. With blocks of 1 MiB this is
/// the most memory that closure data take on their way.
const QUEUE: usize = 8;

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
    Block(BlockHeader, Vec<u8>),
}

/// Both directions of the channel.
pub struct Wire {
    incoming: Receiver<Result<Incoming, WireError>>,
    output: Box<dyn Write + Send>,
    cancel: Cancel,
}

impl Wire {
    /// Starts the reader thread on `input`. An abort, a broken frame or the end of the stream
    /// raises `cancel` as soon as it is read, whatever the executor is doing then.
    pub fn start(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        cancel: Cancel,
    ) -> Wire {
        let (sender, incoming) = sync_channel(QUEUE);
        let reader_cancel = cancel.clone();
        thread::Builder::new()
            .name("frames".to_owned())
            .spawn(move || read_frames(input, &sender, &reader_cancel))
            .expect("a thread can be started");
        Wire { incoming, output: Box::new(output), cancel }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &ToController) -> Result<(), WireError> {
        let bytes = message::encode(message)?;
        self.output
            .write_all(&bytes.0)
            .and_then(|()| self.output.flush())
            .map_err(WireError::Io)
    }

    /// The next frame, whenever it comes.
    pub fn next(&mut self) -> Result<Incoming, WireError> {
        self.incoming.recv().map_err(|_| WireError::Ended)?
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
                Ok(incoming) => return incoming,
                Err(RecvTimeoutError::Disconnected) => return Err(WireError::Ended),
                Err(RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                    return Err(WireError::Ended);
                }
                Err(RecvTimeoutError::Timeout) => {
                    waited += POLL;
                    if waited >= bound {
                        return Err(WireError::Silent(bound.as_secs(), what));
                    }
                }
            }
        }
    }
}

fn read_frames(
    mut input: impl Read,
    sender: &SyncSender<Result<Incoming, WireError>>,
    cancel: &Cancel,
) {
    loop {
        let incoming = read_frame(&mut input);
        let stop = match &incoming {
            Err(_) => true,
            Ok(Incoming::Message(ToAgent::Abort)) => {
                cancel.cancel();
                continue;
            }
            Ok(_) => false,
        };
        if stop {
            cancel.cancel();
        }
        if sender.send(incoming).is_err() || stop {
            return;
        }
    }
}

fn read_frame(input: &mut impl Read) -> Result<Incoming, WireError> {
    let mut header = [0; frame::HEADER];
    input.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Ended,
        _ => WireError::Io(error),
    })?;
    let (kind, length) = frame::parse_header(header)?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).map_err(WireError::Io)?;
    match frame::parse_payload(kind, payload)? {
        Frame::Block(header, data) => Ok(Incoming::Block(header, data)),
        control => Ok(Incoming::Message(message::decode(&control)?)),
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
