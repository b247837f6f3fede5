//! Whether a file is the one that was told of.

use super::FetchError;
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// What a narinfo says of a compressed file, as far as it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its SHA-256.
    pub sha256: Option<[u8; 32]>,
}

/// Measures a file that is read through it.
#[derive(Debug)]
pub struct Measured<R> {
    file: R,
    sha256: Sha256,
    length: u64,
}

impl<R: Read> Measured<R> {
    /// Measures `file`, of which nothing was read.
    pub fn new(file: R) -> Self {
        Measured { file, sha256: Sha256::new(), length: 0 }
    }

    /// Reads the rest, which belongs to the file although it may be behind the compressed data, and
    /// compares.
    ///
    /// # Errors
    /// The rest can't be read, or the file at `url` (as it may be shown) is another one.
    pub fn check(mut self, told: &Told, url: &str) -> Result<(), FetchError> {
        io::copy(&mut self, &mut io::sink())
            .map_err(|source| FetchError::Read { url: url.to_owned(), source })?;
        let wrong = |what, found, expected| {
            Err(FetchError::File { url: url.to_owned(), what, found, expected })
        };
        if let Some(size) = told.size.filter(|&size| size != self.length) {
            return wrong("length", self.length.to_string(), size.to_string());
        }
        let found = hex::encode(self.sha256.finalize());
        match told.sha256.map(hex::encode).filter(|expected| *expected != found) {
            Some(expected) => wrong("SHA-256", found, expected),
            None => Ok(()),
        }
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        self.sha256.update(&buffer[..got]);
        self.length += got as u64;
        Ok(got)
    }
}
