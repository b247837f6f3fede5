//! A NAR out of a compressed file, checked while it passes.

use super::CacheError;
use crate::closure::ClosureError;
use crate::closure::narinfo::{Compression, NarInfo};
use crate::nar::{DumpError, HoldBack};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read, Write};

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Memory that decompressing xz may take; what `xz -9` writes needs 65 MiB.
const XZ_MEMORY: u64 = 160 << 20;

/// Writes the NAR that `narinfo` describes, out of its compressed `file`. The last byte is given
/// out once length and hash of file and NAR are right.
pub fn unpack(
    narinfo: &NarInfo,
    url: &str,
    file: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let cache = |error| DumpError::Source(ClosureError::Cache(error));
    let read = |source| cache(CacheError::Read { url: url.to_owned(), source });
    let info = &narinfo.info;
    let wrong = |what, found: String, expected: String| {
        let (url, path) = (url.to_owned(), info.path.clone());
        cache(CacheError::Nar { url, path, what, found, expected })
    };
    let mut measured = Measured { file, sha256: Sha256::new(), length: 0 };
    let mut held = HoldBack::new(out, info.nar_size);
    let (mut sha256, mut length) = (Sha256::new(), 0u64);
    let mut decoder = decoder(narinfo.compression, &mut measured).map_err(read)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let got = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(read(source)),
        };
        length += got as u64;
        if length > info.nar_size {
            let found = format!("of more than {length} bytes");
            return Err(wrong("one", found, info.nar_size.to_string()));
        }
        sha256.update(&buffer[..got]);
        held.write_all(&buffer[..got]).map_err(DumpError::Sink)?;
    }
    drop(decoder);
    // What follows the compressed data belongs to the file's hash all the same.
    io::copy(&mut measured, &mut io::sink()).map_err(read)?;
    measured.check(narinfo, url).map_err(cache)?;
    if length != info.nar_size {
        return Err(wrong("length", length.to_string(), info.nar_size.to_string()));
    }
    let found = hex::encode(sha256.finalize());
    if found != info.nar_sha256 {
        return Err(wrong("SHA-256", found, info.nar_sha256.clone()));
    }
    held.release()
}

/// Files may consist of several compressed streams, as parallel compressors write them.
pub(crate) fn decoder<'a>(
    compression: Compression,
    file: impl Read + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    let file = BufReader::with_capacity(PIECE, file);
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        // Windows over 128 MiB are refused by the library's default.
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
    })
}

/// Measures a file that is read through it.
struct Measured<'a> {
    file: &'a mut dyn Read,
    sha256: Sha256,
    length: u64,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        self.sha256.update(&buffer[..got]);
        self.length += got as u64;
        Ok(got)
    }
}

impl Measured<'_> {
    fn check(self, narinfo: &NarInfo, url: &str) -> Result<(), CacheError> {
        let wrong = |what, found, expected| {
            Err(CacheError::File { url: url.to_owned(), what, found, expected })
        };
        if let Some(size) = narinfo.file_size.filter(|&size| size != self.length) {
            return wrong("length", self.length.to_string(), size.to_string());
        }
        let found = hex::encode(self.sha256.finalize());
        match narinfo.file_sha256.map(hex::encode).filter(|expected| *expected != found) {
            Some(expected) => wrong("SHA-256", found, expected),
            None => Ok(()),
        }
    }
}
