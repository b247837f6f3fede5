//! What can be put onto a block device.

use super::btrfs::Btrfs;
use super::error::{LayoutError, closest};
use super::filesystem::Filesystem;
use super::gpt::Gpt;
use super::hooks::Hooks;
use super::luks::Luks;
use super::lvm::PhysicalVolume;
use super::mdadm::ArrayMember;
use super::read::Object;
use super::swap::Swap;
use super::table::Table;
use super::zfs::ZfsMember;

/// What is put onto a disk, a partition, a volume, a RAID or an open container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A partition table; not on partitions and volumes.
    Gpt(Gpt),
    /// A partition table in disko's older description; not on partitions and volumes.
    Table(Table),
    /// A file system.
    Filesystem(Filesystem),
    /// A btrfs with subvolumes.
    Btrfs(Btrfs),
    /// Swap.
    Swap(Swap),
    /// An encrypted container.
    Luks(Box<Luks>),
    /// It belongs to a pool.
    Zfs(ZfsMember),
    /// It belongs to a volume group.
    PhysicalVolume(PhysicalVolume),
    /// It belongs to a RAID.
    ArrayMember(ArrayMember),
}

/// Types of disko that stand on a block device, supported or not.
pub(super) const CONTENT_TYPES: [&str; 12] = [
    "bcache_backing",
    "bcache_cache",
    "bcachefs",
    "btrfs",
    "filesystem",
    "gpt",
    "luks",
    "lvm_pv",
    "mdraid",
    "swap",
    "table",
    "zfs",
];

/// What content is put onto. Source: disko, `deviceType` and `partitionType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A disk, RAID or container: it can have a partition table.
    Device,
    /// A partition or volume: it can't.
    Partition,
}

impl Content {
    /// The attribute `content`, if there is one.
    pub(super) fn read_opt(
        object: &mut Object<'_>,
        place: Place,
    ) -> Result<Option<Self>, LayoutError> {
        object.child_opt("content")?.map(|content| Content::read(content, place)).transpose()
    }

    fn read(mut object: Object<'_>, place: Place) -> Result<Self, LayoutError> {
        match type_of(&mut object)?.as_str() {
            table @ ("gpt" | "table") if place == Place::Partition => Err(LayoutError::invalid(
                object.path(),
                format!("a partition or volume can't have a partition table (`{table}`)"),
            )),
            "gpt" => Gpt::read(object).map(Content::Gpt),
            "table" => Table::read(object).map(Content::Table),
            "filesystem" => Filesystem::read(object).map(Content::Filesystem),
            "btrfs" => Btrfs::read(object).map(Content::Btrfs),
            "swap" => Swap::read(object).map(Content::Swap),
            "luks" => Luks::read(object).map(|luks| Content::Luks(Box::new(luks))),
            "zfs" => ZfsMember::read(object).map(Content::Zfs),
            "lvm_pv" => PhysicalVolume::read(object).map(Content::PhysicalVolume),
            "mdraid" => ArrayMember::read(object).map(Content::ArrayMember),
            other if CONTENT_TYPES.contains(&other) => {
                Err(LayoutError::not_supported(object.path(), format!("{other} is")))
            }
            other => Err(LayoutError::UnknownName {
                path: object.path().to_owned(),
                what: "type",
                found: other.to_owned(),
                closest: closest(other, CONTENT_TYPES),
            }),
        }
    }

    /// Its place in the document.
    pub fn path(&self) -> &str {
        match self {
            Content::Gpt(content) => &content.path,
            Content::Table(content) => &content.path,
            Content::Filesystem(content) => &content.path,
            Content::Btrfs(content) => &content.path,
            Content::Swap(content) => &content.path,
            Content::Luks(content) => &content.path,
            Content::Zfs(content) => &content.path,
            Content::PhysicalVolume(content) => &content.path,
            Content::ArrayMember(content) => &content.path,
        }
    }

    /// Its hooks.
    pub fn hooks(&self) -> &Hooks {
        match self {
            Content::Gpt(content) => &content.hooks,
            Content::Table(content) => &content.hooks,
            Content::Filesystem(content) => &content.hooks,
            Content::Btrfs(content) => &content.hooks,
            Content::Swap(content) => &content.hooks,
            Content::Luks(content) => &content.hooks,
            Content::Zfs(content) => &content.hooks,
            Content::PhysicalVolume(content) => &content.hooks,
            Content::ArrayMember(content) => &content.hooks,
        }
    }
}

/// The `type` of a content object.
pub(super) fn type_of(object: &mut Object<'_>) -> Result<String, LayoutError> {
    object.string("type")
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
