//! Passwords, PINs and recovery keys on the operator's side.
//!
//! | module | job |
//! |---|---|
//! | [`source`] | reads a secret from a file, a pipe or standard input |
//! | `private` | memory kept out of core dumps |
//! | [`recovery`] | the file that takes the recovery keys |
//!
//! Never in arguments, environment, logs or `--json`; zeroed when no longer needed.

mod private;
pub mod recovery;
pub mod source;

pub use private::keep_memory_private;
pub use recovery::RecoveryKeyFile;
pub use source::SecretSource;
