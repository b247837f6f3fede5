//! A NAR as a series of calls.
//!
//! The parser is fed pieces of any size, keeps no more than one name or symlink target, and
//! hands contents on as they come. Every length is compared with what is left of the archive
//! before anything is done with it.

use super::{MAGIC, MAX_DEPTH, MAX_NAME, MAX_TARGET, padding};
use thiserror::Error;

/// What an archive's objects are handed to.
///
/// The root's name is empty. A directory's entries come between [`Sink::directory`] and
/// [`Sink::end_directory`]; a file's contents, `size` bytes in all, between [`Sink::file`] and
/// [`Sink::end_file`].
pub trait Sink {
    /// Why an object could not be taken.
    type Error;
    /// A directory begins.
    fn directory(&mut self, name: &[u8]) -> Result<(), Self::Error>;
    /// The innermost directory ends.
    fn end_directory(&mut self) -> Result<(), Self::Error>;
    /// A regular file of `size` bytes begins.
    fn file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), Self::Error>;
    /// More of the file's contents.
    fn contents(&mut self, data: &[u8]) -> Result<(), Self::Error>;
    /// The file ends.
    fn end_file(&mut self) -> Result<(), Self::Error>;
    /// A symbolic link.
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Self::Error>;
}

/// Bytes that are no NAR. Offsets count from the archive's first byte.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// Another string than the format has there.
    #[error("NAR is malformed: expected {expected} at byte {offset}")]
    Expected {
        /// What had to come.
        expected: &'static str,
        /// Where.
        offset: u64,
    },
    /// A length over what is allowed there or left of the archive.
    #[error("NAR is malformed: length of {length} at byte {offset}, at most {limit} are allowed")]
    Length {
        /// The length.
        length: u64,
        /// The limit.
        limit: u64,
        /// Where.
        offset: u64,
    },
    /// Padding other than zeroes.
    #[error("NAR is malformed: padding before byte {0} is not zero")]
    Padding(u64),
    /// A name that no directory entry may have.
    #[error("NAR is malformed: illegal file name {0:?}")]
    Name(String),
    /// A symlink target that no symlink may have.
    #[error("NAR is malformed: illegal symlink target {0:?}")]
    Target(String),
    /// Entries out of order, or twice the same.
    #[error("NAR is malformed: entry {name:?} after {previous:?}")]
    Order {
        /// The entry.
        name: String,
        /// The one before.
        previous: String,
    },
    /// Directories nested too deep.
    #[error("NAR is malformed: directories nested deeper than {MAX_DEPTH}")]
    Depth,
    /// Bytes after the end.
    #[error("NAR is malformed: data after its end at byte {0}")]
    Trailing(u64),
    /// It ends too early.
    #[error("NAR ends at byte {0}, in the middle")]
    Truncated(u64),
}

/// Why bytes were not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedError<E> {
    /// They are no NAR.
    Format(FormatError),
    /// The sink failed.
    Sink(E),
}

impl<E> From<FormatError> for FeedError<E> {
    fn from(error: FormatError) -> Self {
        FeedError::Format(error)
    }
}

/// The string that has to come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Magic,
    Open,
    TypeKey,
    Type,
    ExecutableOrContents,
    ExecutableValue,
    ContentsKey,
    Contents,
    TargetKey,
    Target,
    Close,
    EntryOrClose,
    EntryOpen,
    NameKey,
    Name,
    NodeKey,
    EntryClose,
    Nothing,
}

impl Want {
    /// What it is called in messages, and the longest string that can be it.
    fn describe(self) -> (&'static str, u64) {
        match self {
            Want::Magic => ("`nix-archive-1`", MAGIC.len() as u64),
            Want::Open | Want::EntryOpen => ("`(`", 1),
            Want::TypeKey => ("`type`", 4),
            Want::Type => ("`regular`, `symlink` or `directory`", 9),
            Want::ExecutableOrContents => ("`executable` or `contents`", 10),
            Want::ExecutableValue => ("an empty string", 0),
            Want::ContentsKey => ("`contents`", 8),
            Want::Contents => ("contents", u64::MAX),
            Want::TargetKey => ("`target`", 6),
            Want::Target => ("a symlink target", MAX_TARGET as u64),
            Want::Close | Want::EntryClose => ("`)`", 1),
            Want::EntryOrClose => ("`entry` or `)`", 5),
            Want::NameKey => ("`name`", 4),
            Want::Name => ("a file name", MAX_NAME as u64),
            Want::NodeKey => ("`node`", 4),
            Want::Nothing => ("nothing", 0),
        }
    }
}

/// Where in a string the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Length,
    /// A short string with its padding, of which the first `length` bytes count.
    Short {
        length: usize,
        total: usize,
    },
    Contents {
        left: u64,
        pad: usize,
    },
    Padding {
        left: usize,
    },
}

/// The parser.
#[derive(Debug)]
pub struct Parser<S> {
    sink: S,
    /// How long the archive is, in bytes, by what is known of it.
    size: u64,
    offset: u64,
    want: Want,
    part: Part,
    buffer: Vec<u8>,
    /// For each open directory the name of its latest entry, empty before the first.
    directories: Vec<Vec<u8>>,
    executable: bool,
}

impl<S: Sink> Parser<S> {
    /// A parser of an archive of `size` bytes.
    pub fn new(sink: S, size: u64) -> Self {
        Parser {
            sink,
            size,
            offset: 0,
            want: Want::Magic,
            part: Part::Length,
            buffer: Vec::with_capacity(64),
            directories: Vec::new(),
            executable: false,
        }
    }

    /// How many bytes were taken.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The sink.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Takes the next bytes. After an error the parser must not be used again.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<(), FeedError<S::Error>> {
        if self.offset + input.len() as u64 > self.size {
            return Err(FormatError::Trailing(self.size).into());
        }
        while !input.is_empty() {
            if self.want == Want::Nothing {
                return Err(FormatError::Trailing(self.offset).into());
            }
            let taken = match self.part {
                Part::Length => {
                    let taken = self.collect(input, 8);
                    if let Ok(bytes) = <[u8; 8]>::try_from(self.buffer.as_slice()) {
                        self.buffer.clear();
                        self.length(u64::from_le_bytes(bytes))?;
                    }
                    taken
                }
                Part::Short { length, total } => {
                    let taken = self.collect(input, total);
                    self.offset += taken as u64;
                    if self.buffer.len() == total {
                        let string = std::mem::take(&mut self.buffer);
                        self.short(&string, length)?;
                        self.buffer = string;
                        self.buffer.clear();
                    }
                    input = &input[taken..];
                    continue;
                }
                Part::Contents { left, pad } => {
                    let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.sink.contents(&input[..taken]).map_err(FeedError::Sink)?;
                    self.after_contents(left - taken as u64, pad)?;
                    taken
                }
                Part::Padding { left } => {
                    let taken = input.len().min(left);
                    if input[..taken].iter().any(|b| *b != 0) {
                        return Err(FormatError::Padding(self.offset + taken as u64).into());
                    }
                    self.part = match left - taken {
                        0 => self.next(Want::Close),
                        left => Part::Padding { left },
                    };
                    taken
                }
            };
            self.offset += taken as u64;
            input = &input[taken..];
        }
        Ok(())
    }

    /// Says that no bytes follow. Gives the sink back if the archive is whole.
    pub fn finish(self) -> Result<S, FormatError> {
        if self.want == Want::Nothing && self.offset == self.size {
            Ok(self.sink)
        } else {
            Err(FormatError::Truncated(self.offset))
        }
    }

    /// Moves bytes to the buffer until it has `total`; says how many.
    fn collect(&mut self, input: &[u8], total: usize) -> usize {
        let taken = input.len().min(total - self.buffer.len());
        self.buffer.extend_from_slice(&input[..taken]);
        taken
    }

    fn next(&mut self, want: Want) -> Part {
        self.want = want;
        Part::Length
    }

    /// A string's length is known.
    fn length(&mut self, length: u64) -> Result<(), FeedError<S::Error>> {
        let (_, limit) = self.want.describe();
        // `offset` is at the length's last byte or before it; what is left is at most this.
        let left = self.size.saturating_sub(self.offset);
        let limit = limit.min(left);
        if length > limit {
            return Err(FormatError::Length { length, limit, offset: self.offset }.into());
        }
        let pad = padding(length);
        if self.want == Want::Contents {
            let name = self.name();
            self.sink.file(&name, self.executable, length).map_err(FeedError::Sink)?;
            return self.after_contents(length, pad);
        }
        let length = length as usize;
        if length == 0 {
            return self.short(&[], 0);
        }
        self.part = Part::Short { length, total: length + pad };
        Ok(())
    }

    fn after_contents(&mut self, left: u64, pad: usize) -> Result<(), FeedError<S::Error>> {
        self.part = if left > 0 {
            Part::Contents { left, pad }
        } else {
            self.sink.end_file().map_err(FeedError::Sink)?;
            if pad > 0 { Part::Padding { left: pad } } else { self.next(Want::Close) }
        };
        Ok(())
    }

    /// The name of the object that is being read.
    fn name(&self) -> Vec<u8> {
        self.directories.last().cloned().unwrap_or_default()
    }

    /// A short string is complete: `padded`, of which `length` bytes count.
    fn short(&mut self, padded: &[u8], length: usize) -> Result<(), FeedError<S::Error>> {
        let (string, zeroes) = padded.split_at(length);
        if zeroes.iter().any(|b| *b != 0) {
            return Err(FormatError::Padding(self.offset).into());
        }
        let next = match (self.want, string) {
            (Want::Magic, MAGIC) => Want::Open,
            (Want::Open, b"(") => Want::TypeKey,
            (Want::TypeKey, b"type") => Want::Type,
            (Want::Type, b"regular") => {
                self.executable = false;
                Want::ExecutableOrContents
            }
            (Want::Type, b"symlink") => Want::TargetKey,
            (Want::Type, b"directory") => {
                if self.directories.len() == MAX_DEPTH {
                    return Err(FormatError::Depth.into());
                }
                let name = self.name();
                self.sink.directory(&name).map_err(FeedError::Sink)?;
                self.directories.push(Vec::new());
                Want::EntryOrClose
            }
            (Want::ExecutableOrContents, b"executable") => Want::ExecutableValue,
            (Want::ExecutableValue, b"") => {
                self.executable = true;
                Want::ContentsKey
            }
            (Want::ExecutableOrContents | Want::ContentsKey, b"contents") => Want::Contents,
            (Want::TargetKey, b"target") => Want::Target,
            (Want::Target, target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(FormatError::Target(text(target)).into());
                }
                let name = self.name();
                self.sink.symlink(&name, target).map_err(FeedError::Sink)?;
                Want::Close
            }
            (Want::Close, b")") => self.after_node(),
            (Want::EntryOrClose, b"entry") => Want::EntryOpen,
            (Want::EntryOrClose, b")") => {
                self.sink.end_directory().map_err(FeedError::Sink)?;
                self.directories.pop();
                self.after_node()
            }
            (Want::EntryOpen, b"(") => Want::NameKey,
            (Want::NameKey, b"name") => Want::Name,
            (Want::Name, name) => {
                self.entry(name)?;
                Want::NodeKey
            }
            (Want::NodeKey, b"node") => Want::Open,
            (Want::EntryClose, b")") => Want::EntryOrClose,
            (want, _) => {
                let (expected, _) = want.describe();
                return Err(FormatError::Expected { expected, offset: self.offset }.into());
            }
        };
        self.part = self.next(next);
        Ok(())
    }

    fn after_node(&self) -> Want {
        if self.directories.is_empty() { Want::Nothing } else { Want::EntryClose }
    }

    fn entry(&mut self, name: &[u8]) -> Result<(), FormatError> {
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(FormatError::Name(text(name)));
        }
        // A name is only wanted inside a directory.
        if let Some(previous) = self.directories.last_mut() {
            if name <= previous.as_slice() {
                return Err(FormatError::Order { name: text(name), previous: text(previous) });
            }
            previous.clear();
            previous.extend_from_slice(name);
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
