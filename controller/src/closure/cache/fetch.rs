//! A NAR out of a compressed file, checked while it passes.

use super::CacheError;
use crate::closure::ClosureError;
use crate::closure::narinfo::NarInfo;
use crate::nar::{DumpError, HoldBack};
use keystone_fetch::told::Measured;
use keystone_fetch::{Decoder, FetchError, decode};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Writes the NAR that `narinfo` describes, out of its compressed `file`. The last byte is given
/// out once length and hash of file and NAR are right.
pub fn unpack(
    narinfo: &NarInfo,
    url: &str,
    file: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let cache = |error| DumpError::Source(ClosureError::Cache(error));
    let read = |source| cache(FetchError::Read { url: url.to_owned(), source }.into());
    let info = &narinfo.info;
    let wrong = |what, found: String, expected: String| {
        let (url, path) = (url.to_owned(), info.path.clone());
        cache(CacheError::Nar { url, path, what, found, expected })
    };
    let mut held = HoldBack::new(out, info.nar_size);
    let (mut sha256, mut length) = (Sha256::new(), 0u64);
    let mut decoder =
        Decoder::new(narinfo.compression, Measured::new(file), decode::AMPLE).map_err(read)?;
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
    decoder.into_inner().check(&narinfo.told(), url).map_err(|error| cache(error.into()))?;
    if length != info.nar_size {
        return Err(wrong("length", length.to_string(), info.nar_size.to_string()));
    }
    let found = hex::encode(sha256.finalize());
    if found != info.nar_sha256 {
        return Err(wrong("SHA-256", found, info.nar_sha256.clone()));
    }
    held.release()
}
