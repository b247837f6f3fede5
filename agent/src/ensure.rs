//! What an *ensure* did.
//!
//! Every effect can be asked for again: it makes what is missing, leaves what is as it has to
//! be, and says which of the two it was. When it fails it undoes what it opened.

use keystone_protocol::event::Outcome;

/// What an ensure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whether something was changed is part of the report"]
pub enum Ensured {
    /// It made or changed something.
    Created,
    /// Everything was as it has to be.
    AlreadySo,
}

impl Ensured {
    /// `Created` if either was.
    pub fn and(self, other: Ensured) -> Ensured {
        match (self, other) {
            (Ensured::AlreadySo, Ensured::AlreadySo) => Ensured::AlreadySo,
            _ => Ensured::Created,
        }
    }
}

impl From<Ensured> for Outcome {
    fn from(ensured: Ensured) -> Self {
        match ensured {
            Ensured::Created => Outcome::Created,
            Ensured::AlreadySo => Outcome::AlreadySo,
        }
    }
}
