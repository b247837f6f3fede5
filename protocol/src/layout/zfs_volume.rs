//! `zfs_volume`: a volume.

use super::content::{Content, Place};
use super::error::LayoutError;
use super::hooks::Hooks;
use super::zfs_key::{self, ZfsKey};
use super::{mount, read::Object, shell_words, zfs_fs};
use std::collections::BTreeMap;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsVolume {
    /// Its place in the document.
    pub path: String,
    /// Its name within the pool.
    pub name: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Whether it reserves no room.
    pub sparse: bool,
    /// Properties to set.
    pub options: BTreeMap<String, String>,
    /// Its key, if it is an encryption root.
    pub key: Option<ZfsKey>,
    /// What is put onto it.
    pub content: Option<Content>,
    /// Snapshots that its hook makes, once, by their full names.
    pub snapshots: Vec<String>,
    /// Its hooks, those left out that are replaced natively.
    pub hooks: Hooks,
}

impl ZfsVolume {
    /// Reads a volume whose `type` was read already.
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        let (snapshots, hooks) = zfs_fs::snapshots(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        let size = object.string("size")?;
        let size = shell_words::size(&size).ok_or_else(|| {
            LayoutError::invalid(
                object.path_of("size"),
                format!("`{size}` is not a size like 100M"),
            )
        })?;
        mount::options(&mut object)?;
        let mut options = object.properties("options")?;
        let sparse = arguments(&mut object, &mut options)?;
        let volume = ZfsVolume {
            path: object.path().to_owned(),
            name,
            size,
            sparse,
            key: zfs_key::read(&object, "options", &options)?,
            options,
            content: Content::read_opt(&mut object, Place::Partition)?,
            snapshots,
            hooks,
        };
        object.finish()?;
        Ok(volume)
    }
}

/// Reads `extraArgs`: `-s`, and properties by `-o` and `-b`. Source: zfs-create(8).
fn arguments(
    object: &mut Object<'_>,
    options: &mut BTreeMap<String, String>,
) -> Result<bool, LayoutError> {
    let path = object.path_of("extraArgs");
    let mut words = object.strings("extraArgs")?.into_iter();
    let mut sparse = false;
    while let Some(word) = words.next() {
        let property = match word.as_str() {
            "-s" => {
                sparse = true;
                continue;
            }
            // Nothing is mounted here, and parents are made as they are needed.
            "-u" | "-p" => continue,
            "-b" => words.next().map(|size| ("volblocksize".to_owned(), size)),
            "-o" => words.next().and_then(|word| {
                word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
            }),
            _ => None,
        };
        let Some((name, value)) = property else {
            let what = format!("the argument {word} of zfs create is");
            return Err(LayoutError::not_supported(path, what));
        };
        options.insert(name, value);
    }
    Ok(sparse)
}
