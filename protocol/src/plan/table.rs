//! Partition tables.

use super::DeviceRef;
use serde::{Deserialize, Serialize};

/// A GPT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    /// What it is on: a disk, or a RAID or container.
    pub device: DeviceRef,
    /// Whether a GPT that is there stays: partitions with a number of the plan only get its
    /// label, type and attributes (`first_lba` and `last_lba` are theirs), the others are left as
    /// they are, and those that are missing are added. Otherwise the table is replaced.
    pub keep: bool,
    /// Partitions, by number.
    pub partitions: Vec<PlannedPartition>,
    /// The hybrid MBR beside it, if there is one; else the MBR is the protective one.
    pub hybrid: Option<HybridMbr>,
}

/// A partition to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPartition {
    /// Number in the table.
    pub number: u32,
    /// The layout's name.
    pub name: String,
    /// Name in the table, at most 36 UTF-16 units.
    pub label: String,
    /// Type GUID, upper case.
    pub type_guid: String,
    /// Unique GUID if the layout gives one; else drawn at execution.
    pub guid: Option<String>,
    /// First LBA, in logical sectors of the disk.
    pub first_lba: u64,
    /// Last LBA, inclusive.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
}

/// A GPT on something that has no size before it is made: a RAID or an open container. Where its
/// partitions lie follows from that size by the rules of `keystone_planner::geometry`; nothing
/// but the size is decided later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerTable {
    /// What it is on.
    pub device: DeviceRef,
    /// What may be there already.
    #[serde(default, skip_serializing_if = "InnerPresence::is_new")]
    pub presence: InnerPresence,
    /// Partitions, in the order in which they are laid out.
    pub partitions: Vec<InnerPartition>,
}

/// What may be where an [`InnerTable`] is to be, which can't be seen before the device is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InnerPresence {
    /// Nothing: the device was made by the same plan.
    #[default]
    New,
    /// A table that stays, or nothing; then it is made.
    Kept,
    /// A table that must have these partitions; nothing is written.
    Found,
}

impl InnerPresence {
    /// Whether nothing is there.
    pub fn is_new(&self) -> bool {
        *self == InnerPresence::New
    }
}

/// A partition of an [`InnerTable`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerPartition {
    /// Number in the table.
    pub number: u32,
    /// The layout's name.
    pub name: String,
    /// Name in the table, at most 36 UTF-16 units.
    pub label: String,
    /// Type GUID, upper case.
    pub type_guid: String,
    /// Unique GUID if the layout gives one; else drawn at execution.
    pub guid: Option<String>,
    /// Where it begins, in sgdisk's notation.
    pub start: String,
    /// Where it ends, in sgdisk's notation.
    pub end: String,
    /// Alignment in sectors, instead of 1 MiB.
    pub alignment: Option<u32>,
    /// Attribute bits.
    pub attributes: u64,
}

/// An MBR that shows some partitions of a GPT to firmware and systems that know no GPT, as
/// `sgdisk --hybrid` writes it. Source: gptfdisk, `gptcl.cc`, `BuildMBR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HybridMbr {
    /// Whether the protective entry (0xEE) is the first; else it follows the others.
    pub protective_first: bool,
    /// The partitions shown, 1 to 3, in the order of their entries.
    pub entries: Vec<HybridEntry>,
}

/// A partition shown by a hybrid MBR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HybridEntry {
    /// Its number in the GPT.
    pub number: u32,
    /// Its MBR type.
    pub type_code: u8,
    /// Whether it has the boot flag.
    pub bootable: bool,
}

/// An MBR partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrTable {
    /// What it is on: a disk, or a RAID or container.
    pub device: DeviceRef,
    /// Whether an MBR that is there stays, as with [`PartitionTable::keep`].
    pub keep: bool,
    /// Partitions, by number: primary and extended ones have 1 to 4, logical ones count from 5.
    pub partitions: Vec<MbrPartition>,
}

/// A partition of an MBR table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrPartition {
    /// Number: 1 to 4 in the MBR itself, from 5 on in the chain of the extended partition.
    pub number: u32,
    /// What kind it is.
    pub kind: MbrKind,
    /// Its type.
    pub type_code: u8,
    /// Whether it has the boot flag.
    pub bootable: bool,
    /// First LBA, in logical sectors of the disk. A logical partition's own table lies in the
    /// sectors before it, at [`MbrPartition::table_lba`].
    pub first_lba: u64,
    /// Last LBA, inclusive.
    pub last_lba: u64,
    /// Where the extended boot record that describes a logical partition lies.
    pub table_lba: Option<u64>,
}

/// The kind of a partition of an MBR table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MbrKind {
    /// In one of the four entries.
    Primary,
    /// In one of the four entries, holds the logical ones.
    Extended,
    /// In the chain of the extended one.
    Logical,
}
