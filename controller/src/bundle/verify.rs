//! Reads all of a bundle and checks it.

use super::{Bundle, BundleError};
use crate::closure::ClosureError;
use keystone_protocol::nar::parse::{FeedError, Parser, Sink};
use sha2::{Digest, Sha256};
use std::convert::Infallible;

/// Checks every block's hash, and every NAR's hash and form. `progress` is told the NAR bytes so
/// far, and says whether to go on.
pub fn verify(bundle: &Bundle, progress: &mut dyn FnMut(u64) -> bool) -> Result<(), ClosureError> {
    let fail = |source| ClosureError::Bundle { path: bundle.path().to_owned(), source };
    let malformed = |path: &str, error| {
        fail(BundleError::Malformed(format!("a NAR of {path} that is none: {error}")))
    };
    let mut nars = bundle
        .manifest()
        .paths
        .iter()
        .map(|info| (info, Parser::new(Nowhere, info.nar_size), Sha256::new()));
    let mut current = nars.next();
    let mut done = 0;
    for number in 0..bundle.blocks() {
        let bytes = bundle.decompress(number).map_err(fail)?;
        let mut rest = &bytes[..];
        while let Some((info, parser, sha256)) = current.as_mut() {
            let left = info.nar_size - parser.offset();
            let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at(here);
            sha256.update(now);
            match parser.feed(now) {
                Ok(()) => {}
                Err(FeedError::Format(error)) => return Err(malformed(&info.path, error)),
                Err(FeedError::Sink(never)) => match never {},
            }
            rest = later;
            if parser.offset() < info.nar_size {
                break;
            }
            let (info, parser, sha256) = current.take().expect("it was there above");
            parser.finish().map_err(|error| malformed(&info.path, error))?;
            let found = hex::encode(sha256.finalize());
            if found != info.nar_sha256 {
                let (path, expected) = (info.path.clone(), info.nar_sha256.clone());
                return Err(fail(BundleError::Nar { path, expected, found }));
            }
            current = nars.next();
        }
        done += bytes.len() as u64;
        if !progress(done) {
            return Err(fail(BundleError::Stopped));
        }
    }
    Ok(())
}

/// Takes everything.
struct Nowhere;

impl Sink for Nowhere {
    type Error = Infallible;

    fn directory(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn file(&mut self, _: &[u8], _: bool, _: u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn contents(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8], _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }
}
