//! `table`: disko's older description of a partition table, made by parted.

use super::content::{Content, Place};
use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::parted::Limit;
use super::read::Object;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its place in the document.
    pub path: String,
    /// Whether it is a GPT; else an MBR table.
    pub gpt: bool,
    /// Partitions, in the order of the list.
    pub partitions: Vec<TablePartition>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePartition {
    /// Its place in the document.
    pub path: String,
    /// Its number: in a GPT from 1 on; in an MBR table 1 to 4, logical ones from 5 on.
    pub number: u32,
    /// Its name in a GPT.
    pub name: Option<String>,
    /// Whether it is primary, extended or logical in an MBR table.
    pub kind: Kind,
    /// What it is for, as parted knows it (`ext4`, `linux-swap`, `fat32`).
    pub fs_type: Option<String>,
    /// Where it begins.
    pub start: Limit,
    /// Where it ends.
    pub end: Limit,
    /// parted's flags, `boot` among them if it is bootable.
    pub flags: Vec<String>,
    /// What is put into it.
    pub content: Option<Content>,
}

/// The kind of a partition in an MBR table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Primary,
    Extended,
    Logical,
}

/// What disko allows. Source: disko lib/types/table.nix.
const FS_TYPES: [&str; 13] = [
    "btrfs",
    "ext2",
    "ext3",
    "ext4",
    "fat16",
    "fat32",
    "hfs",
    "hfs+",
    "linux-swap",
    "ntfs",
    "reiserfs",
    "udf",
    "xfs",
];

/// parted's flags that are supported. Source: parted's manual, "set".
pub(super) const FLAGS: [&str; 8] =
    ["bios_grub", "boot", "esp", "legacy_boot", "lvm", "msftdata", "raid", "swap"];

impl Table {
    /// Reads a table whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        object.string_opt("device")?;
        let gpt = match object.string_opt("format")?.as_deref() {
            None | Some("gpt") => true,
            Some("msdos") => false,
            Some(other) => {
                return Err(LayoutError::UnknownName {
                    path: object.path_of("format"),
                    what: "table format",
                    found: other.to_owned(),
                    closest: closest(other, ["gpt", "msdos"]),
                });
            }
        };
        let mut partitions = Vec::new();
        let (mut entries, mut logical) = (0, 4);
        for partition in object.child_list("partitions")? {
            let mut partition = TablePartition::read(partition)?;
            let number = match partition.kind {
                Kind::Logical if !gpt => &mut logical,
                _ => &mut entries,
            };
            *number += 1;
            partition.number = *number;
            partitions.push(partition);
        }
        let path = object.path().to_owned();
        object.finish()?;
        let table = Table { path, gpt, partitions, hooks };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), LayoutError> {
        let invalid = |problem: &str| Err(LayoutError::invalid(&self.path, problem));
        let count = |kind| self.partitions.iter().filter(|p| p.kind == kind).count();
        if self.gpt {
            return match self.partitions.len() {
                0..=128 => Ok(()),
                _ => invalid("a GPT holds at most 128 partitions"),
            };
        }
        if count(Kind::Primary) + count(Kind::Extended) > 4 {
            return invalid("an MBR table has at most 4 primary and extended partitions");
        }
        if count(Kind::Extended) > 1 {
            return invalid("an MBR table has at most one extended partition");
        }
        if count(Kind::Logical) > 0 && count(Kind::Extended) == 0 {
            return invalid("logical partitions need an extended one");
        }
        for partition in &self.partitions {
            if partition.kind == Kind::Extended && partition.content.is_some() {
                return Err(LayoutError::invalid(
                    &partition.path,
                    "an extended partition holds logical ones and nothing else",
                ));
            }
        }
        Ok(())
    }
}

impl TablePartition {
    fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let kind = match object.string_opt("part-type")?.as_deref() {
            None | Some("primary") => Kind::Primary,
            Some("extended") => Kind::Extended,
            Some("logical") => Kind::Logical,
            Some(other) => {
                return Err(LayoutError::UnknownName {
                    path: object.path_of("part-type"),
                    what: "partition type",
                    found: other.to_owned(),
                    closest: closest(other, ["primary", "extended", "logical"]),
                });
            }
        };
        let fs_type = object.string_opt("fs-type")?;
        if let Some(unknown) = fs_type.as_deref().filter(|fs| !FS_TYPES.contains(fs)) {
            return Err(LayoutError::UnknownName {
                path: object.path_of("fs-type"),
                what: "file system",
                closest: closest(unknown, FS_TYPES),
                found: unknown.to_owned(),
            });
        }
        let mut flags = object.strings("flags")?;
        if let Some(unknown) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
            return Err(LayoutError::not_supported(
                object.path_of("flags"),
                format!("the flag {unknown} is"),
            ));
        }
        if object.bool_opt("bootable")? == Some(true) && !flags.iter().any(|flag| flag == "boot") {
            flags.push("boot".to_owned());
        }
        let partition = TablePartition {
            path: object.path().to_owned(),
            number: 0,
            name: object.string_opt("name")?,
            kind,
            fs_type,
            start: limit(&mut object, "start", "0%")?,
            end: limit(&mut object, "end", "100%")?,
            flags,
            content: Content::read_opt(&mut object, Place::Partition)?,
        };
        object.finish()?;
        Ok(partition)
    }
}

fn limit(object: &mut Object<'_>, name: &'static str, default: &str) -> Result<Limit, LayoutError> {
    let text = object.string_opt(name)?;
    text.as_deref()
        .unwrap_or(default)
        .parse()
        .map_err(|problem: String| LayoutError::invalid(object.path_of(name), problem))
}
