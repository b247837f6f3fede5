//! Frames over the agent's standard input and output.

use super::ConversationError;
use super::log::clean;
use crate::nar::Block;
use crate::ssh::exec::{Exit, Running, Stdin};
use crate::ssh::line::Line;
use bytes::Bytes;
use keystone_protocol::frame::{
    Arriving, ControlBytes, HEADER, PREFIX, check_kind, parse_header, parse_payload,
};
use keystone_protocol::message::{MessageError, ToController, decode};
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Where bytes for the agent go.
pub trait Outgoing: Send + 'static {
    /// Sends all of them; waits while the agent takes no more.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing more comes.
    fn close(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Outgoing for Stdin {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        Stdin::send(self, bytes).await.map_err(io::Error::other)
    }

    async fn close(&mut self) -> io::Result<()> {
        self.eof().await.map_err(io::Error::other)
    }
}

/// A pipe or socket to the agent.
#[derive(Debug)]
pub struct PipeOut<W>(pub W);

impl<W: AsyncWrite + Unpin + Send + 'static> Outgoing for PipeOut<W> {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes).await?;
        self.0.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// What comes from the agent.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Box<ToController>),
    /// Not understood; nothing more comes.
    Broken(MessageError),
    /// A line of its log.
    Log(String),
    /// So many connections carry blocks now.
    Connections(usize),
    /// One of the further ones broke, and what it carried is lost.
    LaneLost(String),
    /// Both outputs ended, and how the program did.
    Ended(Option<Exit>),
}

/// The two directions, each in its own task.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) control: mpsc::UnboundedSender<Bytes>,
    pub(super) blocks: mpsc::Sender<Block>,
    /// What can be asked of the line, if it is one.
    pub(super) line: Weak<Line>,
    /// Where blocks to send come from, and where it is said what becomes of connections beside this.
    queue: Queue,
    told: mpsc::WeakSender<Incoming>,
    /// Ends with this, for connections beside it.
    alive: watch::Sender<()>,
    reader: JoinHandle<()>,
    writer: Option<JoinHandle<()>>,
}

/// Blocks to send; whoever has nothing to do takes the next one.
type Queue = Arc<Mutex<mpsc::Receiver<Block>>>;

async fn next(queue: &Queue) -> Option<Block> {
    queue.lock().await.recv().await
}

/// What connections beside the conversation's own need of it.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    /// That of the conversation.
    pub(super) line: Weak<Line>,
    queue: Queue,
    control: mpsc::WeakUnboundedSender<Bytes>,
    told: mpsc::WeakSender<Incoming>,
    alive: watch::Receiver<()>,
}

impl Beside {
    /// The next block to send; none once the conversation ends.
    pub(super) async fn next(&self) -> Option<Block> {
        next(&self.queue).await
    }

    /// Waits for the end of the conversation.
    pub(super) async fn ended(&mut self) {
        while self.alive.changed().await.is_ok() {}
    }

    /// Queues a message for the agent.
    pub(super) fn say(&self, message: ControlBytes) {
        if let Some(control) = self.control.upgrade() {
            let _ = control.send(Bytes::copy_from_slice(&message.0));
        }
    }

    /// Tells the conversation.
    pub(super) async fn tell(&self, incoming: Incoming) {
        if let Some(told) = self.told.upgrade() {
            let _ = told.send(incoming).await;
        }
    }
}

/// Messages read ahead of whoever handles them.
const READ_AHEAD: usize = 1024;
/// Blocks that are copied to go in one packet with their header, below this many bytes.
const SMALL: usize = 30 << 10;
/// Blocks handed over ahead of the connection.
const WRITE_AHEAD: usize = 2;

impl Wire {
    /// Over a program's standard input and outputs.
    pub(super) fn over_program(running: Running) -> Self {
        let Running { stdin, stdout, stderr, exit, line } = running;
        let mut wire = Self::over(stdin, stdout, stderr, async { exit.await.ok() });
        wire.line = line;
        wire
    }

    pub(super) fn over(
        out: impl Outgoing,
        stdout: impl AsyncRead + Unpin + Send + 'static,
        stderr: impl AsyncRead + Unpin + Send + 'static,
        exit: impl Future<Output = Option<Exit>> + Send + 'static,
    ) -> Self {
        let (incoming_in, incoming) = mpsc::channel(READ_AHEAD);
        let (control, control_out) = mpsc::unbounded_channel();
        let (blocks, blocks_out) = mpsc::channel(WRITE_AHEAD);
        let queue = Arc::new(Mutex::new(blocks_out));
        let (log_in, told) = (incoming_in.clone(), incoming_in.downgrade());
        let log = tokio::spawn(read_log(stderr, log_in));
        let reader = tokio::spawn(async move {
            read_messages(stdout, &incoming_in).await;
            // Its last words come before its end.
            let _ = log.await;
            let _ = incoming_in.send(Incoming::Ended(exit.await)).await;
        });
        let writer = Some(tokio::spawn(write(out, control_out, Arc::clone(&queue))));
        let (line, alive) = (Weak::new(), watch::Sender::new(()));
        Wire { incoming, control, blocks, line, queue, told, alive, reader, writer }
    }

    /// What connections beside this one need.
    pub(super) fn beside(&self) -> Beside {
        Beside {
            line: Weak::clone(&self.line),
            queue: Arc::clone(&self.queue),
            control: self.control.downgrade(),
            told: mpsc::WeakSender::clone(&self.told),
            alive: self.alive.subscribe(),
        }
    }

    /// Queues a control message, in front of blocks that wait.
    pub(super) fn say(&self, message: ControlBytes) -> Result<(), ConversationError> {
        // The bytes are zeroed when the connection has taken them: they may hold secrets.
        struct Owned(ControlBytes);
        impl AsRef<[u8]> for Owned {
            fn as_ref(&self) -> &[u8] {
                &self.0.0
            }
        }
        let gone = |_| ConversationError::Lost { doing: "speaking to it", ended: String::new() };
        self.control.send(Bytes::from_owner(Owned(message))).map_err(gone)
    }

    /// Closes the stream to the agent behind what is queued, and waits for its end. `None` if that
    /// does not come, or nothing is known of it.
    pub(super) async fn close(mut self) -> Option<Exit> {
        self.control = mpsc::unbounded_channel().0;
        self.blocks = mpsc::channel(1).0;
        let ended = async {
            while let Some(incoming) = self.incoming.recv().await {
                if let Incoming::Ended(exit) = incoming {
                    return exit;
                }
            }
            None
        };
        timeout(LAST, ended).await.ok().flatten()
    }
}

/// Bound of the agent's end after goodbye: it has nothing to undo then.
const LAST: Duration = Duration::from_secs(15);
/// Bound of saying goodbye: a writer may wait for an agent that takes nothing any more.
const GOODBYE: Duration = Duration::from_secs(10);

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
        // The writer ends by itself once its queues are closed, which happens now.
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let abort = writer.abort_handle();
                if timeout(GOODBYE, writer).await.is_err() {
                    abort.abort();
                }
            });
        }
    }
}

async fn read_messages(mut stdout: impl AsyncRead + Unpin, into: &mpsc::Sender<Incoming>) {
    loop {
        let incoming = match read_frame(&mut stdout).await {
            Ok(Some(message)) => Incoming::Message(Box::new(message)),
            Ok(None) => return,
            Err(error) => Incoming::Broken(error),
        };
        let broken = matches!(incoming, Incoming::Broken(_));
        if into.send(incoming).await.is_err() || broken {
            return;
        }
    }
}

/// `None` at the end of the stream, also in the middle of a frame: it is gone either way.
async fn read_frame(
    stdout: &mut (impl AsyncRead + Unpin),
) -> Result<Option<ToController>, MessageError> {
    let mut header = [0; HEADER];
    let (prefix, rest) = header.split_first_chunk_mut::<PREFIX>().expect("it is longer");
    if stdout.read_exact(prefix).await.is_err() {
        return Ok(None);
    }
    check_kind(prefix)?;
    if stdout.read_exact(rest).await.is_err() {
        return Ok(None);
    }
    let header = parse_header(header)?;
    let mut payload = Arriving::new(header.length);
    loop {
        let space = payload.space();
        if space.is_empty() {
            break;
        }
        match stdout.read(space).await {
            Ok(count @ 1..) => payload.advance(count),
            _ => return Ok(None),
        }
    }
    let Some(payload) = payload.whole() else { return Ok(None) };
    decode(&parse_payload(&header, payload)?).map(Some)
}

async fn read_log(stderr: impl AsyncRead + Unpin, into: mpsc::Sender<Incoming>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is cut, not collected.
        let mut piece = (&mut reader).take(64 << 10);
        match piece.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if into.send(Incoming::Log(clean(&line))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Sends one block.
pub(super) async fn send_block(out: &mut impl Outgoing, block: Block) -> io::Result<()> {
    if block.data.len() < SMALL {
        return out.send([&block.header[..], &block.data].concat().into()).await;
    }
    out.send(Bytes::copy_from_slice(&block.header)).await?;
    out.send(block.data).await
}

async fn write(mut out: impl Outgoing, mut control: mpsc::UnboundedReceiver<Bytes>, blocks: Queue) {
    loop {
        let sent = tokio::select! {
            biased;
            message = control.recv() => match message {
                Some(bytes) => out.send(bytes).await,
                None => break,
            },
            Some(block) = next(&blocks) => send_block(&mut out, block).await,
        };
        if let Err(e) = sent {
            // The reader sees the end too, and says so where somebody listens.
            tracing::debug!("can't write to the agent: {e}");
            return;
        }
    }
    let _ = out.close().await;
}
