//! The protocol's version.
//!
//! Both ends send their version first and refuse any other. The controller carries the agent it
//! was built with, so a mismatch means that one of the two was replaced by hand.

use thiserror::Error;

/// The version this crate speaks. Raised by any change that an older end would misread.
pub const PROTOCOL_VERSION: u32 = 6;

/// Which end of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `keystone`, on the operator's computer.
    Controller,
    /// `keystone-agent`, on the machine being installed.
    Agent,
}

impl End {
    fn program(self) -> &'static str {
        match self {
            End::Controller => "keystone",
            End::Agent => "keystone-agent",
        }
    }

    fn other(self) -> End {
        match self {
            End::Controller => End::Agent,
            End::Agent => End::Controller,
        }
    }
}

/// The other end speaks another version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{} speaks protocol version {theirs}, {} speaks {ours}: update {}",
    peer.program(), peer.other().program(), self.update().program()
)]
pub struct VersionMismatch {
    /// The end whose hello was read.
    pub peer: End,
    /// Its version.
    pub theirs: u32,
    /// This end's version.
    pub ours: u32,
}

impl VersionMismatch {
    /// The end that is older and has to be updated.
    pub fn update(&self) -> End {
        if self.theirs < self.ours { self.peer } else { self.peer.other() }
    }
}

/// Checks the version in a hello read from `peer`.
pub fn check(peer: End, theirs: u32) -> Result<(), VersionMismatch> {
    if theirs == PROTOCOL_VERSION {
        Ok(())
    } else {
        Err(VersionMismatch { peer, theirs, ours: PROTOCOL_VERSION })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_end_is_named() {
        let newer_agent = check(End::Agent, PROTOCOL_VERSION + 1).unwrap_err();
        assert!(newer_agent.to_string().ends_with("update keystone"), "{newer_agent}");
        let older_agent = check(End::Agent, PROTOCOL_VERSION - 1).unwrap_err();
        assert!(older_agent.to_string().ends_with("update keystone-agent"), "{older_agent}");
        assert!(check(End::Controller, PROTOCOL_VERSION).is_ok());
    }
}
