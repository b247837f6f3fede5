//! A `table` that is there and stays.
//!
//! Nothing in it says whose its partitions are, so all of them have to be where the layout puts
//! them, and there may be no others.

use super::{ANEW, numbered};
use crate::refuse::refuse;
use crate::{tables, words};
use keystone_protocol::inventory::{Disk, Table};
use keystone_protocol::layout;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{MbrKind, MbrTable, PartitionTable, PlannedPartition};

/// What is there.
pub(super) enum Found {
    Gpt(PartitionTable),
    Mbr(MbrTable),
}

/// The table of `disk`, which has to be `table`.
pub(super) fn find(
    wanted: &layout::Disk,
    table: &layout::Table,
    disk: &Disk,
) -> Result<Found, Refusal> {
    let other = |what: String| {
        let shown = words::disk(&disk.identity);
        let message = format!("{}: disk {:?}, {shown}, {what}", table.path, wanted.name);
        Err(refuse(RefusalKind::TargetUnfit, message, ANEW))
    };
    match (&disk.contents.table, table.gpt) {
        (Some(Table::Gpt { .. }), true) | (Some(Table::Mbr { .. }), false) => {}
        (Some(Table::Gpt { .. }), false) => {
            return other("has a GPT, and the layout an MBR".into());
        }
        (Some(Table::Mbr { id }), true) => {
            return other(format!("has an MBR partition table ({id}), and the layout a GPT"));
        }
        (None, _) => return other("is not blank and has no partition table".into()),
    }
    let sector = u64::from(disk.identity.sector_size);
    // The kernel shows two sectors of an extended partition.
    let in_place = |number: u32, first: u64, last: Option<u64>| match numbered(disk, number) {
        None => Err(format!("has no partition {number}")),
        Some(found) => {
            let found = (found.first_lba, found.first_lba + (found.size / sector).max(1) - 1);
            match found.0 == first && last.is_none_or(|last| last == found.1) {
                true => Ok(()),
                false => Err(format!(
                    "has a partition {number} at sectors {} to {}, and the layout puts it at {first} to {}",
                    found.0,
                    found.1,
                    last.unwrap_or(found.1)
                )),
            }
        }
    };
    let known = |number: u32| table.partitions.iter().any(|partition| partition.number == number);
    if let Some(more) = disk.contents.partitions.iter().find(|found| !known(found.number)) {
        return other(format!("has a partition {} that the layout does not have", more.number));
    }
    if !table.gpt {
        let planned = tables::parted_mbr(wanted, table, &disk.identity)?;
        for partition in &planned.partitions {
            let last = (partition.kind != MbrKind::Extended).then_some(partition.last_lba);
            if let Err(what) = in_place(partition.number, partition.first_lba, last) {
                return other(what);
            }
        }
        return Ok(Found::Mbr(MbrTable { keep: true, ..planned }));
    }
    let planned = tables::parted_gpt(wanted, table, &disk.identity)?;
    let mut partitions = Vec::new();
    for partition in planned.partitions {
        if let Err(what) = in_place(partition.number, partition.first_lba, Some(partition.last_lba))
        {
            return other(what);
        }
        // What it is called and what type it has stays as it is.
        let found = numbered(disk, partition.number);
        partitions.push(PlannedPartition {
            label: found.and_then(|found| found.label.clone()).unwrap_or_default(),
            type_guid: found
                .and_then(|found| found.type_guid.clone())
                .unwrap_or(partition.type_guid),
            guid: found.and_then(|found| found.guid.clone()),
            ..partition
        });
    }
    Ok(Found::Gpt(PartitionTable { keep: true, partitions, ..planned }))
}
