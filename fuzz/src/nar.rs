// What the NAR reader must hold to, whatever it reads. Included by the fuzz target and by a test.

use keystone_protocol::nar::parse::{FeedError, Parser, Sink};
use std::convert::Infallible;

/// Reads `data` as a NAR. The format is canonical: what is accepted is what one would write of
/// what was read, byte for byte; and the result does not depend on how the bytes are cut.
/// Returns whether it was accepted.
pub(crate) fn run(data: &[u8]) -> bool {
    let whole = read(data, data.len().max(1));
    for piece in [1, 7, 64] {
        assert_eq!(read(data, piece), whole, "in pieces of {piece}");
    }
    if let Some(written) = &whole {
        assert_eq!(written, data);
    }
    whole.is_some()
}

fn read(data: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut parser = Parser::new(Writer::default(), data.len() as u64);
    for piece in data.chunks(piece) {
        match parser.feed(piece) {
            Ok(()) => {}
            Err(FeedError::Format(_)) => return None,
        }
    }
    parser.finish().ok().map(|writer| writer.out)
}

/// Writes what is read.
#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    depth: usize,
    begun: bool,
    length: u64,
}

impl Writer {
    fn string(&mut self, bytes: &[u8]) {
        self.out.extend((bytes.len() as u64).to_le_bytes());
        self.out.extend(bytes);
        self.out.resize(self.out.len().next_multiple_of(8), 0);
    }

    fn begin(&mut self, name: &[u8], kind: &[u8]) {
        if !self.begun {
            self.begun = true;
            self.string(b"nix-archive-1");
        }
        if self.depth > 0 {
            assert!(!name.is_empty() && name != b"." && name != b"..");
            assert!(!name.contains(&b'/') && !name.contains(&0));
            for word in [b"entry" as &[u8], b"(", b"name", name, b"node"] {
                self.string(word);
            }
        }
        for word in [b"(" as &[u8], b"type", kind] {
            self.string(word);
        }
    }

    fn end(&mut self) {
        self.string(b")");
        if self.depth > 0 {
            self.string(b")");
        }
    }
}

impl Sink for Writer {
    type Error = Infallible;

    fn directory(&mut self, name: &[u8]) -> Result<(), Infallible> {
        self.begin(name, b"directory");
        self.depth += 1;
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), Infallible> {
        self.depth -= 1;
        self.end();
        Ok(())
    }

    fn file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), Infallible> {
        self.begin(name, b"regular");
        if executable {
            self.string(b"executable");
            self.string(b"");
        }
        self.string(b"contents");
        self.out.extend(size.to_le_bytes());
        self.length = size;
        Ok(())
    }

    fn contents(&mut self, data: &[u8]) -> Result<(), Infallible> {
        self.length = self.length.checked_sub(data.len() as u64).expect("no more than announced");
        self.out.extend(data);
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Infallible> {
        assert_eq!(self.length, 0);
        self.out.resize(self.out.len().next_multiple_of(8), 0);
        self.end();
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Infallible> {
        assert!(!target.is_empty() && !target.contains(&0));
        self.begin(name, b"symlink");
        self.string(b"target");
        self.string(target);
        self.end();
        Ok(())
    }
}
