//! `zfs_fs`: a file system dataset.

use super::credstore::{self, CredstoreKey};
use super::error::LayoutError;
use super::{hooks, mount, read::Object};
use std::collections::BTreeMap;

/// A file system dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsFs {
    /// Its place in the document.
    pub path: String,
    /// Its name within the pool.
    pub name: String,
    /// Properties to set.
    pub options: BTreeMap<String, String>,
    /// Where it is mounted in the installed system, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
    /// Its key, if it is an encryption root.
    pub key: Option<CredstoreKey>,
}

impl ZfsFs {
    /// Reads a dataset whose `type` was read already.
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse_except(&mut object, &["preCreateHook", "postCreateHook"])?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        let options = object.properties("options")?;
        let key = credstore::read(&mut object, &options)?;
        let fs = ZfsFs {
            path: object.path().to_owned(),
            name,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            options,
            key,
        };
        object.finish()?;
        Ok(fs)
    }

    /// The properties it is made with: as disko's, `mountpoint` unless `options` has one.
    pub fn properties(&self) -> BTreeMap<String, String> {
        let mut properties = self.options.clone();
        if let Some(mountpoint) = &self.mountpoint {
            properties.entry("mountpoint".into()).or_insert_with(|| mountpoint.clone());
        }
        properties
    }
}
