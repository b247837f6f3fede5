//! The Nix Archive format.
//!
//! ```text
//! nar       = str("nix-archive-1") node
//! node      = str("(") str("type") ( regular | symlink | directory ) str(")")
//! regular   = str("regular") [ str("executable") str("") ] str("contents") str(bytes)
//! symlink   = str("symlink") str("target") str(target)
//! directory = str("directory") { str("entry") str("(") str("name") str(name)
//!                                str("node") node str(")") }
//! str(s)    = u64le length, the bytes, zeroes up to a multiple of 8
//! ```
//!
//! Entries are sorted by raw bytes, strictly increasing. Source: Nix's manual, "Nix Archive
//! (NAR) format", and `src/libutil/archive.cc` for what a reader has to refuse.
//!
//! [`parse`] turns bytes into calls, for whoever takes them.

pub mod parse;

/// How deep directories may nest. Nix refuses deeper ones since 2.34.8.
pub const MAX_DEPTH: usize = 64;
/// The longest file name, in bytes: Linux's `NAME_MAX`.
pub const MAX_NAME: usize = 255;
/// The longest symlink target, in bytes: Linux's `PATH_MAX` less the terminating NUL.
pub const MAX_TARGET: usize = 4095;
/// The smallest archive there is, in bytes: an empty directory's.
pub const SMALLEST: u64 = 96;
/// The first string of every archive.
pub const MAGIC: &[u8] = b"nix-archive-1";

/// How many zeroes follow `length` bytes.
pub fn padding(length: u64) -> usize {
    (length.wrapping_neg() & 7) as usize
}
