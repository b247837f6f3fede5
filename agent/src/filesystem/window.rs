//! A device read and written through windows, for code that goes through it entry by entry.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Bytes in a window.
const LENGTH: u64 = 1 << 20;
/// Windows. Code that keeps two copies of a table writes to both in turn.
const WINDOWS: usize = 3;

/// A device of which a few aligned pieces are held in memory. What was written is on the device
/// after [`Write::flush`], and only then.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    size: u64,
    position: u64,
    /// The one that was used last comes first.
    held: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    at: u64,
    bytes: Vec<u8>,
    dirty: bool,
}

impl Piece {
    fn flush(&mut self, file: &File) -> io::Result<()> {
        if self.dirty {
            file.write_all_at(&self.bytes, self.at)?;
            self.dirty = false;
        }
        Ok(())
    }
}

impl<'a> Window<'a> {
    /// Of a device of that size.
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        Window { file, size, position: 0, held: Vec::new() }
    }

    /// The piece that holds the position, and where in it that is; `None` at the end.
    fn here(&mut self) -> io::Result<Option<(&mut Piece, usize)>> {
        if self.position >= self.size {
            return Ok(None);
        }
        let at = self.position / LENGTH * LENGTH;
        match self.held.iter().position(|piece| piece.at == at) {
            Some(index) => self.held[..=index].rotate_right(1),
            None => {
                if self.held.len() == WINDOWS
                    && let Some(oldest) = self.held.last_mut()
                {
                    oldest.flush(self.file)?;
                    self.held.pop();
                }
                let mut bytes = vec![0; LENGTH.min(self.size - at) as usize];
                self.file.read_exact_at(&mut bytes, at)?;
                self.held.insert(0, Piece { at, bytes, dirty: false });
            }
        }
        let inside = (self.position - at) as usize;
        Ok(self.held.first_mut().map(|piece| (piece, inside)))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((piece, inside)) = self.here()? else { return Ok(0) };
        let here = &piece.bytes[inside..];
        let length = here.len().min(buffer.len());
        buffer[..length].copy_from_slice(&here[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some((piece, inside)) = self.here()? else { return Ok(0) };
        let here = &mut piece.bytes[inside..];
        let length = here.len().min(bytes.len());
        here[..length].copy_from_slice(&bytes[..length]);
        piece.dirty |= length > 0;
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.held.iter_mut().try_for_each(|piece| piece.flush(self.file))
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = crate::block::seek::seek(self.position, self.size, to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// More than the windows hold.
    const SIZE: usize = 9 * LENGTH as usize / 2;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever is written and read where, it is as with the device itself.
        #[test]
        fn is_the_device(
            steps in prop::collection::vec((0..SIZE, 0..SIZE / 3, any::<u8>(), any::<bool>()), 1..20)
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(SIZE as u64).unwrap();
            let mut window = Window::new(&file, SIZE as u64);
            let mut model = Cursor::new(vec![0; SIZE]);
            for (at, length, byte, write) in steps {
                let length = length.min(SIZE - at);
                window.seek(SeekFrom::Start(at as u64)).unwrap();
                model.set_position(at as u64);
                if write {
                    window.write_all(&vec![byte; length]).unwrap();
                    model.write_all(&vec![byte; length]).unwrap();
                } else {
                    let (mut one, mut other) = (vec![0; length], vec![0; length]);
                    window.read_exact(&mut one).unwrap();
                    model.read_exact(&mut other).unwrap();
                    prop_assert!(one == other);
                }
            }
            window.flush().unwrap();
            let mut on_disk = vec![0; SIZE];
            file.read_exact_at(&mut on_disk, 0).unwrap();
            prop_assert!(on_disk == model.into_inner());
        }
    }

    #[test]
    fn nothing_is_past_the_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let mut window = Window::new(&file, 10);
        window.seek(SeekFrom::End(-2)).unwrap();
        assert_eq!(window.read(&mut [0; 8]).unwrap(), 2);
        assert_eq!(window.read(&mut [0; 8]).unwrap(), 0);
        assert!(window.write_all(&[1]).is_err());
    }
}
