//! Other attached disks with names that the installed system would confuse with its own.

use super::refuse::refuse;
use super::tables::Tables;
use super::{Context, words};
use keystone_protocol::inventory::{Disk, PoolState, Signature};
use keystone_protocol::layout::Content;
use keystone_protocol::message::{Refusal, RefusalKind};
use std::collections::BTreeSet;

/// Disks that the layout does not use.
fn others<'a>(context: &'a Context<'_>) -> impl Iterator<Item = &'a Disk> {
    let used = |disk: &Disk| context.disks.values().any(|target| target.devno == disk.devno);
    context.inventory.disks.iter().filter(move |disk| !used(disk))
}

/// The installed system finds partitions by `/dev/disk/by-partlabel`, and of two with the same
/// name udev links either.
pub(super) fn labels(context: &Context<'_>, tables: &Tables) -> Result<(), Refusal> {
    let ours = names(context, tables);
    for disk in others(context) {
        others_labels(disk, &ours)?;
    }
    Ok(())
}

/// The names of all partitions that are told by them: the layout's, and those that copies of the
/// ESP get. The partitions of a `table` have none of their own.
fn names<'a>(context: &'a Context<'_>, tables: &'a Tables) -> BTreeSet<&'a str> {
    let nameless = |disk: Option<&str>| {
        let mut disks = context.layout.disks.iter();
        disks.any(|found| {
            Some(found.name.as_str()) == disk && matches!(found.content, Some(Content::Table(_)))
        })
    };
    let planned = tables.gpt.iter().filter(|table| !nameless(table.device.disk()));
    let planned = planned.flat_map(|table| &table.partitions).map(|p| p.label.as_str());
    let of_layout = context.layout.partitions();
    planned.chain(of_layout.into_iter().map(|(_, partition)| partition.label.as_str())).collect()
}

fn others_labels(disk: &Disk, ours: &BTreeSet<&str>) -> Result<(), Refusal> {
    for theirs in &disk.contents.partitions {
        let Some(label) = theirs.label.as_deref().filter(|label| ours.contains(label)) else {
            continue;
        };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "partition {} of {}, which is not to be installed on, is named {label:?}, as a \
                 partition of this plan: the installed system could mount either",
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
pub(super) fn pools(context: &Context<'_>) -> Result<(), Refusal> {
    others(context).try_for_each(|disk| others_pools(context, disk))
}

fn others_pools(context: &Context<'_>, disk: &Disk) -> Result<(), Refusal> {
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
