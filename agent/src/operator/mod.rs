//! What the operator adds to the system: files and owners.
//!
//! Everything is reached from the target's root through open directories, and no symbolic link is
//! followed on the way: what a directory of the operator's contains can't be led out of the target.
//!
//! | module | job |
//! |---|---|
//! | [`files`] | an archive of the operator's unpacked into the system |
//! | [`owner`] | owners set, with all below |
//! | [`accounts`] | numbers of the system's users and groups |
//! | `path` | a path's directories, opened one by one |

pub mod accounts;
pub mod files;
pub mod owner;
mod path;

pub use accounts::AccountError;
pub use files::{FilesError, Unpacked, unpack};
pub use owner::{OwnerError, set_owner};
