//! The Nix Archive format, to and from the disk.
//!
//! The format itself is [`keystone_protocol::nar`]: its parser turns bytes into calls, [`unpack`]
//! turns the calls into files, [`dump`] turns files into bytes again, [`replay`] does so with an
//! archive that is only half there.

pub mod dump;
pub mod replay;
pub mod unpack;

pub use keystone_protocol::nar::parse;
pub(crate) use keystone_protocol::nar::{MAGIC, MAX_DEPTH, padding};

#[cfg(test)]
mod tests;
