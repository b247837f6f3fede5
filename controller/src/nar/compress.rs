//! Blocks' data, compressed: each alone, or as parts of one long frame.

use std::io;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

/// Bytes that are tried first: what does not shrink there is sent as it is.
const SAMPLE: usize = 64 << 10;
/// Bytes that a thread of a stream's compressor takes at once.
const JOB: u32 = 8 << 20;
/// Bytes of output that are made room for at once.
const OUT: usize = 256 << 10;

fn error(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

/// Compresses blocks alone.
pub(super) struct Alone {
    context: CCtx<'static>,
}

impl Alone {
    pub(super) fn new() -> Self {
        Alone { context: CCtx::create() }
    }

    /// Compressed if that saves at least one part in 32, else `None`.
    pub(super) fn compress(&mut self, raw: &[u8], level: i32) -> io::Result<Option<Vec<u8>>> {
        let worth = |compressed: usize, of: usize| compressed <= of - of / 32;
        // The fast levels give up nearly as soon by themselves.
        if level > 1 && raw.len() > 2 * SAMPLE {
            let middle = raw.len() / 2;
            let sample = self.frame(&raw[middle..middle + SAMPLE], 1)?;
            if !worth(sample.len(), SAMPLE) {
                return Ok(None);
            }
        }
        let compressed = self.frame(raw, level)?;
        Ok(worth(compressed.len(), raw.len()).then_some(compressed))
    }

    fn frame(&mut self, raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
        self.context.compress(&mut out, raw, level).map_err(error)?;
        Ok(out)
    }
}

/// Compresses one long frame on all cores, with a window over much of it.
pub(super) struct Stream {
    context: CCtx<'static>,
    level: i32,
}

impl Stream {
    /// A frame that may refer 2^`window_log` bytes back.
    pub(super) fn new(level: i32, window_log: u32) -> io::Result<Self> {
        let mut context = CCtx::create();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::WindowLog(window_log),
            CParameter::EnableLongDistanceMatching(true),
            CParameter::NbWorkers(cores as u32),
            CParameter::JobSize(JOB),
        ] {
            context.set_parameter(parameter).map_err(error)?;
        }
        Ok(Stream { context, level })
    }

    /// Takes bytes; what of the frame is ready is appended to `out`.
    pub(super) fn take(&mut self, raw: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
        if level != self.level {
            // Holds from the next part on that a thread takes.
            self.context.set_parameter(CParameter::CompressionLevel(level)).map_err(error)?;
            self.level = level;
        }
        let mut input = InBuffer::around(raw);
        while input.pos() < raw.len() {
            self.step(&mut input, Directive::ZSTD_e_continue, out)?;
        }
        // What else is ready already.
        while self.step(&mut input, Directive::ZSTD_e_continue, out)?.1 == OUT {}
        Ok(())
    }

    /// Appends to `out` what it takes to have all that was taken until now; the frame goes on.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(&[]);
        while self.step(&mut input, Directive::ZSTD_e_flush, out)?.0 > 0 {}
        Ok(())
    }

    /// Ends the frame.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(&[]);
        while self.step(&mut input, Directive::ZSTD_e_end, out)?.0 > 0 {}
        Ok(())
    }

    /// One call; returns what zstd says of what is left, and how many bytes came out.
    fn step(
        &mut self,
        input: &mut InBuffer<'_>,
        directive: Directive,
        out: &mut Vec<u8>,
    ) -> io::Result<(usize, usize)> {
        let before = out.len();
        out.resize(before + OUT, 0);
        let mut output = OutBuffer::around(&mut out[before..]);
        let left = self.context.compress_stream2(&mut output, input, directive).map_err(error);
        let made = output.pos();
        out.truncate(before + made);
        Ok((left?, made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shrinks_is_compressed() {
        let mut alone = Alone::new();
        let text = b"a line that is repeated\n".repeat(40_000);
        assert!(alone.compress(&text, 1).unwrap().is_some());
        let mut state = 1u64;
        let noise: Vec<u8> = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            })
            .collect();
        assert!(alone.compress(&noise, 1).unwrap().is_none());
    }

    #[test]
    fn a_stream_is_one_frame_whatever_its_levels() {
        let raw: Vec<u8> = (0..6_000_000u32).flat_map(|n| (n / 11).to_le_bytes()).collect();
        let mut stream = Stream::new(3, 27).unwrap();
        let mut out = Vec::new();
        for (i, piece) in raw.chunks(1 << 20).enumerate() {
            stream.take(piece, 3 + i as i32 % 4, &mut out).unwrap();
        }
        stream.end(&mut out).unwrap();
        assert!(zstd::bulk::decompress(&out, raw.len()).unwrap() == raw);
    }
}
