//! File systems and volumes.

use std::collections::BTreeMap;

use super::{
    Zfs,
    error::{Error, Result},
    ffi::{self, Dataset, Kind, NvList, Pool},
    material,
};
use crate::ensure::Ensured;
use keystone_protocol::plan::is_one_time;
use keystone_protocol::secret::Secret;
use zeroize::Zeroizing;

/// `ZVOL_DEFAULT_BLOCKSIZE` of OpenZFS include/sys/zvol.h.
const DEFAULT_VOLUME_BLOCK: u64 = 16 * 1024;

/// What else a volume can be.
#[derive(Debug, Clone, Copy, Default)]
pub struct VolumeOptions<'a> {
    /// Whether it reserves no room (`-s`).
    pub sparse: bool,
    /// Its key, if it is an encryption root: as `keyformat` says.
    pub key: Option<&'a Secret>,
}

impl Zfs {
    /// Makes a file system with these properties and missing parents without any, as
    /// `zfs create -u -p` does; nothing is mounted. `key` makes it an encryption root:
    /// the properties then name `encryption`, `keyformat` (`raw` or `hex`) and `keylocation`.
    /// The key stays loaded.
    ///
    /// [`Ensured::AlreadySo`] if it exists with these properties and the key opens it.
    ///
    /// # Errors
    /// [`Error::Differs`], [`Error::WrongKey`], [`Error::Refused`] with libzfs's words.
    pub fn ensure_filesystem(
        &self,
        name: &str,
        properties: &BTreeMap<String, String>,
        key: Option<&[u8; 32]>,
    ) -> Result<Ensured> {
        let kind = Kind::Filesystem;
        let wanted = NvList::of_strings(properties)?;
        let pool = Pool::open(&self.library, pool_of(name))?;
        let action = format!("cannot create '{name}'");
        if self.library.exists(name)? {
            let parsed = self.library.valid_properties(kind, &wanted, &pool, &action)?;
            self.compare(name, kind, &parsed)?;
            if let Some(key) = key {
                let _ = self.ensure_key_loaded(name, key)?;
            }
            return Ok(Ensured::AlreadySo);
        }
        self.ensure_parents(name)?;
        match key {
            None => self.library.create_dataset(name, kind, &wanted)?,
            Some(key) => {
                let complete = with_key_properties(properties)?;
                let parsed = self.library.valid_properties(
                    kind,
                    &NvList::of_strings(&complete)?,
                    &pool,
                    &action,
                )?;
                ffi::create(&self.library, name, kind, &parsed, key)?;
            }
        }
        Ok(Ensured::Created)
    }

    /// Makes a file system for a layout: as [`Zfs::ensure_filesystem`], with a key in any format,
    /// and as disko does where it exists: properties that can change are set (`zfs set -u`), those
    /// that can't have to be so already.
    ///
    /// # Errors
    /// [`Error::Differs`], [`Error::WrongKey`], [`Error::Invalid`] for a key that is none.
    pub fn ensure_dataset(
        &self,
        name: &str,
        properties: &BTreeMap<String, String>,
        key: Option<&Secret>,
    ) -> Result<Ensured> {
        if self.library.exists(name)? {
            return self.ensure_existing(name, Kind::Filesystem, properties, &[], key);
        }
        let Some(key) = key else { return self.ensure_filesystem(name, properties, None) };
        self.ensure_parents(name)?;
        let pool = Pool::open(&self.library, pool_of(name))?;
        let (parsed, wrapping) =
            self.with_key(name, Kind::Filesystem, properties, NvList::new()?, &pool, key)?;
        ffi::create(&self.library, name, Kind::Filesystem, &parsed, &wrapping)?;
        Ok(Ensured::Created)
    }

    /// A dataset that exists: what can change is made so, what can't is compared, `numbers` too.
    fn ensure_existing(
        &self,
        name: &str,
        kind: Kind,
        properties: &BTreeMap<String, String>,
        numbers: &[(&str, u64)],
        key: Option<&Secret>,
    ) -> Result<Ensured> {
        let pool = Pool::open(&self.library, pool_of(name))?;
        // How the key is found, and what is drawn for it, may differ.
        let fixed = properties.iter().filter(|(property, _)| {
            is_one_time(property)
                && !matches!(property.as_str(), "keylocation" | "pbkdf2iters" | "pbkdf2salt")
        });
        let fixed: BTreeMap<_, _> = fixed.map(|(k, v)| (k.clone(), v.clone())).collect();
        let action = format!("cannot look at '{name}'");
        let wanted = NvList::of_strings(&fixed)?;
        let mut parsed = self.library.valid_properties(kind, &wanted, &pool, &action)?;
        for (number, value) in numbers {
            parsed.add_u64(number, *value)?;
        }
        self.compare(name, kind, &parsed)?;
        let loaded = match key {
            Some(key) => self.ensure_key_material_loaded(name, key)?,
            None => Ensured::AlreadySo,
        };
        let changing = properties.iter().filter(|(property, _)| !is_one_time(property));
        let changing: BTreeMap<_, _> = changing.map(|(k, v)| (k.clone(), v.clone())).collect();
        // An inherited mount point that is as wanted stays inherited, as everything else.
        Ok(loaded.and(self.ensure_properties(name, &changing)?))
    }

    /// Properties of a new encryption root as the kernel takes them, and its wrapping key.
    /// `drawn` holds what is known as numbers already (`volsize`).
    fn with_key(
        &self,
        name: &str,
        kind: Kind,
        properties: &BTreeMap<String, String>,
        drawn: NvList,
        pool: &Pool<'_>,
        key: &Secret,
    ) -> Result<(NvList, Zeroizing<[u8; 32]>)> {
        let (strings, derivation) = material::complete(properties)?;
        let mut wanted = NvList::of_strings(&strings)?;
        for number in drawn.names() {
            wanted.add_u64(&number, drawn.u64(&number).unwrap_or(0))?;
        }
        let action = format!("cannot create '{name}'");
        let mut parsed = self.library.valid_properties(kind, &wanted, pool, &action)?;
        let format = strings.get("keyformat").map_or("", String::as_str);
        if let Some(derivation) = &derivation {
            parsed.add_u64("pbkdf2salt", derivation.salt)?;
            parsed.add_u64("pbkdf2iters", derivation.iterations)?;
        }
        let wrapping = material::wrapping_key(format, key, derivation.as_ref())?;
        Ok((parsed, wrapping))
    }

    /// Makes a snapshot, `pool/dataset@name`, unless there is one.
    ///
    /// # Errors
    /// [`Error::Refused`] with libzfs's words.
    pub fn ensure_snapshot(&self, name: &str) -> Result<Ensured> {
        if self.library.has_snapshot(name)? {
            return Ok(Ensured::AlreadySo);
        }
        self.library.snapshot(name)?;
        Ok(Ensured::Created)
    }

    /// Makes a volume of at least `size` bytes as `zfs create -p -V` does: block size chosen
    /// by the pool's geometry unless `volblocksize` is among the properties, size rounded
    /// up to it, and everything reserved (`refreservation`).
    ///
    /// If it exists, it must have that size and those of the properties that can't change; the
    /// others are set. [`Ensured::AlreadySo`] if all are so.
    ///
    /// # Errors
    /// [`Error::Differs`], [`Error::Refused`] with libzfs's words.
    pub fn ensure_volume(
        &self,
        name: &str,
        size: u64,
        properties: &BTreeMap<String, String>,
    ) -> Result<Ensured> {
        self.ensure_volume_as(name, size, properties, VolumeOptions::default())
    }

    /// As [`Zfs::ensure_volume`], sparse or with a key of its own.
    ///
    /// # Errors
    /// As that; [`Error::WrongKey`], [`Error::Invalid`] for a key that is none.
    pub fn ensure_volume_as(
        &self,
        name: &str,
        size: u64,
        properties: &BTreeMap<String, String>,
        options: VolumeOptions<'_>,
    ) -> Result<Ensured> {
        let kind = Kind::Volume;
        let pool = Pool::open(&self.library, pool_of(name))?;
        let action = format!("cannot create '{name}'");
        let mut wanted = NvList::of_strings(properties)?;
        wanted.add_u64("volsize", size)?;
        let mut parsed = self.library.valid_properties(kind, &wanted, &pool, &action)?;
        // What the tool does next (OpenZFS 2.3 cmd/zfs/zfs_main.c, zfs_do_create).
        let block = match parsed.u64("volblocksize") {
            Some(block) => block,
            None => {
                let block = default_volume_block(&pool.config()?);
                parsed.add_u64("volblocksize", block)?;
                if block != DEFAULT_VOLUME_BLOCK {
                    wanted.add_string("volblocksize", &block.to_string())?;
                }
                block
            }
        };
        let size = size.next_multiple_of(block);
        wanted.add_u64("volsize", size)?;
        parsed.add_u64("volsize", size)?;
        if self.library.exists(name)? {
            let numbers = [("volsize", size), ("volblocksize", block)];
            return self.ensure_existing(name, kind, properties, &numbers, options.key);
        }
        let reservation = (!options.sparse && !properties.contains_key("refreservation"))
            .then(|| pool.volume_reservation(size, &parsed));
        if let Some(bytes) = reservation {
            wanted.add_u64("refreservation", bytes)?;
        }
        self.ensure_parents(name)?;
        let Some(key) = options.key else {
            self.library.create_dataset(name, kind, &wanted)?;
            return Ok(Ensured::Created);
        };
        let mut drawn = NvList::new()?;
        drawn.add_u64("volsize", size)?;
        let (mut complete, wrapping) = self.with_key(name, kind, properties, drawn, &pool, key)?;
        complete.add_u64("volblocksize", block)?;
        if let Some(bytes) = reservation {
            complete.add_u64("refreservation", bytes)?;
        }
        ffi::create(&self.library, name, kind, &complete, &wrapping)?;
        Ok(Ensured::Created)
    }

    /// Sets those of the properties that have another value, and mounts nothing (`zfs set -u`).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Refused`].
    pub fn ensure_properties(
        &self,
        name: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<Ensured> {
        let mut dataset = Dataset::open(&self.library, name)?;
        let kind = if dataset.is(Kind::Volume) { Kind::Volume } else { Kind::Filesystem };
        let pool = Pool::open(&self.library, pool_of(name))?;
        let action = format!("cannot set properties of '{name}'");
        let parsed = self.library.valid_properties(
            kind,
            &NvList::of_strings(properties)?,
            &pool,
            &action,
        )?;
        let stored = dataset.stored()?;
        let different: BTreeMap<_, _> = properties
            .iter()
            .filter(|(key, _)| !same(&parsed, &stored, key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if different.is_empty() {
            return Ok(Ensured::AlreadySo);
        }
        dataset.set(&NvList::of_strings(&different)?)?;
        Ok(Ensured::Created)
    }

    /// A property's value as `zfs get -Hp -o value` prints it; None where that prints `-`.
    /// Mount points are below the pool's altroot.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such dataset.
    pub fn property(&self, name: &str, property: &str) -> Result<Option<String>> {
        Dataset::open(&self.library, name)?.property(property)
    }

    /// Whether a file system or volume of that name exists in an imported pool.
    ///
    /// # Errors
    /// If the name is impossible.
    pub fn exists(&self, name: &str) -> Result<bool> {
        self.library.exists(name)
    }

    fn ensure_parents(&self, name: &str) -> Result<()> {
        for (slash, _) in name.match_indices('/') {
            let parent = &name[..slash];
            if !self.library.exists(parent)? {
                self.library.create_dataset(parent, Kind::Filesystem, &NvList::new()?)?;
            }
        }
        Ok(())
    }

    fn compare(&self, name: &str, kind: Kind, parsed: &NvList) -> Result<()> {
        let dataset = Dataset::open(&self.library, name)?;
        let differs = |difference| Error::Differs { name: name.to_owned(), difference };
        if !dataset.is(kind) {
            let found = dataset.property("type")?.unwrap_or_default();
            return Err(differs(format!("it is a {found}")));
        }
        let stored = dataset.stored()?;
        match parsed.names().iter().find(|key| !same(parsed, &stored, key)) {
            None => Ok(()),
            Some(key) => {
                let found = dataset.property(key)?.unwrap_or_else(|| "unset".into());
                Err(differs(format!("{key} is {found}")))
            }
        }
    }
}

/// Whether a property has the wanted value, both as the kernel keeps it.
fn same(wanted: &NvList, stored: &NvList, key: &str) -> bool {
    let Some(found) = stored.list(key) else { return false };
    match wanted.u64(key) {
        // `encryption=on` is kept as the algorithm it stands for.
        Some(ENCRYPTION_ON) if key == "encryption" => found.u64("value") != Some(ENCRYPTION_OFF),
        Some(number) => found.u64("value") == Some(number),
        None => wanted.string(key) == found.string("value"),
    }
}

/// `ZIO_CRYPT_ON` and `ZIO_CRYPT_OFF` of OpenZFS include/sys/zio.h.
const ENCRYPTION_ON: u64 = 1;
const ENCRYPTION_OFF: u64 = 2;

fn pool_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(pool, _)| pool)
}

/// The properties of an encryption root whose key needs no derivation.
fn with_key_properties(properties: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    match material::complete(properties)? {
        (complete, None) => Ok(complete),
        (_, Some(_)) => Err(Error::Invalid(
            "an encryption root with keyformat=passphrase cannot be made from a raw key".into(),
        )),
    }
}

/// The block size that `zfs create -V` takes without `-b`: no smaller than what the pool
/// allocates at least. Later modules of 2.3 say that themselves (`max_alloc`, which the tools
/// of 2.3.9 believe); for older ones it is computed (OpenZFS 2.3.2 cmd/zfs/zfs_main.c,
/// default_volblocksize).
fn default_volume_block(config: &NvList) -> u64 {
    let allocation = config.u64("max_alloc").unwrap_or_else(|| smallest_allocation(config));
    let mut block = DEFAULT_VOLUME_BLOCK;
    while block * 2 <= allocation {
        block *= 2;
    }
    block
}

fn smallest_allocation(config: &NvList) -> u64 {
    let tops = config.list("vdev_tree").map(|tree| tree.lists("children")).unwrap_or_default();
    let of_vdev = |top: &NvList| {
        let sector = 1u64.checked_shl(u32::try_from(top.u64("ashift")?).ok()?)?;
        let sectors = match (top.u64("draid_ndata"), top.u64("nparity")) {
            (Some(data), _) => data,
            (None, Some(1)) => 2,
            (None, Some(_)) => 4,
            (None, None) => 1,
        };
        Some(sectors * sector)
    };
    tops.iter().filter_map(of_vdev).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vdevs: &[&[(&str, u64)]]) -> NvList {
        let tops: Vec<NvList> = vdevs
            .iter()
            .map(|pairs| {
                let mut top = NvList::new().unwrap();
                for (key, value) in *pairs {
                    top.add_u64(key, *value).unwrap();
                }
                top
            })
            .collect();
        let mut tree = NvList::new().unwrap();
        tree.add_lists("children", &tops).unwrap();
        let mut config = NvList::new().unwrap();
        config.add_list("vdev_tree", &tree).unwrap();
        config
    }

    #[test]
    fn volume_blocks_follow_the_geometry() {
        assert_eq!(default_volume_block(&config(&[&[("ashift", 12)]])), 16 << 10);
        assert_eq!(default_volume_block(&config(&[&[("ashift", 12), ("nparity", 2)]])), 16 << 10);
        assert_eq!(default_volume_block(&config(&[&[("ashift", 13), ("nparity", 2)]])), 32 << 10);
        assert_eq!(
            default_volume_block(&config(&[&[("ashift", 9)], &[("ashift", 14), ("nparity", 1)]])),
            32 << 10
        );
        assert_eq!(
            default_volume_block(&config(&[&[("ashift", 12), ("draid_ndata", 8), ("nparity", 1)]])),
            32 << 10
        );
        assert_eq!(default_volume_block(&NvList::new().unwrap()), 16 << 10);
        // What the module says counts more.
        let mut told = config(&[&[("ashift", 13), ("nparity", 2)]]);
        told.add_u64("max_alloc", 8 << 10).unwrap();
        assert_eq!(default_volume_block(&told), 16 << 10);
        told.add_u64("max_alloc", 64 << 10).unwrap();
        assert_eq!(default_volume_block(&told), 64 << 10);
    }

    #[test]
    fn the_pool_of_a_dataset() {
        assert_eq!((pool_of("rpool"), pool_of("rpool/crypt/system")), ("rpool", "rpool"));
    }
}
