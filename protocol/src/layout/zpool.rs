//! `zpool`: a pool and its datasets.

use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::topology::PoolMode;
use super::zfs_fs::{self, ZfsFs};
use super::zfs_volume::ZfsVolume;
use super::{content, mount, read::Object, zfs_key};
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
    /// Its root dataset, with the properties that it is made with (`-O`).
    pub root: ZfsFs,
    /// Its datasets in the order in which disko makes them: by the attribute's name.
    pub datasets: Vec<Dataset>,
    /// Snapshots that its hook makes, once, by their full names.
    pub snapshots: Vec<String>,
    /// Its hooks, those left out that are replaced natively.
    pub hooks: Hooks,
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

    /// Its hooks.
    pub fn hooks(&self) -> &Hooks {
        match self {
            Dataset::Fs(fs) => &fs.hooks,
            Dataset::Volume(volume) => &volume.hooks,
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

impl Zpool {
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "zpool", &["zpool"])?;
        let (snapshots, hooks) = zfs_fs::snapshots(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        check_name(&object, &name)?;
        let mode = PoolMode::read(&mut object)?;
        let options = object.properties("options")?;
        let root_options = object.properties("rootFsOptions")?;
        let root = ZfsFs {
            path: object.path().to_owned(),
            name: String::new(),
            key: zfs_key::read(&object, "rootFsOptions", &root_options)?,
            options: root_options,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            snapshots: Vec::new(),
            hooks: Hooks::default(),
        };
        let mut datasets = Vec::new();
        for (attribute, dataset) in object.named_children("datasets")? {
            datasets.push(Dataset::read(&attribute, dataset)?);
        }
        let path = object.path().to_owned();
        object.finish()?;
        Ok(Zpool { path, name, mode, options, root, datasets, snapshots, hooks })
    }

    /// The full name of a dataset of the pool.
    pub fn full_name(&self, dataset: &str) -> String {
        if dataset.is_empty() { self.name.clone() } else { format!("{}/{dataset}", self.name) }
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
