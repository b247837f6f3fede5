//! Tables, pools, logical volumes and RAIDs as text.

use super::action::{key_line, property_lines, with};
use super::device::{device, list};
use crate::ui::format::bytes;
use keystone_protocol::plan::{
    ArrayPlan, DeviceRef, HybridMbr, InnerPartition, InnerTable, LogicalVolumePlan, LvSize,
    MbrKind, MbrTable, PartitionTable, PlannedPartition, PoolPlan, Vdev,
};

/// A GPT, a line for each partition.
pub(super) fn table_lines(table: &PartitionTable) -> Vec<String> {
    let mut lines = keep_line(table.keep);
    lines.extend(table.partitions.iter().map(partition_line));
    lines.extend(table.hybrid.as_ref().map(hybrid_line));
    lines
}

fn keep_line(keep: bool) -> Vec<String> {
    let line = "what is on it is kept: partitions that are there stay where they are";
    keep.then(|| line.to_owned()).into_iter().collect()
}

fn partition_line(partition: &PlannedPartition) -> String {
    let mut line = format!(
        "{} {}: type {}, sectors {} to {}",
        partition.number,
        partition.label,
        partition.type_guid,
        partition.first_lba,
        partition.last_lba
    );
    if let Some(guid) = &partition.guid {
        line.push_str(&format!(", GUID {guid}"));
    }
    if partition.attributes != 0 {
        line.push_str(&format!(", attributes {:#x}", partition.attributes));
    }
    line
}

fn hybrid_line(hybrid: &HybridMbr) -> String {
    let entries: Vec<String> = hybrid
        .entries
        .iter()
        .map(|entry| {
            let boot = if entry.bootable { ", bootable" } else { "" };
            format!("partition {} as type {:#04x}{boot}", entry.number, entry.type_code)
        })
        .collect();
    let place = if hybrid.protective_first { "after" } else { "before" };
    format!("a hybrid MBR shows {}, {place} the protective entry", entries.join("; "))
}

/// An MBR table, a line for each partition.
pub(super) fn mbr_lines(table: &MbrTable) -> Vec<String> {
    let mut lines = keep_line(table.keep);
    lines.extend(table.partitions.iter().map(|partition| {
        let kind = match partition.kind {
            MbrKind::Primary => "primary",
            MbrKind::Extended => "extended",
            MbrKind::Logical => "logical",
        };
        let boot = if partition.bootable { ", bootable" } else { "" };
        format!(
            "{} {kind}: type {:#04x}, sectors {} to {}{boot}",
            partition.number, partition.type_code, partition.first_lba, partition.last_lba
        )
    }));
    lines
}

/// A GPT on something that has no size yet: a line for each partition.
pub(super) fn inner_lines(table: &InnerTable) -> Vec<String> {
    let line = |partition: &InnerPartition| {
        let guid = partition.guid.as_ref().map_or(String::new(), |guid| format!(", GUID {guid}"));
        let attributes = match partition.attributes {
            0 => String::new(),
            bits => format!(", attributes {bits:#x}"),
        };
        format!(
            "{} {}: type {}, from {} to {}{guid}{attributes}",
            partition.number, partition.label, partition.type_guid, partition.start, partition.end
        )
    };
    table.partitions.iter().map(line).collect()
}

/// A pool: what it is made of, properties, features.
pub(super) fn pool_lines(pool: &PoolPlan) -> Vec<String> {
    let mut lines: Vec<String> = pool.vdevs.iter().map(vdev).collect();
    let classes = [("log", &pool.log), ("special", &pool.special), ("dedup", &pool.dedup)];
    for (class, vdevs) in classes {
        lines.extend(vdevs.iter().map(|of| format!("{class}: {}", vdev(of))));
    }
    let several = |class: &str, devices: &[DeviceRef]| {
        (!devices.is_empty()).then(|| format!("{class}: {}", list(devices)))
    };
    lines.extend(several("cache", &pool.cache));
    lines.extend(several("spare", &pool.spare));
    lines.extend(property_lines("pool: ", &pool.properties));
    lines.extend(property_lines("root dataset: ", &pool.root_properties));
    lines.extend(pool.root_key.as_ref().map(|key| format!("root dataset: {}", key_line(key))));
    lines.push(format!("features ({}): {}", pool.features.len(), pool.features.join(" ")));
    lines
}

fn vdev(vdev: &Vdev) -> String {
    match vdev {
        Vdev::Disk { member } => device(member),
        Vdev::Mirror { members } => format!("mirror of {}", list(members)),
        Vdev::Raidz { parity, members } => format!("raidz{parity} of {}", list(members)),
    }
}

/// A RAID: level, members, arguments.
pub(super) fn array_lines(array: &ArrayPlan) -> Vec<String> {
    vec![format!(
        "RAID level {}, metadata {}, of {}{}",
        array.level,
        array.metadata,
        list(&array.members),
        with(&array.extra_args)
    )]
}

/// A logical volume: size, type, arguments.
pub(super) fn logical_volume_lines(volume: &LogicalVolumePlan) -> Vec<String> {
    let size = match &volume.size {
        LvSize::Bytes { bytes: size } => bytes(*size),
        LvSize::Percent { percent, of } => format!("{percent} % of {of}"),
    };
    let kind = volume.kind.as_ref().map_or(String::new(), |kind| format!(", type {kind}"));
    let pool = volume.thin_pool.as_ref().map_or(String::new(), |pool| format!(", in {pool}"));
    vec![format!("{size}{kind}{pool}{}", with(&volume.extra_args))]
}
