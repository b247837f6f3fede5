//! Partition tables.

use super::existing::Existing;
use super::geometry::{self, GeometryError, Wanted};
use super::refuse::refuse;
use super::words::human;
use super::{Context, words};
use keystone_protocol::layout;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, PartitionTable, PlannedPartition};

/// The table of every disk: the one that is there, if it stays.
pub(super) fn tables(
    context: &Context<'_>,
    existing: &Existing,
) -> Result<Vec<PartitionTable>, Refusal> {
    let table = |disk: &layout::Disk| match existing.table(&disk.name) {
        Some(table) => Ok(table.clone()),
        None => table(context, disk),
    };
    context.layout.disks.iter().map(table).collect()
}

fn table(context: &Context<'_>, disk: &layout::Disk) -> Result<PartitionTable, Refusal> {
    let identity = &context.disks[disk.name.as_str()].identity;
    let wanted: Vec<Wanted> = disk
        .table
        .partitions
        .iter()
        .map(|partition| Wanted {
            start: partition.start,
            end: partition.end,
            alignment: partition.alignment,
        })
        .collect();
    let extents = geometry::allocate(identity.size, identity.sector_size, &wanted)
        .map_err(|error| too_small(disk, identity, &error))?;
    let partitions =
        disk.table.partitions.iter().zip(extents).zip(1..).map(|((partition, extent), number)| {
            PlannedPartition {
                number,
                name: partition.name.clone(),
                label: partition.label.clone(),
                type_guid: partition.type_guid.clone(),
                guid: partition.guid.clone(),
                first_lba: extent.first,
                last_lba: extent.last,
                attributes: partition.attributes,
            }
        });
    Ok(PartitionTable {
        device: DeviceRef::Disk { disk: disk.name.clone() },
        keep: false,
        partitions: partitions.collect(),
        hybrid: None,
    })
}

fn too_small(
    disk: &layout::Disk,
    identity: &keystone_protocol::inventory::DiskIdentity,
    error: &GeometryError,
) -> Refusal {
    let shown = words::disk(identity);
    let message = match error {
        GeometryError::NoTable => format!("disk {:?}, {shown}, is {error}", disk.name),
        GeometryError::Full { number } => {
            let name = &disk.table.partitions[number - 1].name;
            format!("disk {:?}, {shown}, is too small: nothing is left for {name}", disk.name)
        }
        GeometryError::NoRoom { number, left } => {
            let partition = &disk.table.partitions[number - 1];
            format!(
                "disk {:?}, {shown}, is too small: {} are left for {}, which is to reach from {} \
                 to {}",
                disk.name,
                human(*left),
                partition.name,
                partition.start,
                partition.end
            )
        }
    };
    refuse(
        RefusalKind::TargetUnfit,
        message,
        "choose a larger disk, or make the layout's partitions (swap, as a rule) smaller",
    )
}
