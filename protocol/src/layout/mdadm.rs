//! `mdraid` and `mdadm`: members of Linux software RAIDs, and the RAIDs.

use super::content::{Content, Place};
use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::{content, read::Object, shell_words};

/// A device that belongs to a RAID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayMember {
    /// Its place in the document.
    pub path: String,
    /// The RAID, by its name below `mdadm`.
    pub array: String,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A RAID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Its place in the document.
    pub path: String,
    /// Its name, below `/dev/md`.
    pub name: String,
    /// Its level: 0, 1, 4, 5, 6 or 10.
    pub level: u32,
    /// Format of its metadata.
    pub metadata: String,
    /// Further arguments to `mdadm --create`.
    pub extra_args: Vec<String>,
    /// What is put onto it.
    pub content: Option<Content>,
    /// Its hooks.
    pub hooks: Hooks,
}

const METADATA: [&str; 7] = ["1", "1.0", "1.1", "1.2", "default", "ddf", "imsm"];

impl ArrayMember {
    /// Reads a member whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        object.string_opt("device")?;
        let path = object.path().to_owned();
        let member = ArrayMember { path, array: object.string("name")?, hooks };
        object.finish()?;
        Ok(member)
    }
}

impl Array {
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "mdadm", &["mdadm"])?;
        let hooks = Hooks::read(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        // Source: mdadm(8), "DEVICE NAMES": 32 bytes are kept in the metadata.
        let valid = (1..=32).contains(&name.len())
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !valid {
            let problem = format!("`{name}` can't be the name of a RAID");
            return Err(LayoutError::invalid(object.path(), problem));
        }
        let level = object.number_opt("level")?.unwrap_or(1);
        let level = u32::try_from(level)
            .ok()
            .filter(|level| [0, 1, 4, 5, 6, 10].contains(level))
            .ok_or_else(|| {
            LayoutError::invalid(object.path_of("level"), "a RAID has level 0, 1, 4, 5, 6 or 10")
        })?;
        let metadata = object.string_opt("metadata")?.unwrap_or_else(|| "default".to_owned());
        if !METADATA.contains(&metadata.as_str()) {
            return Err(LayoutError::UnknownName {
                path: object.path_of("metadata"),
                what: "metadata format",
                closest: closest(&metadata, METADATA),
                found: metadata,
            });
        }
        let array = Array {
            path: object.path().to_owned(),
            name,
            level,
            metadata,
            extra_args: shell_words::split(&mut object, "extraArgs")?,
            content: Content::read_opt(&mut object, Place::Device)?,
            hooks,
        };
        shell_words::no_devices(|| object.path_of("extraArgs"), &array.extra_args)?;
        object.finish()?;
        Ok(array)
    }
}
