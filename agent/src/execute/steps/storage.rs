//! Partition table, file systems, pool, volume, datasets, mounts.

use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::zfs::{PoolSpec, VdevSpec};
use crate::{filesystem, gpt, mount};
use keystone_protocol::plan::{
    DeviceRef, KeyRef, MountPlan, MountSource, PartitionTable, PoolPlan, Vdev,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Writes a partition table and notes its GUIDs.
pub(super) fn partition(run: &mut Execution<'_>, table: &PartitionTable) -> StepResult {
    let kernel_name = run.machine.disk(&table.disk)?;
    let (ensured, ids) = gpt::ensure(run.machine.roots(), kernel_name, table)?;
    let names = table.partitions.iter().map(|partition| {
        (partition.name.clone(), ids.partitions[&partition.number].to_string())
    });
    run.machine.partitioned(&table.disk, ids.disk.to_string(), names.collect());
    Ok(ensured)
}

/// Makes a FAT32 file system.
pub(super) fn make_vfat(run: &mut Execution<'_>, device: &DeviceRef) -> StepResult {
    Ok(filesystem::vfat::ensure(&run.machine.node(device)?)?)
}

/// Makes an ext4 file system.
pub(super) fn make_ext4(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    extra_args: &[String],
) -> StepResult {
    Ok(filesystem::ext4::ensure(&run.machine.node(device)?, extra_args)?)
}

/// Makes a pool.
pub(super) fn create_pool(run: &mut Execution<'_>, pool: &PoolPlan) -> StepResult {
    let mut devices = Vec::new();
    let mut vdevs = Vec::new();
    for vdev in &pool.vdevs {
        vdevs.push(resolve_vdev(run, vdev, &mut devices)?);
    }
    let spec = PoolSpec {
        name: pool.name.clone(),
        vdevs,
        properties: pool.properties.clone(),
        root_properties: pool.root_properties.clone(),
        features: pool.features.clone(),
        altroot: TARGET.to_owned(),
    };
    let (ensured, guid) = run.machine.zfs()?.create_pool(&spec)?;
    run.machine.pool_made(&pool.name, guid, pool.features.clone(), devices);
    Ok(ensured)
}

fn resolve_vdev(
    run: &Execution<'_>,
    vdev: &Vdev,
    devices: &mut Vec<PathBuf>,
) -> Result<VdevSpec, super::StepError> {
    let mut resolve = |member: &DeviceRef| -> Result<PathBuf, super::StepError> {
        let node = run.machine.node(member)?;
        devices.push(node.clone());
        Ok(node)
    };
    Ok(match vdev {
        Vdev::Disk { member } => VdevSpec::Disk(resolve(member)?),
        Vdev::Mirror { members } => {
            VdevSpec::Mirror(members.iter().map(resolve).collect::<Result<_, _>>()?)
        }
        Vdev::Raidz { parity, members } => VdevSpec::Raidz {
            parity: *parity,
            members: members.iter().map(resolve).collect::<Result<_, _>>()?,
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
    Ok(run.machine.zfs()?.create_volume(dataset, size, properties)?)
}

/// Makes a file system dataset, not mounted.
pub(super) fn create_dataset(
    run: &mut Execution<'_>,
    dataset: &str,
    properties: &BTreeMap<String, String>,
    key: Option<&KeyRef>,
) -> StepResult {
    let key = key.map(|key| run.machine.key(key)).transpose()?;
    Ok(run.machine.zfs()?.create_filesystem(dataset, properties, key.as_ref())?)
}

/// Mounts below the target's root.
pub(super) fn mount(run: &mut Execution<'_>, plan: &MountPlan) -> StepResult {
    let target = Path::new(TARGET).join(plan.target.trim_start_matches('/'));
    Ok(match &plan.source {
        MountSource::Dataset { dataset } => {
            mount::mount_dataset(run.machine.roots(), dataset, &target, &plan.options)?
        }
        MountSource::Filesystem { device, fstype } => {
            let node = run.machine.node(device)?;
            mount::mount_device(run.machine.roots(), &node, &target, fstype, &plan.options)?
        }
    })
}
