//! Holds back the end of a NAR until it was found to be right.

use super::DumpError;
use std::io::{self, Write};

/// Gives everything on but the last byte, so that the receiver does not have a whole NAR before
/// [`HoldBack::release`].
pub struct HoldBack<'a> {
    out: &'a mut dyn Write,
    /// Bytes to come before the last.
    left: u64,
    last: Option<u8>,
    overflowed: bool,
}

impl<'a> HoldBack<'a> {
    /// In front of `out`, for a NAR of `size` bytes.
    pub fn new(out: &'a mut dyn Write, size: u64) -> Self {
        HoldBack { out, left: size.saturating_sub(1), last: None, overflowed: false }
    }

    /// Whether more came than was announced.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Gives the last byte out.
    pub fn release(self) -> Result<(), DumpError> {
        match self.last {
            Some(byte) => self.out.write_all(&[byte]).map_err(DumpError::Sink),
            None => Ok(()),
        }
    }
}

impl Write for HoldBack<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let now = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if now > 0 {
            let written = self.out.write(&data[..now])?;
            self.left -= written as u64;
            return Ok(written);
        }
        match (data, self.last) {
            ([], _) => Ok(0),
            ([byte, ..], None) => {
                self.last = Some(*byte);
                Ok(1)
            }
            _ => {
                self.overflowed = true;
                Err(io::Error::other("the NAR is longer than announced"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_waits() {
        let mut out = Vec::new();
        let mut held = HoldBack::new(&mut out, 5);
        held.write_all(b"abc").unwrap();
        held.write_all(b"de").unwrap();
        assert!(held.write_all(b"f").is_err());
        assert!(held.overflowed());
        drop(held);
        assert_eq!(out, b"abcd");
        let mut held = HoldBack::new(&mut out, 1);
        held.write_all(b"!").unwrap();
        held.release().unwrap();
        assert_eq!(out, b"abcd!");
    }
}
