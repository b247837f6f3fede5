//! Software RAID and LVM.

use super::StepError;
use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use crate::execute::{Execution, StepResult};
use crate::lvm::{self, Group, Size, Volume};
use crate::md::{self, Array};
use crate::tool::Say;
use keystone_protocol::plan::{ArrayPlan, DeviceRef, LogicalVolumePlan, LvSize};

/// Makes a RAID.
pub(super) fn create_array(run: &mut Execution<'_>, step: &str, plan: &ArrayPlan) -> StepResult {
    array(run, step, plan, Array::ensure)
}

/// Starts a RAID that is there.
pub(super) fn assemble_array(run: &mut Execution<'_>, step: &str, plan: &ArrayPlan) -> StepResult {
    array(run, step, plan, Array::ensure_assembled)
}

fn array(
    run: &mut Execution<'_>,
    step: &str,
    plan: &ArrayPlan,
    ensure: impl FnOnce(&Array, &Roots, Say<'_>) -> md::Result<(Ensured, Node)>,
) -> StepResult {
    let array = noted(run, plan)?;
    let roots = run.machine.roots().clone();
    let mut say = |line: &str| run.output(step, line);
    let (ensured, _) = ensure(&array, &roots, &mut say)?;
    Ok(ensured)
}

/// The RAID of a plan on this machine, noted as one that has to be stopped.
fn noted(run: &mut Execution<'_>, plan: &ArrayPlan) -> Result<Array, StepError> {
    let array = Array {
        name: plan.name.clone(),
        level: plan.level,
        metadata: plan.metadata.clone(),
        members: nodes(run, &plan.members)?,
        extra_args: plan.extra_args.clone(),
    };
    run.machine.array_started(array.clone());
    Ok(array)
}

/// Stops a RAID: one that a step before made or started, or that runs on the plan's disks and has
/// that name.
pub(super) fn stop_array(run: &mut Execution<'_>, name: &str) -> StepResult {
    let roots = run.machine.roots();
    if let Ok(array) = run.machine.array(name) {
        return Ok(array.stop(roots)?);
    }
    let mut ensured = Ensured::AlreadySo;
    let running = md::running_as(roots, name)?;
    // All of them first: stopping one may have it join another.
    running.iter().try_for_each(|running| run.machine.require_ours(running))?;
    for running in running {
        ensured = ensured.and(md::stop(roots, name, &running)?);
    }
    Ok(ensured)
}

/// Makes a physical volume.
pub(super) fn create_physical_volume(
    run: &mut Execution<'_>,
    step: &str,
    device: &DeviceRef,
) -> StepResult {
    let node = run.machine.node(device)?;
    let roots = run.machine.roots().clone();
    let mut say = |line: &str| run.output(step, line);
    Ok(lvm::ensure_physical(&roots, &node, &mut say)?)
}

/// Makes a volume group.
pub(super) fn create_group(
    run: &mut Execution<'_>,
    step: &str,
    name: &str,
    members: &[DeviceRef],
) -> StepResult {
    let group = group(run, name, members)?;
    let mut say = |line: &str| run.output(step, line);
    Ok(group.ensure(&mut say)?)
}

/// The group, which is to be closed from now on.
fn group(run: &mut Execution<'_>, name: &str, members: &[DeviceRef]) -> Result<Group, StepError> {
    let group = Group { name: name.to_owned(), members: nodes(run, members)? };
    run.machine.group_opened(group.clone());
    Ok(group)
}

/// Makes a logical volume.
pub(super) fn create_logical_volume(
    run: &mut Execution<'_>,
    step: &str,
    plan: &LogicalVolumePlan,
) -> StepResult {
    let group = run.machine.group(&plan.group)?.clone();
    let volume = Volume {
        name: plan.name.clone(),
        size: match &plan.size {
            LvSize::Bytes { bytes } => Size::Bytes(*bytes),
            LvSize::Percent { percent, of } => Size::Extents(format!("{percent}%{of}")),
        },
        kind: plan.kind.clone(),
        thin_pool: plan.thin_pool.clone(),
        extra_args: plan.extra_args.clone(),
    };
    let roots = run.machine.roots().clone();
    let mut say = |line: &str| run.output(step, line);
    Ok(group.ensure_volume(&roots, &volume, &mut say)?)
}

/// Makes the volumes of a group that is there available.
pub(super) fn activate_group(
    run: &mut Execution<'_>,
    step: &str,
    name: &str,
    members: &[DeviceRef],
) -> StepResult {
    let group = group(run, name, members)?;
    let mut say = |line: &str| run.output(step, line);
    Ok(group.activate(&mut say)?)
}

/// Ends all volumes of a group: of one that a step before made or found, or that lies on the
/// plan's disks and has that name.
pub(super) fn deactivate_group(run: &mut Execution<'_>, step: &str, name: &str) -> StepResult {
    let roots = run.machine.roots().clone();
    let group = match run.machine.group(name) {
        Ok(group) => group.clone(),
        Err(_) => {
            for volume in lvm::active_devices(&roots, name) {
                run.machine.require_ours(&volume)?;
            }
            Group { name: name.to_owned(), members: Vec::new() }
        }
    };
    let mut say = |line: &str| run.output(step, line);
    Ok(group.deactivate(&roots, &mut say)?)
}

fn nodes(run: &Execution<'_>, members: &[DeviceRef]) -> Result<Vec<Node>, StepError> {
    members.iter().map(|member| Ok(run.machine.node(member)?)).collect()
}
