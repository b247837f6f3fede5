//! Ending what uses the disks, and wiping them.

use super::volumes;
use crate::block::find;
use crate::execute::{Execution, StepResult};
use crate::{block, luks, mount, seal};
use keystone_protocol::plan::{DeviceRef, Release};
use std::path::Path;

/// Ends one use.
pub(super) fn release(run: &mut Execution<'_>, step: &str, what: &Release) -> StepResult {
    let roots = run.machine.roots().clone();
    match what {
        Release::Unmount { target } => {
            let target = Path::new(target);
            let swap = mount::swap::swapoff_below(&roots, target)?;
            Ok(mount::unmount_all_below(&roots, target)?.and(swap))
        }
        Release::StopArray { name } => volumes::stop_array(run, name),
        Release::DeactivateGroup { name } => volumes::deactivate_group(run, step, name),
        Release::Swapoff { device } => Ok(mount::swapoff(&roots, &run.machine.node(device)?)?),
        Release::CloseMapper { name, uuid } => {
            let another = find::mapper_now(&roots, |found, has| found == name && has != uuid);
            match another {
                Some(_) => Err(super::StepError::AnotherMapper(name.clone())),
                None => Ok(luks::close(name)?),
            }
        }
        Release::ExportPool { name, guid, members } => {
            let number = guid.parse().map_err(|_| super::StepError::PoolGuid(guid.clone()))?;
            let mut devices = Vec::new();
            for member in members {
                // A member in a container can't be asked any more once that is closed.
                if let DeviceRef::Partition { .. } | DeviceRef::Disk { .. } = member {
                    devices.push(run.machine.node(member)?.path);
                }
            }
            run.machine.pool_found(name, number, devices);
            Ok(seal::export(run.machine.zfs()?, name)?)
        }
        Release::DestroyPool { name, guid } => {
            let number = guid.parse().map_err(|_| super::StepError::PoolGuid(guid.clone()))?;
            Ok(run.machine.zfs()?.ensure_destroyed(name, number)?)
        }
    }
}

/// Removes all signatures from a disk and its partitions, and the table.
pub(super) fn wipe(run: &mut Execution<'_>, disk: &str, discard: bool) -> StepResult {
    let kernel_name = run.machine.disk(disk)?;
    let ensured = block::wipe::disk(run.machine.roots(), kernel_name, discard)?;
    run.machine.wiped(disk);
    Ok(ensured)
}
