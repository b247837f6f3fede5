//! `zpool`: a pool and its datasets.

use super::error::{LayoutError, closest};
use super::zfs_fs::ZfsFs;
use super::zfs_volume::ZfsVolume;
use super::{content, hooks, mount, read::Object};
use std::collections::BTreeMap;

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zpool {
    /// Its place in the document.
    pub path: String,
    /// Its name.
    pub name: String,
    /// How its members are combined.
    pub mode: PoolMode,
    /// Pool properties (`-o`).
    pub options: BTreeMap<String, String>,
    /// Properties of the root dataset (`-O`).
    pub root_options: BTreeMap<String, String>,
    /// Its datasets in the order in which disko makes them: by the attribute's name.
    pub datasets: Vec<Dataset>,
}

/// How the members of a pool are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Each member is a top-level vdev.
    Stripe,
    /// One mirror of all members.
    Mirror,
    /// One RAID-Z of all members, with this many parity devices, 1 to 3.
    Raidz(u8),
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dataset {
    /// A file system.
    Fs(ZfsFs),
    /// A volume.
    Volume(ZfsVolume),
}

impl Dataset {
    /// Its name within the pool.
    pub fn name(&self) -> &str {
        match self {
            Dataset::Fs(fs) => &fs.name,
            Dataset::Volume(volume) => &volume.name,
        }
    }

    fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        let path = object.path().to_owned();
        let dataset = match content::type_of(&mut object)?.as_str() {
            "zfs_fs" => Dataset::Fs(ZfsFs::read(attribute, object)?),
            "zfs_volume" => Dataset::Volume(ZfsVolume::read(attribute, object)?),
            other => {
                return Err(LayoutError::UnknownName {
                    path,
                    what: "type",
                    found: other.to_owned(),
                    closest: closest(other, ["zfs_fs", "zfs_volume"]),
                });
            }
        };
        let name = dataset.name();
        let valid = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c))
        };
        if name.split('/').all(valid) {
            Ok(dataset)
        } else {
            Err(LayoutError::invalid(path, format!("`{name}` can't be the name of a dataset")))
        }
    }
}

impl PoolMode {
    fn read(object: &mut Object<'_>) -> Result<Self, LayoutError> {
        let path = object.path_of("mode");
        match object.value_opt("mode") {
            None => Ok(PoolMode::Stripe),
            Some(serde_json::Value::String(mode)) => match mode.as_str() {
                "" => Ok(PoolMode::Stripe),
                "mirror" => Ok(PoolMode::Mirror),
                "raidz" | "raidz1" => Ok(PoolMode::Raidz(1)),
                "raidz2" => Ok(PoolMode::Raidz(2)),
                "raidz3" => Ok(PoolMode::Raidz(3)),
                other => Err(LayoutError::UnknownName {
                    path,
                    what: "mode",
                    found: other.to_owned(),
                    closest: closest(other, ["mirror", "raidz", "raidz1", "raidz2", "raidz3"]),
                }),
            },
            Some(_) => Err(LayoutError::not_supported(path, "a topology is")),
        }
    }
}

impl Zpool {
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "zpool", &["zpool"])?;
        hooks::refuse(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        check_name(&object, &name)?;
        let mode = PoolMode::read(&mut object)?;
        let options = object.properties("options")?;
        let root_options = object.properties("rootFsOptions")?;
        if mount::point(&mut object)?.is_some() {
            return Err(LayoutError::not_supported(
                object.path_of("mountpoint"),
                "mounting a pool's root dataset is",
            ));
        }
        mount::options(&mut object)?;
        if root_options.contains_key("encryption") {
            return Err(LayoutError::not_supported(
                object.path_of("rootFsOptions"),
                "an encrypted root dataset is",
            ));
        }
        let mut datasets = Vec::new();
        for (attribute, dataset) in object.named_children("datasets")? {
            datasets.push(Dataset::read(&attribute, dataset)?);
        }
        let pool =
            Zpool { path: object.path().to_owned(), name, mode, options, root_options, datasets };
        object.finish()?;
        Ok(pool)
    }
}

/// Source: zpoolconcepts(7) and zcommon's `pool_namecheck`.
fn check_name(object: &Object<'_>, name: &str) -> Result<(), LayoutError> {
    let reserved = ["mirror", "raidz", "draid", "spare", "log"];
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c))
        && !reserved.iter().any(|word| name.starts_with(word));
    if valid {
        Ok(())
    } else {
        Err(LayoutError::invalid(object.path(), format!("`{name}` can't be the name of a pool")))
    }
}
