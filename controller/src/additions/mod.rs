//! What the operator adds to a system: files, owners, host keys, key files.
//!
//! | module | job |
//! |---|---|
//! | [`files`] | a directory as an archive |
//! | [`owner`] | `USER:GROUP` |
//! | [`keys`] | host keys and disks' key files, read and checked |

pub mod files;
pub mod keys;
pub mod owner;

pub use files::{Archive, ArchiveError};
pub use keys::{DiskKeys, HostKeyFile, KeyError};
