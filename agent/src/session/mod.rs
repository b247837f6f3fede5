//! The conversation with whoever drives the agent, over stdin and stdout.
//!
//! | module | job |
//! |---|---|
//! | [`wire`] | frames in and out; a reader thread that notices an abort or the end of the stream at once |
//! | [`serve`] | one request after another |
//! | [`copy`] | a closure into a store below a directory, without an installation |
//! | [`lane`] | further connections, which carry blocks alone |
//! | [`remote`] | the executor's [`Supplies`](crate::execute::supplies::Supplies) from the other end |
//! | [`restart`] | going down for a reboot |
//!
//! stderr carries the log, stdout nothing but frames.

pub mod copy;
pub mod lane;
pub mod remote;
pub mod restart;
pub mod serve;
pub mod wire;

#[cfg(test)]
mod held_tests;
