//! `zfs`: a device that belongs to a pool.

use super::error::LayoutError;
use super::hooks::Hooks;
use super::read::Object;

/// A member of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsMember {
    /// Its place in the document.
    pub path: String,
    /// The pool, by its name below `zpool`.
    pub pool: String,
    /// The link by which a pool's topology names it.
    pub device: Option<String>,
    /// Its hooks.
    pub hooks: Hooks,
}

impl ZfsMember {
    /// Reads a member whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        let device = object.string_opt("device")?;
        let path = object.path().to_owned();
        let member = ZfsMember { path, pool: object.string("pool")?, device, hooks };
        object.finish()?;
        Ok(member)
    }
}
