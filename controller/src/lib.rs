//! The operator's side of Keystone's installer.

pub mod closure;
pub mod nar;
pub mod ssh;
