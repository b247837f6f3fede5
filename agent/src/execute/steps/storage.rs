//! Partition table, file systems, pool, volume, datasets, mounts.

use super::StepError;
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::mount::MountRequest;
use crate::zfs::{PoolSpec, TopVdev};
use crate::{filesystem, gpt, mount, zfs};
use keystone_protocol::plan::{
    DatasetKey, DeviceRef, MountPlan, MountSource, PartitionTable, PoolPlan, Vdev,
};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Writes a partition table and notes its GUIDs.
pub(super) fn partition(run: &mut Execution<'_>, table: &PartitionTable) -> StepResult {
    if table.keep || table.hybrid.is_some() {
        return Err(StepError::CanNot("keep a partition table, or write a hybrid MBR"));
    }
    let Some(disk) = table.device.disk() else {
        return Err(StepError::CanNot("partition what is not a disk"));
    };
    let kernel_name = run.machine.disk(disk)?;
    let (ensured, ids) = gpt::ensure(run.machine.roots(), kernel_name, table)?;
    run.machine.partitioned(table, ids);
    Ok(ensured)
}

/// Makes a FAT32 file system.
pub(super) fn make_vfat(run: &mut Execution<'_>, device: &DeviceRef) -> StepResult {
    let node = run.machine.node(device)?;
    Ok(filesystem::vfat::ensure(run.machine.roots(), &node.name)?)
}

/// Makes an ext4 file system.
pub(super) fn make_ext4(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    extra_args: &[String],
) -> StepResult {
    let node = run.machine.node(device)?;
    Ok(filesystem::ext4::ensure(run.machine.roots(), &node.name, extra_args)?)
}

/// Makes a pool.
pub(super) fn create_pool(run: &mut Execution<'_>, pool: &PoolPlan) -> StepResult {
    let plain = pool.log.is_empty()
        && pool.special.is_empty()
        && pool.dedup.is_empty()
        && pool.cache.is_empty()
        && pool.spare.is_empty();
    if !plain || pool.root_key.is_some() {
        return Err(StepError::CanNot("make a pool with a topology, or with an encrypted root"));
    }
    let mut devices = Vec::new();
    let mut vdevs = Vec::new();
    for vdev in &pool.vdevs {
        vdevs.push(TopVdev::data(resolve_vdev(run, vdev, &mut devices)?));
    }
    let spec = PoolSpec {
        name: pool.name.clone(),
        vdevs,
        properties: pool.properties.clone(),
        root_properties: pool.root_properties.clone(),
        features: pool.features.clone(),
        altroot: Some(TARGET.to_owned()),
        ..PoolSpec::default()
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
) -> StepResult {
    Ok(run.machine.zfs()?.ensure_volume(dataset, size, properties)?)
}

/// Makes a file system dataset, not mounted.
pub(super) fn create_dataset(
    run: &mut Execution<'_>,
    dataset: &str,
    properties: &BTreeMap<String, String>,
    key: Option<&DatasetKey>,
) -> StepResult {
    let key = match key {
        None => None,
        Some(DatasetKey::Made { device, file }) => Some(run.machine.key(device, file)?),
        Some(DatasetKey::File { .. } | DatasetKey::Asked) => {
            return Err(StepError::CanNot("encrypt a dataset with a key that it did not make"));
        }
    };
    let bytes = key.as_ref().map(raw_key).transpose()?;
    Ok(run.machine.zfs()?.ensure_filesystem(dataset, properties, bytes)?)
}

/// Mounts below the target's root.
pub(super) fn mount(run: &mut Execution<'_>, plan: &MountPlan) -> StepResult {
    let target = Path::new(TARGET).join(plan.target.trim_start_matches('/'));
    let request = match &plan.source {
        MountSource::Dataset { dataset } => {
            MountRequest {
                source: dataset.clone(),
                target,
                fstype: "zfs".to_owned(),
                options: plan.options.clone(),
            }
        }
        MountSource::Filesystem { device, fstype } => {
            let source = run.machine.node(device)?.path.display().to_string();
            MountRequest {
                source,
                target,
                fstype: fstype.clone(),
                options: plan.options.clone(),
            }
        }
        MountSource::Virtual { .. } | MountSource::Bind { .. } => {
            return Err(StepError::CanNot("mount what is on no device"));
        }
    };
    Ok(mount::ensure(run.machine.roots(), &request)?)
}

/// The 32 bytes of a raw key (`keyformat=raw`, zfsprops(7)).
fn raw_key(key: &Secret) -> Result<&[u8; 32], StepError> {
    key.expose().try_into().map_err(|_| StepError::KeyLength(key.len()))
}
