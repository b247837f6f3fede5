//! Partition tables: GPT (UEFI specification 2.10, section 5.3).
//!
//! The table is laid out by the `gpt` crate over the two ends of the disk in memory, then written
//! piece by piece so that a disk never looks installed before it is: the old headers go first,
//! the copy at the end of the disk and the new entries come next, primary header and protective
//! MBR last. What is on the disk afterwards is read back and compared byte by byte. The result is
//! the same, but for GUIDs and checksums, as `sgdisk` makes with the same sectors.
//!
//! | module | job |
//! |---|---|
//! | [`read`](mod@read) | the table on a disk, however damaged or foreign |
//! | [`image`] | the bytes of a table |
//! | [`hybrid`] | the MBR that shows some of its partitions |
//! | [`merge`] | a table that is there, and what the layout adds to it |
//! | [`ensure`] | the table on the disk, and the partitions in kernel and udev |

pub mod ensure;
pub mod hybrid;
pub mod image;
pub mod merge;
pub mod read;

pub use ensure::{GptError, TableIds, ensure, find, invalidate};
pub use read::{Entry, Gpt, is_damaged, read};

#[cfg(test)]
mod tests;
