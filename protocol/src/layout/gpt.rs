//! `gpt`: a partition table and its partitions.

use super::content::{Content, Place};
use super::error::LayoutError;
use super::hooks::Hooks;
use super::position::Position;
use super::{hybrid, partition_type, path, read::Object};

/// The most characters (UTF-16 units) that a partition's name can have. Source: UEFI 2.10,
/// table 5-6.
pub const MAX_LABEL_UNITS: usize = 36;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Its place in the document.
    pub path: String,
    /// Partitions in the order in which disko makes them, which numbers them from 1: by
    /// priority, then by the attribute's name.
    pub partitions: Vec<Partition>,
    /// Whether the protective entry is the first of a hybrid MBR.
    pub protective_first: bool,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the document.
    pub path: String,
    /// The layout's name of it.
    pub name: String,
    /// Its name in the table.
    pub label: String,
    /// The link by which the installed system knows it.
    pub device: String,
    /// Type GUID, upper case.
    pub type_guid: String,
    /// Unique GUID, upper case, if the layout gives one.
    pub guid: Option<String>,
    /// Where it begins.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
    /// Alignment in sectors; `None` for sgdisk's own, 1 MiB.
    pub alignment: Option<u32>,
    /// Attribute bits that are set.
    pub attributes: u64,
    /// How a hybrid MBR shows it, if it does.
    pub hybrid: Option<Hybrid>,
    /// What is put into it.
    pub content: Option<Content>,
}

/// How a hybrid MBR shows a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hybrid {
    /// Its MBR type.
    pub type_code: u8,
    /// Whether it has the boot flag.
    pub bootable: bool,
}

impl Gpt {
    /// Reads a table whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        object.string_opt("device")?;
        let protective_first = object.bool_opt("efiGptPartitionFirst")?.unwrap_or(true);
        let mut partitions = Vec::new();
        for (attribute, partition) in object.named_children("partitions")? {
            partitions.push(Partition::read(&attribute, partition)?);
        }
        let path = object.path().to_owned();
        object.finish()?;
        if partitions.is_empty() {
            return Err(LayoutError::invalid(
                path,
                "a table without partitions can't be installed on",
            ));
        }
        if partitions.len() > 128 {
            return Err(LayoutError::invalid(path, "a GPT holds at most 128 partitions"));
        }
        // Stable: the children come sorted by their attribute's name.
        partitions.sort_by_key(|(priority, _)| *priority);
        let partitions: Vec<_> = partitions.into_iter().map(|(_, partition)| partition).collect();
        // Four entries, one of which is the protective one.
        if partitions.iter().filter(|partition| partition.hybrid.is_some()).count() > 3 {
            return Err(LayoutError::invalid(path, "a hybrid MBR shows at most 3 partitions"));
        }
        Ok(Gpt { path, partitions, protective_first, hooks })
    }
}

impl Partition {
    /// The partition with its priority.
    fn read(attribute: &str, mut object: Object<'_>) -> Result<(u64, Self), LayoutError> {
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        let size = object.string_opt("size")?;
        let start = position(&mut object, "start", Some("0"))?;
        let end = match size.as_deref() {
            Some("100%") => position(&mut object, "end", Some("-0"))?,
            Some(size) => position(&mut object, "end", Some(&format!("+{size}")))?,
            None => position(&mut object, "end", None)?,
        };
        let default_priority = if size.as_deref() == Some("100%") { 9001 } else { 1000 };
        let priority = object.number_opt("priority")?.unwrap_or(default_priority);

        let label = object.string("label")?;
        if label.is_empty() || label.encode_utf16().count() > MAX_LABEL_UNITS {
            return Err(LayoutError::invalid(
                object.path_of("label"),
                format!(
                    "a partition's name has 1 to {MAX_LABEL_UNITS} characters, `{label}` has not"
                ),
            ));
        }
        let device = object
            .string_opt("device")?
            .unwrap_or_else(|| format!("/dev/disk/by-partlabel/{label}"));
        let alignment = match object.number_opt("alignment")? {
            None | Some(0) => None,
            Some(sectors) => {
                Some(u32::try_from(sectors).ok().filter(|sectors| *sectors <= 65536).ok_or_else(
                    || LayoutError::invalid(object.path_of("alignment"), "is above 65536 sectors"),
                )?)
            }
        };
        let type_guid = type_guid(&mut object)?;
        let partition = Partition {
            hybrid: hybrid::read(&mut object, &type_guid)?,
            type_guid,
            guid: unique_guid(&mut object)?,
            attributes: attribute_bits(&mut object)?,
            content: Content::read_opt(&mut object, Place::Partition)?,
            path: object.path().to_owned(),
            name,
            label,
            device,
            start,
            end,
            alignment,
        };
        object.finish()?;
        Ok((priority, partition))
    }
}

fn position(
    object: &mut Object<'_>,
    name: &'static str,
    default: Option<&str>,
) -> Result<Position, LayoutError> {
    let text = match (object.string_opt(name)?, default) {
        (Some(text), _) => text,
        (None, Some(default)) => default.to_owned(),
        (None, None) => {
            return Err(LayoutError::Missing { path: object.path().into(), attribute: name });
        }
    };
    text.parse().map_err(|problem: String| LayoutError::invalid(object.path_of(name), problem))
}

fn type_guid(object: &mut Object<'_>) -> Result<String, LayoutError> {
    let code = object.string_opt("type")?.unwrap_or_else(|| "8300".into());
    partition_type::guid(&code).ok_or_else(|| {
        LayoutError::invalid(
            object.path_of("type"),
            format!(
                "`{code}` is neither a GUID nor one of sgdisk's codes {}",
                partition_type::codes().collect::<Vec<_>>().join(", ")
            ),
        )
    })
}

fn unique_guid(object: &mut Object<'_>) -> Result<Option<String>, LayoutError> {
    match object.string_opt("uuid")? {
        None => Ok(None),
        Some(guid) if partition_type::is_guid(&guid) => Ok(Some(guid.to_ascii_uppercase())),
        Some(guid) => {
            Err(LayoutError::invalid(object.path_of("uuid"), format!("`{guid}` is not a GUID")))
        }
    }
}

fn attribute_bits(object: &mut Object<'_>) -> Result<u64, LayoutError> {
    let path = object.path_of("attributes");
    let mut bits = 0;
    for (index, bit) in object.numbers("attributes")?.into_iter().enumerate() {
        if bit > 63 {
            return Err(LayoutError::invalid(
                path::element(&path, index),
                "is not a bit from 0 to 63",
            ));
        }
        bits |= 1 << bit;
    }
    Ok(bits)
}
