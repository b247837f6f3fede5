//! `zfs`: a device that belongs to a pool.

use super::error::LayoutError;
use super::{hooks, read::Object};

/// A member of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsMember {
    /// Its place in the document.
    pub path: String,
    /// The pool, by its name below `zpool`.
    pub pool: String,
}

impl ZfsMember {
    /// Reads a member whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse(&mut object)?;
        object.string_opt("device")?;
        let member = ZfsMember { path: object.path().to_owned(), pool: object.string("pool")? };
        object.finish()?;
        Ok(member)
    }
}
