//! A compressed NAR on its way.
//!
//! The network is read by a thread of its own: it runs ahead of what decompresses, and a read that
//! nobody wants to wait for any more is left alone, to end within the client's own bounds.

use keystone_fetch::told::Measured;
use keystone_fetch::{Decoder, FetchError, Http, Told};
use keystone_protocol::fetch::{Compression, FetchNar};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Bytes that are handed over at once, and how many of those may wait.
const PIECE: usize = 128 << 10;
const AHEAD: usize = 4;
/// How often a wait looks whether it is to end.
const POLL: Duration = Duration::from_millis(200);

/// Whether all is to end. Asked while it is waited.
pub type Stopped<'s> = &'s dyn Fn() -> bool;

/// A NAR, decompressed while it is read, and its file compared with what was told of it at the end.
pub struct Download<'s> {
    url: String,
    /// Until the end.
    decoder: Option<Decoder<'static, Piped<'s>>>,
    /// With what the file is to be compared.
    told: Told,
    /// Bytes of the NAR that are still to come.
    left: u64,
}

/// A file on the server: its first part may be left out.
type Piped<'s> = Measured<Pipe<'s>>;

impl<'s> Download<'s> {
    /// Starts on the NAR of `size` bytes that `nar` describes, without its first `from` bytes. Its
    /// decompressor gets at most `memory` bytes.
    ///
    /// # Errors
    /// No thread can be started, or what comes first can't be read.
    pub fn start(
        server: &Http,
        nar: &FetchNar,
        (from, size): (u64, u64),
        memory: u64,
        stopped: Stopped<'s>,
    ) -> Result<Self, FetchError> {
        let url = server.url(&nar.name);
        let read = |source| failed(&url, source);
        // Nothing else can be begun in the middle.
        let skipped = if nar.compression == Compression::None { from } else { 0 };
        let told = match skipped {
            0 => Told { size: nar.file_size, sha256: sha256(nar) },
            // Of a part there is nothing to compare; the NAR's own hash is looked at all the same.
            _ => Told::default(),
        };
        let pipe = Pipe::start(server, &nar.name, skipped, stopped).map_err(read)?;
        let mut decoder =
            Decoder::new(nar.compression, Measured::new(pipe), memory).map_err(read)?;
        let mut before = (&mut decoder).take(from - skipped);
        if io::copy(&mut before, &mut io::sink()).map_err(read)? < from - skipped {
            return Err(FetchError::Length { url, how: "shorter" });
        }
        Ok(Download { url, decoder: Some(decoder), told, left: size - from })
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Fills `buffer`, which is no longer than what is left. Gives out the last byte only if the
    /// file ends with it and is the one that was told of.
    ///
    /// # Errors
    /// It can't be read, or is another one.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FetchError> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        let mut filled = 0;
        while filled < buffer.len() {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => return Err(self.length("shorter")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&self.url, error)),
            }
        }
        self.left -= filled as u64;
        if self.left > 0 {
            return Ok(());
        }
        let more = decoder.read(&mut [0]).map_err(|error| failed(&self.url, error))?;
        if more > 0 {
            return Err(self.length("longer"));
        }
        let Some(decoder) = self.decoder.take() else { return Ok(()) };
        decoder.into_inner().check(&self.told, &self.url).map_err(|error| match error {
            FetchError::Read { source, .. } => failed(&self.url, source),
            other => other,
        })
    }

    fn length(&self, how: &'static str) -> FetchError {
        FetchError::Length { url: self.url.clone(), how }
    }
}

/// The client's error, if it is one that came through a decompressor.
fn failed(url: &str, error: io::Error) -> FetchError {
    match error.downcast::<FetchError>() {
        Ok(error) => error,
        Err(source) => FetchError::Decompress { url: url.to_owned(), source },
    }
}

fn sha256(nar: &FetchNar) -> Option<[u8; 32]> {
    let mut sum = [0; 32];
    hex::decode_to_slice(nar.file_sha256.as_ref()?, &mut sum).ok().map(|()| sum)
}

/// The near end of a transfer.
struct Pipe<'s> {
    pieces: Receiver<Result<Vec<u8>, FetchError>>,
    piece: Vec<u8>,
    /// How much of the piece was read.
    at: usize,
    stopped: Stopped<'s>,
}

impl<'s> Pipe<'s> {
    fn start(server: &Http, name: &str, from: u64, stopped: Stopped<'s>) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(AHEAD);
        let (server, name) = (server.clone(), name.to_owned());
        thread::Builder::new().name("fetch".to_owned()).spawn(move || {
            if let Err(error) = transfer(&server, &name, from, &sender) {
                let _ = sender.send(Err(error));
            }
        })?;
        Ok(Pipe { pieces, piece: Vec::new(), at: 0, stopped })
    }
}

/// The far end: until all was handed over, or nobody takes it any more.
fn transfer(
    server: &Http,
    name: &str,
    from: u64,
    to: &SyncSender<Result<Vec<u8>, FetchError>>,
) -> Result<(), FetchError> {
    let url = || server.url(name);
    let file = server.open_from(name, from)?;
    let mut file = file.ok_or_else(|| FetchError::NotThere { url: url() })?;
    loop {
        let mut piece = Vec::new();
        (&mut file)
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .map_err(|source| FetchError::Read { url: url(), source })?;
        if piece.is_empty() || to.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if (self.stopped)() {
                return Err(io::Error::other("stopped"));
            }
            match self.pieces.recv_timeout(POLL) {
                Ok(Ok(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
