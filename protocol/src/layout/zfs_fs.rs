//! `zfs_fs`: a file system dataset.

use super::credstore;
use super::error::LayoutError;
use super::hooks::{self, Hooks};
use super::zfs_key::{self, ZfsKey};
use super::{mount, read::Object};
use crate::plan::HookKind;
use std::collections::BTreeMap;

/// A file system dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsFs {
    /// Its place in the document.
    pub path: String,
    /// Its name within the pool; empty for the root dataset.
    pub name: String,
    /// Properties to set.
    pub options: BTreeMap<String, String>,
    /// Where it is mounted in the installed system, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
    /// Its key, if it is an encryption root.
    pub key: Option<ZfsKey>,
    /// Snapshots that its hook makes, once, by their full names.
    pub snapshots: Vec<String>,
    /// Its hooks, those left out that are replaced natively.
    pub hooks: Hooks,
}

impl ZfsFs {
    /// Reads a dataset whose `type` was read already.
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        let options = object.properties("options")?;
        let (key, snapshots, hooks) = match credstore::read(&mut object, &options)? {
            Some(key) => {
                let done = [HookKind::PreCreate, HookKind::PostCreate];
                let hooks = Hooks::read_except(&mut object, &done)?;
                (Some(ZfsKey::Credstore(key)), Vec::new(), hooks)
            }
            None => {
                let (snapshots, hooks) = snapshots(&mut object)?;
                (zfs_key::read(&object, "options", &options)?, snapshots, hooks)
            }
        };
        let fs = ZfsFs {
            path: object.path().to_owned(),
            name,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            options,
            key,
            snapshots,
            hooks,
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

/// The hooks of an object, `postCreateHook` read as snapshots if that is all it makes.
pub(super) fn snapshots(object: &mut Object<'_>) -> Result<(Vec<String>, Hooks), LayoutError> {
    let mut read = Hooks::read_except(object, &[HookKind::PostCreate])?;
    let script = object.string_opt(HookKind::PostCreate.attribute())?.unwrap_or_default();
    match hooks::snapshots(&script) {
        Some(snapshots) => Ok((snapshots, read)),
        None => {
            read.add(object, HookKind::PostCreate, script);
            Ok((Vec::new(), read))
        }
    }
}
