//! What can be put onto a block device.

use super::error::{LayoutError, closest};
use super::filesystem::Filesystem;
use super::luks::Luks;
use super::read::Object;
use super::swap::Swap;
use super::zfs::ZfsMember;

/// What is put onto a partition, a volume or an open container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file system.
    Filesystem(Filesystem),
    /// Swap.
    Swap(Swap),
    /// An encrypted container.
    Luks(Box<Luks>),
    /// It belongs to a pool.
    Zfs(ZfsMember),
}

/// Types of disko that stand on a block device, supported or not.
pub(super) const CONTENT_TYPES: [&str; 10] =
    ["bcachefs", "btrfs", "filesystem", "gpt", "luks", "lvm_pv", "mdraid", "swap", "table", "zfs"];

impl Content {
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        match type_of(&mut object)?.as_str() {
            "filesystem" => Filesystem::read(object).map(Content::Filesystem),
            "swap" => Swap::read(object).map(Content::Swap),
            "luks" => Luks::read(object).map(|luks| Content::Luks(Box::new(luks))),
            "zfs" => ZfsMember::read(object).map(Content::Zfs),
            other if CONTENT_TYPES.contains(&other) => {
                Err(LayoutError::not_supported(object.path(), format!("{other} is")))
            }
            other => Err(unknown_type(object.path().to_owned(), other)),
        }
    }
}

/// The `type` of a content object.
pub(super) fn type_of(object: &mut Object<'_>) -> Result<String, LayoutError> {
    object.string("type")
}

/// A type that disko does not have.
pub(super) fn unknown_type(path: String, found: &str) -> LayoutError {
    LayoutError::UnknownName {
        path,
        what: "type",
        found: found.to_owned(),
        closest: closest(found, CONTENT_TYPES),
    }
}

/// Reads the `type` of an object that can only have some of `known`, the first of which is
/// `expected` and implied where there is none.
pub(super) fn expect_type(
    object: &mut Object<'_>,
    expected: &'static str,
    known: &[&'static str],
) -> Result<(), LayoutError> {
    match object.string_opt("type")? {
        None => Ok(()),
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(LayoutError::UnknownName {
            path: object.path().to_owned(),
            what: "type",
            closest: closest(&found, known.iter().copied()),
            found,
        }),
    }
}
