//! Blocks' data, compressed: each alone, or as parts of one long frame.

use super::means::Means;
use std::io;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

/// Bytes that are tried first: what does not shrink there is sent as it is.
const SAMPLE: usize = 64 << 10;
/// Bytes that a thread of a stream's compressor takes at once.
pub(super) const JOB: u32 = 8 << 20;
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

/// Compresses one long frame in several threads, with a window over much of it.
pub(super) struct Stream {
    context: CCtx<'static>,
    level: i32,
}

impl Stream {
    /// A frame made with what `means` has.
    pub(super) fn new(level: i32, means: &Means) -> io::Result<Self> {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::WindowLog(means.window_log),
            CParameter::EnableLongDistanceMatching(true),
            CParameter::NbWorkers(means.cores as u32),
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
    use super::super::level::LEVELS;
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let byte = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        (0..length).map(byte).collect()
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let mut alone = Alone::new();
        let text = b"a line that is repeated\n".repeat(40_000);
        let noise = noise(1_000_000);
        for level in [-3, 1, 3, 9] {
            assert!(alone.compress(&text, level).unwrap().is_some(), "{level}");
            assert!(alone.compress(&noise, level).unwrap().is_none(), "{level}");
        }
    }

    /// Above the fast levels a part in the middle tells for all; what is hardly longer than that is tried whole.
    #[test]
    fn a_sample_tells() {
        let mut alone = Alone::new();
        let text = |length: usize| b"a line that is repeated\n".repeat(length / 24 + 1);
        let [mut amid, mut around] = [text(1_000_000), noise(4 << 20)];
        let (middle, half) = (amid.len() / 2, around.len() / 2);
        amid[middle..middle + SAMPLE].copy_from_slice(&noise(SAMPLE));
        around[half..half + SAMPLE].copy_from_slice(&text(SAMPLE)[..SAMPLE]);
        let mut short = text(2 * SAMPLE);
        short.truncate(2 * SAMPLE);
        short[SAMPLE..].copy_from_slice(&noise(SAMPLE));
        for level in [3, 9] {
            assert!(
                alone.compress(&amid, level).unwrap().is_none(),
                "{level}: the sample is noise"
            );
            assert!(
                alone.compress(&short, level).unwrap().is_some(),
                "{level}: there is no sample"
            );
            assert!(
                alone.compress(&around, level).unwrap().is_none(),
                "{level}: only the sample shrinks"
            );
        }
        assert!(alone.compress(&amid, 1).unwrap().is_some(), "a fast level takes all of it");
    }

    #[test]
    fn a_stream_is_one_frame_whatever_its_levels() {
        let raw: Vec<u8> = (0..6_000_000u32).flat_map(|n| (n / 11).to_le_bytes()).collect();
        let mut stream = Stream::new(3, &Means::of(2, 27, None)).unwrap();
        let mut out = Vec::new();
        for (i, piece) in raw.chunks(1 << 20).enumerate() {
            stream.take(piece, 3 + i as i32 % 4, &mut out).unwrap();
        }
        stream.end(&mut out).unwrap();
        assert!(zstd::bulk::decompress(&out, raw.len()).unwrap() == raw);
    }

    /// Noise and text, all of it again and again: so that no level takes long with it.
    fn mixed(length: usize) -> Vec<u8> {
        let mut out = noise(12_000_000);
        let text: Vec<u8> = out[..600_000]
            .iter()
            .flat_map(|byte| format!("word {byte:x} of\n").into_bytes())
            .collect();
        out.extend(text);
        let mixed = out.len();
        while out.len() < length {
            out.extend_from_within(out.len() - mixed..);
        }
        out.truncate(length);
        out
    }

    fn memory_now(what: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    }

    /// What is counted for a thread's tables is what zstd takes for them.
    #[test]
    fn tables_are_as_large_as_they_are_counted() {
        for known in LEVELS {
            let mut context = CCtx::create();
            for parameter in [CParameter::CompressionLevel(known.zstd), CParameter::WindowLog(26)] {
                context.set_parameter(parameter).unwrap();
            }
            let mut out = vec![0; 1 << 10];
            let mut output = OutBuffer::around(&mut out[..]);
            let mut input = InBuffer::around(b"a");
            let directive = Directive::ZSTD_e_continue;
            context.compress_stream2(&mut output, &mut input, directive).unwrap();
            // Without the buffers that only a compressor of one thread has.
            let tables = context.sizeof() as u64 - (64 << 20) - (256 << 10);
            let counted = known.tables;
            assert!((tables..tables + (2 << 20)).contains(&counted), "{}: {tables}", known.zstd);
        }
    }

    /// Prints what a stream's compressor takes. Alone, since it is this process that is measured:
    /// `cargo test -p keystone-controller --lib what_a_stream_takes -- --ignored --nocapture`.
    #[test]
    #[ignore = "takes minutes, and measures the whole process"]
    fn what_a_stream_takes() {
        let raw = mixed(300_000_000);
        let levels =
            LEVELS.iter().enumerate().filter(|(_, known)| [3, 12, 19].contains(&known.zstd));
        for (best, known) in levels {
            for cores in [2, 4, 8] {
                let means = Means { cores, window_log: 27, best };
                std::fs::write("/proc/self/clear_refs", "5").unwrap();
                let before = memory_now("VmRSS:");
                let mut stream = Stream::new(known.zstd, &means).unwrap();
                let (mut sent, began) = (0, std::time::Instant::now());
                let mut out = Vec::new();
                for piece in raw.chunks(1 << 20) {
                    stream.take(piece, known.zstd, &mut out).unwrap();
                    sent += out.len();
                    out.clear();
                }
                stream.end(&mut out).unwrap();
                sent += out.len();
                let took = memory_now("VmHWM:") - before;
                println!(
                    "level {}, {cores} threads: {} MiB, counted {} MiB; {} MB in {:.0} s",
                    known.zstd,
                    took >> 20,
                    means.memory() >> 20,
                    sent / 1_000_000,
                    began.elapsed().as_secs_f64()
                );
                assert!(took <= means.memory());
            }
        }
    }
}
