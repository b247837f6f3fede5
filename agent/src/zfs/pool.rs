//! Pools: made, found, imported, exported, destroyed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use super::{
    Zfs,
    error::{Error, Result},
    ffi::{self, NvList, Pool},
    material, users,
    vdev::{self, TopVdev},
};
use crate::{block::Roots, ensure::Ensured};
use keystone_protocol::secret::Secret;

/// A pool to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// Top-level vdevs; at least one of class data.
    pub vdevs: Vec<TopVdev>,
    /// Hot spares.
    pub spares: Vec<PathBuf>,
    /// Cache devices.
    pub caches: Vec<PathBuf>,
    /// Pool properties (`-o`), such as `ashift`. `feature@NAME` adds to or takes from `features`.
    pub properties: BTreeMap<String, String>,
    /// Properties of the root dataset (`-O`).
    pub root_properties: BTreeMap<String, String>,
    /// The key of the root dataset, if its properties make it an encryption root.
    pub root_key: Option<Secret>,
    /// Where mount points begin while it is imported (`-R`).
    pub altroot: Option<String>,
    /// Features to enable (see [`super::features`]); all others stay disabled.
    pub features: Vec<String>,
}

/// An imported pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedPool {
    /// Its name.
    pub name: String,
    /// Its GUID.
    pub guid: u64,
    /// `ONLINE`, `DEGRADED`, `FAULTED`, `SUSPENDED`, …
    pub health: String,
    /// Where its mount points begin, if not at `/`.
    pub altroot: Option<String>,
    /// Its devices.
    pub leaves: Vec<Leaf>,
}

/// A device of an imported pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// As the pool knows it; may be stale or a link.
    pub path: Option<PathBuf>,
    /// The vdev's GUID.
    pub guid: u64,
}

/// A pool to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its GUID.
    pub guid: u64,
    /// The devices to look at, and no others.
    pub devices: Vec<PathBuf>,
    /// Where mount points begin (`-R`).
    pub altroot: Option<String>,
    /// Import even if another host had it last and did not export it (`-f`).
    pub any_host: bool,
}

impl ImportedPool {
    fn of(pool: &Pool<'_>) -> Result<ImportedPool> {
        let config = pool.config()?;
        let tree = config.list("vdev_tree");
        let leaves = tree.map(|t| vdev::leaves(&t)).unwrap_or_default();
        Ok(ImportedPool {
            name: pool.name(),
            guid: config.u64("pool_guid").unwrap_or(0),
            health: pool.health().unwrap_or_else(|| "UNKNOWN".into()),
            altroot: pool.altroot(),
            leaves: leaves
                .into_iter()
                .map(|(path, guid)| Leaf { path: path.map(Into::into), guid })
                .collect(),
        })
    }
}

impl Zfs {
    /// All imported pools.
    ///
    /// # Errors
    /// If libzfs cannot list them.
    pub fn imported_pools(&self) -> Result<Vec<ImportedPool>> {
        self.library.pools()?.iter().map(ImportedPool::of).collect()
    }

    /// The imported pool of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn imported_pool(&self, name: &str) -> Result<ImportedPool> {
        ImportedPool::of(&Pool::open(&self.library, name)?)
    }

    /// Makes the pool, as `zpool create -f` would, and mounts nothing; the pool is
    /// in no cache file. [`Ensured::AlreadySo`] if a pool of that name is imported
    /// with the same devices and altroot.
    ///
    /// The devices' first 4 KiB are zeroed before, as the tool does, so that the
    /// signature of what was there is not taken for its content.
    ///
    /// # Errors
    /// [`Error::Differs`] if another pool has the name; [`Error::Device`] if a device
    /// is in use; [`Error::Refused`] with libzfs's words for everything it refuses.
    pub fn ensure_pool(&self, spec: &PoolSpec) -> Result<Ensured> {
        match self.imported_pool(&spec.name) {
            Ok(existing) => {
                spec.compare(&existing)?;
                return match &spec.root_key {
                    // What an interrupted run may have left.
                    Some(key) => {
                        let loaded = self.ensure_key_material_loaded(&spec.name, key)?;
                        Ok(loaded.and(self.set_root_key_location(spec)?))
                    }
                    None => Ok(Ensured::AlreadySo),
                };
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let root = vdev::root(&spec.vdevs, &spec.spares, &spec.caches, spec.ashift()?)?;
        let properties = NvList::of_strings(&spec.all_properties()?)?;
        let mut root_properties = spec.root_properties.clone();
        // libzfs reads the root's key from where `keylocation` says: a file that is only in
        // memory, and that nobody but this process has.
        let _key = match &spec.root_key {
            Some(key) => {
                let (file, location) = material::in_memory(key)?;
                root_properties.insert("keylocation".into(), location);
                Some(file)
            }
            None => None,
        };
        let root_properties = NvList::of_strings(&root_properties)?;
        for device in spec.leaves() {
            zero_start(device)?;
        }
        self.library.create_pool(&spec.name, &root, &properties, &root_properties)?;
        if spec.root_key.is_some() {
            let _ = self.set_root_key_location(spec)?;
        }
        Ok(Ensured::Created)
    }

    /// Sets where the key of the root dataset is from now on.
    fn set_root_key_location(&self, spec: &PoolSpec) -> Result<Ensured> {
        let location = spec.root_properties.get("keylocation").map_or("prompt", String::as_str);
        let property = BTreeMap::from([("keylocation".to_owned(), location.to_owned())]);
        self.ensure_properties(&spec.name, &property)
    }

    /// Imports a pool without mounting anything and without a cache file.
    /// [`Ensured::AlreadySo`] if it is imported with that altroot.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is on none of the devices; [`Error::ForeignHost`] if another
    /// host had it last and did not export it (see [`Import::any_host`]); [`Error::Refused`]
    /// if devices are missing.
    pub fn ensure_imported(&self, import: &Import) -> Result<Ensured> {
        let imported = self.imported_pools()?;
        if let Some(pool) = imported.iter().find(|p| p.guid == import.guid) {
            check_altroot(pool, import.altroot.as_deref())?;
            return Ok(Ensured::AlreadySo);
        }
        let devices = import.devices.iter().map(|d| CString::new(d.as_os_str().as_bytes()));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        let found = self.library.search(&devices)?;
        let config = found
            .iter()
            .find(|c| c.u64("pool_guid") == Some(import.guid))
            .filter(|c| c.u64("state") != Some(u64::from(ffi::POOL_STATE_DESTROYED)))
            .ok_or_else(|| Error::NotFound {
                what: "pool",
                name: format!("GUID {}", import.guid),
            })?;
        let mut properties = NvList::new()?;
        properties.add_string("cachefile", "none")?;
        if let Some(altroot) = &import.altroot {
            properties.add_string("altroot", altroot)?;
        }
        if !import.any_host {
            check_host(config, ffi::system_hostid())?;
        }
        self.library.import(config, &properties, import.any_host)?;
        Ok(Ensured::Created)
    }

    /// Exports the pool; nothing of it may be mounted or open.
    /// [`Ensured::AlreadySo`] if no pool of that name is imported.
    ///
    /// # Errors
    /// [`Error::Busy`], naming who, if something still uses it: see [`Error::is_busy`]. Should
    /// only the kernel know who, the block devices of its volumes may be gone until it is
    /// imported again.
    pub fn ensure_exported(&self, name: &str, force: bool) -> Result<Ensured> {
        let pool = match Pool::open(&self.library, name) {
            Ok(pool) => pool,
            Err(Error::NotFound { .. }) => return Ok(Ensured::AlreadySo),
            Err(error) => return Err(error),
        };
        check_unused(name, "export")?;
        pool.export(force)?;
        Ok(Ensured::Created)
    }

    /// Destroys the imported pool; nothing of it may be mounted or open.
    /// [`Ensured::AlreadySo`] if no pool of that name is imported.
    ///
    /// # Errors
    /// [`Error::Differs`] if the pool of that name has another GUID; [`Error::Busy`]
    /// if something still uses it.
    pub fn ensure_destroyed(&self, name: &str, guid: u64) -> Result<Ensured> {
        let pool = match Pool::open(&self.library, name) {
            Ok(pool) => pool,
            Err(Error::NotFound { .. }) => return Ok(Ensured::AlreadySo),
            Err(error) => return Err(error),
        };
        let found = pool.config()?.u64("pool_guid").unwrap_or(0);
        if found != guid {
            return Err(Error::Differs {
                name: name.to_owned(),
                difference: format!("its GUID is {found}, not {guid}"),
            });
        }
        check_unused(name, "destroy")?;
        pool.destroy()?;
        Ok(Ensured::Created)
    }

    /// Waits until everything written to the pool so far is on its devices.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn sync_pool(&self, name: &str) -> Result<()> {
        ffi::sync(&self.library, name)
    }
}

impl PoolSpec {
    /// Every device of the pool.
    pub fn leaves(&self) -> impl Iterator<Item = &Path> {
        let tops = self.vdevs.iter().flat_map(|t| t.vdev.leaves());
        tops.chain(self.spares.iter().chain(&self.caches).map(PathBuf::as_path))
    }

    fn ashift(&self) -> Result<Option<u64>> {
        let ashift = self.properties.get("ashift");
        let parse = |text: &String| {
            text.parse()
                .map_err(|_| Error::Invalid(format!("ashift must be a number, not `{text}`")))
        };
        ashift.map(parse).transpose()
    }

    /// Properties for `zpool_create()`: only enabled features are named, which is
    /// how the tool leaves the others disabled.
    fn all_properties(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        let mut features: BTreeSet<&str> = self.features.iter().map(String::as_str).collect();
        for (key, value) in &self.properties {
            match (key.strip_prefix("feature@"), value.as_str()) {
                (None, _) => {
                    all.insert(key.clone(), value.clone());
                }
                (Some(feature), "enabled") => {
                    features.insert(feature);
                }
                (Some(feature), "disabled") => {
                    features.remove(feature);
                }
                (Some(_), other) => {
                    return Err(Error::Invalid(format!(
                        "{key} is `enabled` or `disabled`, not `{other}`"
                    )));
                }
            }
        }
        all.extend(features.into_iter().map(|f| (format!("feature@{f}"), "enabled".to_owned())));
        all.insert("cachefile".into(), "none".into());
        if let Some(altroot) = &self.altroot {
            all.insert("altroot".into(), altroot.clone());
        }
        Ok(all)
    }

    fn compare(&self, existing: &ImportedPool) -> Result<()> {
        let number = |path: &Path| fs::metadata(path).map(|m| (m.rdev(), m.dev(), m.ino()));
        let identity = |path: &Path| match number(path) {
            Ok((0, device, inode)) => Some((device, inode)),
            Ok((rdev, ..)) => Some((rdev, 0)),
            Err(_) => None,
        };
        let wanted: BTreeSet<_> = self.leaves().map(identity).collect();
        let found: BTreeSet<_> =
            existing.leaves.iter().map(|l| l.path.as_deref().and_then(identity)).collect();
        if wanted != found || wanted.contains(&None) {
            let paths: Vec<_> = existing
                .leaves
                .iter()
                .filter_map(|l| l.path.as_ref())
                .map(|p| p.display().to_string())
                .collect();
            return Err(Error::Differs {
                name: self.name.clone(),
                difference: format!("it is a pool on {}", paths.join(", ")),
            });
        }
        check_altroot(existing, self.altroot.as_deref())
    }
}

fn check_unused(pool: &str, verb: &str) -> Result<()> {
    let users = users::of(&Roots::default(), pool);
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::Busy { action: format!("cannot {verb} '{pool}'"), reason: users.join("; ") })
}

/// Whether `zpool import` would want `-f` (OpenZFS 2.3 cmd/zpool/zpool_main.c,
/// zfs_force_import_required); the kernel itself does not ask.
fn check_host(config: &NvList, own_hostid: u64) -> Result<()> {
    let info = config.list("load_info");
    let info = info.as_ref();
    let number = |key| info.and_then(|i| i.u64(key)).or_else(|| config.u64(key));
    let hostid = number("hostid").unwrap_or(0);
    let exported = config.u64("state") == Some(u64::from(ffi::POOL_STATE_EXPORTED));
    let multihost = info.and_then(|i| i.u64("mmp_state"));
    let inactive = multihost.is_none_or(|state| state == u64::from(ffi::MMP_STATE_INACTIVE));
    if (exported || hostid == own_hostid) && inactive {
        return Ok(());
    }
    let hostname = ["mmp_hostname", "hostname"]
        .iter()
        .find_map(|key| info.and_then(|i| i.string(key)))
        .or_else(|| config.string("hostname"));
    Err(Error::ForeignHost {
        pool: config.string("name").unwrap_or_default(),
        hostname: hostname.unwrap_or_else(|| "an unnamed host".into()),
        hostid: info.and_then(|i| i.u64("mmp_hostid")).unwrap_or(hostid),
    })
}

fn check_altroot(pool: &ImportedPool, wanted: Option<&str>) -> Result<()> {
    if pool.altroot.as_deref() == wanted {
        return Ok(());
    }
    let show = |altroot: Option<&str>| altroot.unwrap_or("/").to_owned();
    Err(Error::Differs {
        name: pool.name.clone(),
        difference: format!(
            "it is imported below {}, not below {}",
            show(pool.altroot.as_deref()),
            show(wanted)
        ),
    })
}

fn zero_start(path: &Path) -> Result<()> {
    let failed = |action| move |source| Error::Device { action, path: path.to_owned(), source };
    // On a block device O_EXCL fails with EBUSY while anybody uses it.
    let device = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path)
        .map_err(failed("open"))?;
    device
        .write_all_at(&[0; 4096], 0)
        .and_then(|()| device.sync_data())
        .map_err(failed("zero the start of"))?;
    match device.metadata().map_err(failed("look at"))?.len() {
        0 | 4097.. => Ok(()),
        _ => Err(failed("use")(io::Error::other("it is too small"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(properties: &[(&str, &str)], features: &[&str]) -> PoolSpec {
        PoolSpec {
            properties: properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            features: features.iter().map(ToString::to_string).collect(),
            altroot: Some("/mnt".into()),
            ..PoolSpec::default()
        }
    }

    #[test]
    fn properties_are_complete_and_features_merged() {
        let spec = spec(
            &[
                ("ashift", "12"),
                ("feature@lz4_compress", "disabled"),
                ("feature@blake3", "enabled"),
            ],
            &["encryption", "lz4_compress"],
        );
        let all: Vec<_> = spec.all_properties().unwrap().into_iter().collect();
        let expected = [
            ("altroot", "/mnt"),
            ("ashift", "12"),
            ("cachefile", "none"),
            ("feature@blake3", "enabled"),
            ("feature@encryption", "enabled"),
        ];
        assert_eq!(all, expected.map(|(k, v)| (k.to_string(), v.to_string())));
        assert_eq!(spec.ashift().unwrap(), Some(12));
    }

    #[test]
    fn bad_values_are_refused() {
        assert!(spec(&[("ashift", "4K")], &[]).ashift().is_err());
        assert!(spec(&[("feature@blake3", "active")], &[]).all_properties().is_err());
    }

    #[test]
    fn another_hosts_pool_needs_force() {
        let config = |state: u32, label_hostid: u64, loaded: &[(&str, u64)]| {
            let mut info = NvList::new().unwrap();
            for (key, value) in loaded {
                info.add_u64(key, *value).unwrap();
            }
            let mut config = NvList::new().unwrap();
            config.add_u64("state", u64::from(state)).unwrap();
            config.add_u64("hostid", label_hostid).unwrap();
            config.add_string("name", "rpool").unwrap();
            config.add_string("hostname", "laptop").unwrap();
            config.add_list("load_info", &info).unwrap();
            config
        };
        let (active, exported) = (ffi::POOL_STATE_ACTIVE, ffi::POOL_STATE_EXPORTED);
        check_host(&config(exported, 1, &[]), 2).unwrap();
        check_host(&config(active, 2, &[]), 2).unwrap();
        // What the pool itself says counts more than the label.
        check_host(&config(active, 1, &[("hostid", 2)]), 2).unwrap();
        let error = check_host(&config(active, 0xbeef, &[]), 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pool rpool was last used by laptop (host id 0000beef) and not exported there"
        );
        // Multihost: somebody writes to it now, whatever the label says.
        assert!(check_host(&config(exported, 2, &[("mmp_state", 0)]), 2).is_err());
        check_host(&config(exported, 2, &[("mmp_state", 1)]), 2).unwrap();
    }

    #[test]
    fn an_existing_pool_is_compared_by_device() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        fs::write(&disk, "").unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let spec = PoolSpec {
            name: "rpool".into(),
            vdevs: vec![TopVdev::data(vdev::Vdev::Leaf(disk))],
            ..PoolSpec::default()
        };
        let mut pool = ImportedPool {
            name: "rpool".into(),
            guid: 1,
            health: "ONLINE".into(),
            altroot: None,
            leaves: vec![Leaf { path: Some(link), guid: 2 }],
        };
        spec.compare(&pool).unwrap();
        pool.altroot = Some("/mnt".into());
        assert!(matches!(spec.compare(&pool), Err(Error::Differs { .. })));
        pool.altroot = None;
        pool.leaves[0].path = Some("/dev/null".into());
        assert!(spec.compare(&pool).unwrap_err().to_string().contains("/dev/null"));
    }
}
