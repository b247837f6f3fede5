//! What the operator adds: files, owners, host keys.

use crate::activation::hostkey;
use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::progress::Throttle;
use crate::execute::supplies::Supplies;
use crate::execute::{Execution, StepResult};
use crate::operator;
use crate::store::Unpacked;
use crate::store::buffer::Buffer;
use keystone_protocol::event::{Event, EventKind, Unit};
use keystone_protocol::message::EXTRA_FILES;
use keystone_protocol::options::{Chown, ExtraFiles, HostKeys};
use std::io::{self, Read};
use std::path::Path;

/// Puts the operator's files into the system.
pub(super) fn put_files(run: &mut Execution<'_>, step: &str, files: &ExtraFiles) -> StepResult {
    run.supplies.want_extra_files()?;
    let mut throttle = Throttle::default();
    let cancel = run.cancel;
    let Execution { supplies, sink, began, .. } = run;
    let mut progress = |done: u64| {
        if throttle.due(done == files.bytes) {
            let at_ms = began.elapsed().as_millis() as u64;
            let (step, total) = (step.to_owned(), Some(files.bytes));
            let kind = EventKind::Progress { step, done, total, unit: Unit::Bytes };
            sink.emit(Event { at_ms, kind });
        }
    };
    let archive = Blocks::new(*supplies);
    let unpacked =
        operator::unpack(Path::new(TARGET), archive, files, &mut progress, cancel.flag())?;
    for warning in unpacked.warnings {
        run.warn(step, warning);
    }
    Ok(Ensured::Created)
}

/// Sets an owner, with all below.
pub(super) fn chown(chown: &Chown) -> StepResult {
    Ok(operator::set_owner(Path::new(TARGET), chown)?)
}

/// Gives the machine its SSH host keys; it has an Ed25519 key afterwards.
pub(super) fn host_keys(run: &mut Execution<'_>, keys: &HostKeys) -> StepResult {
    let root = Path::new(TARGET);
    let put = match keys {
        HostKeys::Made => Ensured::AlreadySo,
        HostKeys::Installer => {
            hostkey::put(root, &hostkey::of_installer(&run.machine.roots().etc)?, false)?
        }
        HostKeys::Given { public } => {
            hostkey::put(root, &hostkey::given(run.supplies.host_keys(), public)?, true)?
        }
    };
    let key = hostkey::ensure(root)?;
    run.machine.host_key_made(key.public);
    Ok(key.ensured.and(put))
}

/// The archive's blocks as one stream.
struct Blocks<'a> {
    supplies: &'a mut dyn Supplies,
    unpacked: Unpacked,
    piece: Buffer,
    at: usize,
    /// Where the next piece has to begin, in bytes.
    offset: u64,
    last: bool,
}

impl<'a> Blocks<'a> {
    fn new(supplies: &'a mut dyn Supplies) -> Self {
        let (unpacked, piece) = (Unpacked::default(), Buffer::default());
        Blocks { supplies, unpacked, piece, at: 0, offset: 0, last: false }
    }

    /// Takes the next block.
    fn block(&mut self) -> io::Result<()> {
        let block = self.supplies.next_block().map_err(io::Error::other)?;
        self.unpacked.take(block).map_err(io::Error::other)
    }

    /// Takes blocks until the next piece is whole.
    fn next_piece(&mut self) -> io::Result<()> {
        let (header, piece) = loop {
            match self.unpacked.next()? {
                Some(piece) => break piece,
                None => self.block()?,
            }
        };
        if header.path != EXTRA_FILES || header.offset != self.offset {
            return Err(io::Error::other("a block came that is not the next of the archive"));
        }
        (self.piece, self.at) = (piece, 0);
        self.offset += self.piece.len() as u64;
        self.last = header.last;
        // The end of a frame may be in a block of its own, which nobody else would take.
        while self.last && self.unpacked.in_frame() {
            self.block()?;
        }
        Ok(())
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.last {
                return Ok(0);
            }
            self.next_piece()?;
        }
        let take = buffer.len().min(self.piece.len() - self.at);
        buffer[..take].copy_from_slice(&self.piece[self.at..self.at + take]);
        self.at += take;
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::testing::Given;
    use crate::store::Block;
    use keystone_protocol::frame::{BlockHeader, Encoding};

    fn block(offset: usize, raw_len: usize, encoding: Encoding, last: bool, data: &[u8]) -> Block {
        let (path, offset, raw_len) = (EXTRA_FILES, offset as u64, raw_len as u32);
        let header = BlockHeader { path, offset, raw_len, encoding, last };
        Block { header, data: data.to_vec().into() }
    }

    /// What is read, and how many blocks nobody took.
    fn read(blocks: Vec<Block>) -> (io::Result<Vec<u8>>, usize) {
        let mut given = Given(blocks.into());
        let mut out = Vec::new();
        let read = Blocks::new(&mut given).read_to_end(&mut out);
        (read.map(|_| out), given.0.len())
    }

    #[test]
    fn blocks_of_every_encoding_become_one_archive_and_none_is_left() {
        let raw: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let (a, b) = (1000, 150_000);
        let frame = zstd::bulk::compress(&raw[b..], 3).unwrap();
        let (first, end) = frame.split_at(frame.len() - 2);
        let stream = |end| Encoding::Stream { end };
        let blocks = || {
            vec![
                block(0, a, Encoding::Raw, false, &raw[..a]),
                block(
                    a,
                    b - a,
                    Encoding::Zstd,
                    false,
                    &zstd::bulk::compress(&raw[a..b], 3).unwrap(),
                ),
                block(b, raw.len() - b, stream(false), true, first),
                block(b, 0, stream(true), false, end),
            ]
        };
        let (out, left) = read(blocks());
        assert!(out.unwrap() == raw);
        assert_eq!(left, 0);

        let mut missing = blocks();
        missing.remove(1);
        let error = read(missing).0.unwrap_err().to_string();
        assert!(error.contains("not the next"), "{error}");
        let mut of_a_path = blocks();
        of_a_path[0].header.path = 0;
        let error = read(of_a_path).0.unwrap_err().to_string();
        assert!(error.contains("not the next"), "{error}");
        let mut short = blocks();
        short.truncate(3);
        let error = read(short).0.unwrap_err().to_string();
        assert!(error.contains("too many blocks"), "{error}");
    }
}
