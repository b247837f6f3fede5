//! Passwords, PINs and recovery keys on the operator's side.
//!
//! | module | job |
//! |---|---|
//! | [`source`] | reads a secret from a file, a pipe or standard input |
//! | [`recovery`] | the file that takes the recovery keys |
//!
//! Never in arguments, environment, logs or `--json`; zeroed when no longer needed.

pub mod recovery;
pub mod source;

pub use recovery::RecoveryKeyFile;
pub use source::SecretSource;
