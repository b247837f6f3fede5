//! RAIDs and volume groups of which only a part would stay.
//!
//! A RAID is there with all its members, or made of all of them: one that lacks a member is not
//! completed, and is not made over those that it has. A volume group grows by physical volumes
//! that are new, as disko has it grow; but where one that may be of it is wiped, what is on it
//! is lost to what stays.

use super::{Existing, place};
use crate::refuse::refuse;
use crate::{Context, mirror};
use keystone_protocol::inventory::{Disk, Signature};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::DeviceRef;

/// What to do where one disk is wiped and another stays.
const SAME_DESTROY: &str = "give all its disks the same `destroy` in the layout";

/// Refuses a plan that would keep a part of something and make or wipe another.
pub(super) fn check(context: &Context<'_>, existing: &Existing) -> Result<(), Refusal> {
    for array in &context.layout.arrays {
        let (stay, made) = split(context, existing, context.layout.array_members(&array.name));
        if let (Some(stays), Some(made)) = (stay.first(), made.first()) {
            return Err(part_of_array(context, &array.name, stays, made));
        }
    }
    for group in &context.layout.groups {
        let (stay, made) = split(context, existing, context.layout.physical_volumes(&group.name));
        let lost = made.iter().find(|device| loses(context, device));
        if let (Some(stays), Some(lost)) = (stay.first(), lost) {
            return Err(part_of_group(context, &group.name, stays, lost));
        }
    }
    Ok(())
}

fn part_of_array(
    context: &Context<'_>,
    name: &str,
    stays: &DeviceRef,
    made: &DeviceRef,
) -> Refusal {
    let (what, way_out) = match wiped(context, made) {
        Some(_) => ("wiped", SAME_DESTROY),
        None => (
            "made anew",
            "complete the RAID with mdadm, and it stays; to lose it and make everything anew: \
             --disko-mode disko --erase",
        ),
    };
    let (stays, made) = (place(context, stays), place(context, made));
    refuse(
        RefusalKind::TargetUnfit,
        format!(
            "only a part of the RAID {name:?} would be kept: {stays} stays, and {made} is {what}"
        ),
        way_out,
    )
}

fn part_of_group(
    context: &Context<'_>,
    name: &str,
    stays: &DeviceRef,
    lost: &DeviceRef,
) -> Refusal {
    let (stays, lost) = (place(context, stays), place(context, lost));
    refuse(
        RefusalKind::TargetUnfit,
        format!(
            "only a part of the volume group {name:?} may be kept: {stays} stays, and {lost} is \
             wiped with what may be a physical volume of it"
        ),
        format!("{SAME_DESTROY}; if what is wiped is of another group, destroy that first"),
    )
}

/// Those that are there and stay, and the others.
fn split(
    context: &Context<'_>,
    existing: &Existing,
    devices: Vec<DeviceRef>,
) -> (Vec<DeviceRef>, Vec<DeviceRef>) {
    devices.into_iter().partition(|device| existing.has(context.layout, device))
}

/// The disk that a device is on, if that is wiped.
fn wiped<'a>(context: &Context<'a>, device: &DeviceRef) -> Option<&'a Disk> {
    let name = mirror::base(context, device)?;
    let wanted = context.layout.disks.iter().find(|disk| disk.name == name)?;
    context.wipes(wanted).then(|| context.disks[name.as_str()])
}

/// Whether the disk of a physical volume is wiped, and may have one on it now.
fn loses(context: &Context<'_>, device: &DeviceRef) -> bool {
    let Some(disk) = wiped(context, device) else { return false };
    let hidden = !matches!(device, DeviceRef::Disk { .. } | DeviceRef::Partition { .. });
    let may_be = |signature: &Signature| match signature {
        Signature::Lvm => true,
        // What is in it shows only once it is open.
        Signature::Luks { .. } | Signature::MdRaid => hidden,
        _ => false,
    };
    let contents = &disk.contents;
    let partitions = contents.partitions.iter().flat_map(|partition| &partition.signatures);
    contents.signatures.iter().chain(partitions).any(may_be)
}
