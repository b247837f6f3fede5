//! Decompression, piece by piece.

use keystone_protocol::fetch::Compression;
use std::io::{self, BufReader, Read};

/// Memory that any file may take that is compressed as files in caches are: what `xz -9` writes needs
/// 65 MiB, and a zstd window of 128 MiB is the largest that its library takes by default. Bytes.
pub const AMPLE: u64 = 160 << 20;
/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Decompresses what is read through it.
///
/// Files may consist of several compressed streams, as parallel compressors write them.
pub enum Decoder<'a, R: Read> {
    /// As it is.
    None(BufReader<R>),
    /// bzip2.
    Bzip2(bzip2::bufread::MultiBzDecoder<BufReader<R>>),
    /// gzip.
    Gzip(flate2::bufread::MultiGzDecoder<BufReader<R>>),
    /// xz.
    Xz(liblzma::bufread::XzDecoder<BufReader<R>>),
    /// Zstandard.
    Zstd(zstd::Decoder<'a, BufReader<R>>),
}

impl<R: Read> Decoder<'_, R> {
    /// Decompresses `file`, with windows of at most `memory` bytes. A file that needs more can't be
    /// read, which shows before its first byte.
    ///
    /// # Errors
    /// A decompressor can't be made.
    pub fn new(compression: Compression, file: R, memory: u64) -> io::Result<Self> {
        let file = BufReader::with_capacity(PIECE, file);
        Ok(match compression {
            Compression::None => Decoder::None(file),
            Compression::Bzip2 => Decoder::Bzip2(bzip2::bufread::MultiBzDecoder::new(file)),
            Compression::Gzip => Decoder::Gzip(flate2::bufread::MultiGzDecoder::new(file)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    memory,
                    liblzma::stream::CONCATENATED,
                )?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(file, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(file)?;
                decoder.window_log_max(memory.max(1).ilog2())?;
                Decoder::Zstd(decoder)
            }
        })
    }

    /// The compressed file, as far as it was read.
    pub fn into_inner(self) -> R {
        match self {
            Decoder::None(file) => file,
            Decoder::Bzip2(decoder) => decoder.into_inner(),
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        }
        .into_inner()
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::None(file) => file.read(buffer),
            Decoder::Bzip2(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What needs more memory than it may have is known before a byte comes out.
    #[test]
    fn memory_is_bounded() {
        let raw: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
        zstd.window_log(26).unwrap();
        zstd.include_contentsize(false).unwrap();
        zstd.write_all(&raw).unwrap();
        let zstd = zstd.finish().unwrap();
        let xz = liblzma::encode_all(&raw[..], 9).unwrap();
        for (compression, file) in [(Compression::Zstd, zstd), (Compression::Xz, xz)] {
            let mut out = Vec::new();
            let mut little = Decoder::new(compression, &file[..], 16 << 20).unwrap();
            little.read_to_end(&mut out).unwrap_err();
            assert!(out.is_empty(), "{compression:?}");
            let mut ample = Decoder::new(compression, &file[..], AMPLE).unwrap();
            ample.read_to_end(&mut out).unwrap();
            assert!(out == raw, "{compression:?}");
        }
    }
}
