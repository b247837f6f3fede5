//! Pools, volumes, datasets, snapshots.

use super::{StepError, unlock};
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::zfs::{self, Class, PoolSpec, TopVdev, VolumeOptions};
use keystone_protocol::plan::{DatasetKey, DeviceRef, KeyFile, PoolPlan, Vdev};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Makes a pool.
pub(super) fn create_pool(run: &mut Execution<'_>, pool: &PoolPlan) -> StepResult {
    let mut devices = Vec::new();
    let mut vdevs = Vec::new();
    for (class, planned) in [
        (Class::Data, &pool.vdevs),
        (Class::Log, &pool.log),
        (Class::Special, &pool.special),
        (Class::Dedup, &pool.dedup),
    ] {
        for vdev in planned {
            vdevs.push(TopVdev { class, vdev: resolve_vdev(run, vdev, &mut devices)? });
        }
    }
    let nodes = |members: &[DeviceRef]| -> Result<Vec<PathBuf>, StepError> {
        members.iter().map(|member| Ok(run.machine.node(member)?.path)).collect()
    };
    let spec = PoolSpec {
        name: pool.name.clone(),
        vdevs,
        spares: nodes(&pool.spare)?,
        caches: nodes(&pool.cache)?,
        properties: pool.properties.clone(),
        root_properties: pool.root_properties.clone(),
        root_key: pool.root_key.as_ref().map(|key| key_of(run, key)).transpose()?,
        features: pool.features.clone(),
        altroot: Some(TARGET.to_owned()),
    };
    let zfs = run.machine.zfs()?;
    let ensured = zfs.ensure_pool(&spec)?;
    let guid = zfs.imported_pool(&pool.name)?.guid;
    run.machine.pool_made(&pool.name, guid, pool.features.clone(), devices);
    Ok(ensured)
}

fn resolve_vdev(
    run: &Execution<'_>,
    vdev: &Vdev,
    devices: &mut Vec<PathBuf>,
) -> Result<zfs::Vdev, StepError> {
    let mut resolve = |member: &DeviceRef| -> Result<zfs::Vdev, StepError> {
        let node = run.machine.node(member)?;
        devices.push(node.path.clone());
        Ok(zfs::Vdev::Leaf(node.path))
    };
    Ok(match vdev {
        Vdev::Disk { member } => resolve(member)?,
        Vdev::Mirror { members } => {
            zfs::Vdev::Mirror(members.iter().map(resolve).collect::<Result<_, _>>()?)
        }
        Vdev::Raidz { parity, members } => zfs::Vdev::Raidz {
            parity: *parity,
            children: members.iter().map(resolve).collect::<Result<_, _>>()?,
        },
    })
}

/// Makes a volume.
pub(super) fn create_volume(
    run: &mut Execution<'_>,
    dataset: &str,
    size: u64,
    properties: &BTreeMap<String, String>,
    sparse: bool,
    key: Option<&DatasetKey>,
) -> StepResult {
    let key = key.map(|key| key_of(run, key)).transpose()?;
    let options = VolumeOptions { sparse, key: key.as_ref() };
    Ok(run.machine.zfs()?.ensure_volume_as(dataset, size, properties, options)?)
}

/// Makes a file system dataset, not mounted.
pub(super) fn create_dataset(
    run: &mut Execution<'_>,
    dataset: &str,
    properties: &BTreeMap<String, String>,
    key: Option<&DatasetKey>,
) -> StepResult {
    // A container that is left out keeps a key that is loaded.
    let left_out = |key: &&DatasetKey| match key {
        DatasetKey::Made { device, .. } => run.machine.is_left_out_device(device),
        DatasetKey::File { .. } | DatasetKey::Asked => false,
    };
    let key = key.filter(|key| !left_out(key)).map(|key| key_of(run, key)).transpose()?;
    Ok(run.machine.zfs()?.ensure_dataset(dataset, properties, key.as_ref())?)
}

/// Loads the key of an encryption root that is there.
pub(super) fn unlock_dataset(
    run: &mut Execution<'_>,
    dataset: &str,
    key: &DatasetKey,
) -> StepResult {
    let key = key_of(run, key)?;
    Ok(run.machine.zfs()?.ensure_key_material_loaded(dataset, &key)?)
}

/// Makes a snapshot.
pub(super) fn create_snapshot(run: &mut Execution<'_>, snapshot: &str) -> StepResult {
    Ok(run.machine.zfs()?.ensure_snapshot(snapshot)?)
}

/// The key of an encryption root, in the format that its properties say.
fn key_of(run: &Execution<'_>, key: &DatasetKey) -> Result<Secret, StepError> {
    match key {
        DatasetKey::Made { device, file } => Ok(run.machine.key(device, file)?),
        DatasetKey::File { path } => unlock::key_file(run, &whole_file(path)),
        DatasetKey::Asked => {
            run.supplies.password().cloned().ok_or(StepError::NoSecret("password"))
        }
    }
}

fn whole_file(path: &str) -> KeyFile {
    KeyFile { path: path.to_owned(), trim_newline: false, offset: 0, size: None }
}
