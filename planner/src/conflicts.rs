//! Other attached disks with names that the installed system would confuse with its own.

use super::refuse::refuse;
use super::{Context, words};
use keystone_protocol::inventory::{Disk, PoolState, Signature};
use keystone_protocol::message::{Refusal, RefusalKind};

/// Refuses a partition's name or a pool's name that is on another disk too.
pub(super) fn check(context: &Context<'_>) -> Result<(), Refusal> {
    for disk in others(context) {
        labels(context, disk)?;
        pools(context, disk)?;
    }
    Ok(())
}

/// Disks that the layout does not use.
fn others<'a>(context: &'a Context<'_>) -> impl Iterator<Item = &'a Disk> {
    let used = |disk: &Disk| context.disks.values().any(|target| target.devno == disk.devno);
    context.inventory.disks.iter().filter(move |disk| !used(disk))
}

/// The installed system finds partitions by `/dev/disk/by-partlabel`, and of two with the same
/// name udev links either.
fn labels(context: &Context<'_>, disk: &Disk) -> Result<(), Refusal> {
    let ours = context.layout.partitions();
    for label in ours.into_iter().map(|(_, partition)| &partition.label) {
        let Some(theirs) =
            disk.contents.partitions.iter().find(|p| p.label.as_ref() == Some(label))
        else {
            continue;
        };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "partition {} of {}, which is not to be installed on, is named {label:?}, as a \
                 partition of the layout: the installed system could mount either",
                theirs.number,
                words::disk(&disk.identity)
            ),
            "detach that disk, or rename its partition",
        ));
    }
    Ok(())
}

/// The installed system imports its pool by name, and of two with the same name it imports
/// neither.
fn pools(context: &Context<'_>, disk: &Disk) -> Result<(), Refusal> {
    for signature in disk.contents.all_signatures() {
        let Signature::ZfsMember { pool, guid, hostname, state, .. } = signature else { continue };
        let ours = context.layout.zpools.iter().any(|wanted| wanted.name == *pool);
        if !ours || *state == PoolState::Destroyed {
            continue;
        }
        let whose = hostname.as_ref().map_or(String::new(), |host| format!(" of host {host:?}"));
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "{}, which is not to be installed on, belongs to a pool {pool:?}{whose} (guid \
                 {guid}), the name of a pool of the layout: the installed system could not tell \
                 them apart",
                words::disk(&disk.identity)
            ),
            "detach that disk, or rename or destroy that pool",
        ));
    }
    Ok(())
}
