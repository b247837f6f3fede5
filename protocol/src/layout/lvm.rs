//! `lvm_pv` and `lvm_vg`: physical volumes, volume groups and their logical volumes.

use super::content::{Content, Place};
use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::{content, read::Object, shell_words};
use crate::plan::LvSize;

/// A device that belongs to a volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// Its place in the document.
    pub path: String,
    /// The group, by its name below `lvm_vg`.
    pub group: String,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Its place in the document.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its volumes in the order in which disko makes them: by priority, then by the attribute's
    /// name.
    pub volumes: Vec<LogicalVolume>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its place in the document.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: LvSize,
    /// `lvcreate --type`, if one is given.
    pub kind: Option<String>,
    /// For a thin volume: its pool.
    pub thin_pool: Option<String>,
    /// Further arguments to lvcreate.
    pub extra_args: Vec<String>,
    /// What is put onto it.
    pub content: Option<Content>,
}

/// `lvm_type` as disko has it.
const KINDS: [&str; 10] = [
    "mirror",
    "raid0",
    "raid1",
    "raid10",
    "raid4",
    "raid5",
    "raid6",
    "striped",
    "thin-pool",
    "thinlv",
];

impl PhysicalVolume {
    /// Reads a physical volume whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        object.string_opt("device")?;
        let path = object.path().to_owned();
        let volume = PhysicalVolume { path, group: object.string("vg")?, hooks };
        object.finish()?;
        Ok(volume)
    }
}

impl VolumeGroup {
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "lvm_vg", &["lvm_vg"])?;
        let hooks = Hooks::read(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        check_name(&object, &name)?;
        let mut volumes = Vec::new();
        for (attribute, volume) in object.named_children("lvs")? {
            volumes.push(LogicalVolume::read(&attribute, volume)?);
        }
        // Stable: the children come sorted by their attribute's name.
        volumes.sort_by_key(|(priority, _)| *priority);
        let volumes = volumes.into_iter().map(|(_, volume)| volume).collect();
        let group = VolumeGroup { path: object.path().to_owned(), name, volumes, hooks };
        object.finish()?;
        Ok(group)
    }
}

impl LogicalVolume {
    /// The volume with its priority.
    fn read(attribute: &str, mut object: Object<'_>) -> Result<(u64, Self), LayoutError> {
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        check_name(&object, &name)?;
        let text = object.string("size")?;
        let size = read_size(&text).ok_or_else(|| {
            LayoutError::invalid(
                object.path_of("size"),
                format!("`{text}` is not a size like 10G, 100% or 50%VG"),
            )
        })?;
        let whole = matches!(size, LvSize::Percent { percent: 100, .. });
        let default_priority = if whole { 9001 } else { 1000 };
        let kind = object.string_opt("lvm_type")?;
        if let Some(unknown) = kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
            return Err(LayoutError::UnknownName {
                path: object.path_of("lvm_type"),
                what: "LVM type",
                closest: closest(unknown, KINDS),
                found: unknown.to_owned(),
            });
        }
        let thin_pool = object.string_opt("pool")?;
        if (kind.as_deref() == Some("thinlv")) != thin_pool.is_some() {
            return Err(LayoutError::invalid(
                object.path_of("pool"),
                "a thin volume (lvm_type = \"thinlv\") has a pool, and nothing else has one",
            ));
        }
        let priority = object.number_opt("priority")?.unwrap_or(default_priority);
        let volume = LogicalVolume {
            path: object.path().to_owned(),
            name,
            size,
            kind: kind.filter(|kind| kind != "thinlv"),
            thin_pool,
            extra_args: shell_words::split(&mut object, "extraArgs")?,
            content: Content::read_opt(&mut object, Place::Partition)?,
        };
        object.finish()?;
        Ok((priority, volume))
    }
}

/// A number with a unit, of MiB without one, or a share. Source: lvcreate(8).
fn read_size(text: &str) -> Option<LvSize> {
    let Some((number, of)) = text.trim_start_matches('+').split_once('%') else {
        return Some(LvSize::Bytes { bytes: shell_words::size_in(text, 1 << 20)? });
    };
    let percent = number.parse().ok().filter(|percent| *percent > 0)?;
    let of = if of.is_empty() { "FREE" } else { of };
    ["FREE", "VG", "PVS", "ORIGIN"]
        .contains(&of)
        .then(|| LvSize::Percent { percent, of: of.to_owned() })
}

/// Source: lvm(8), "VALID NAMES".
fn check_name(object: &Object<'_>, name: &str) -> Result<(), LayoutError> {
    let valid = !name.is_empty()
        && name.len() <= 127
        && name != "."
        && name != ".."
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+_.-".contains(c));
    if valid {
        Ok(())
    } else {
        Err(LayoutError::invalid(object.path(), format!("`{name}` can't be a name in LVM")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let percent = |percent, of: &str| Some(LvSize::Percent { percent, of: of.into() });
        assert_eq!(read_size("10M"), Some(LvSize::Bytes { bytes: 10 << 20 }));
        assert_eq!(read_size("10"), Some(LvSize::Bytes { bytes: 10 << 20 }));
        assert_eq!(read_size("100%"), percent(100, "FREE"));
        assert_eq!(read_size("50%VG"), percent(50, "VG"));
        for wrong in ["", "%", "0%", "50%X", "x%", "10X"] {
            assert_eq!(read_size(wrong), None, "{wrong}");
        }
    }
}
