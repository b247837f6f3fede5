//! Partition tables.

use super::existing::Existing;
use super::geometry::{self, GeometryError, Wanted};
use super::parted::NoPlace;
use super::refuse::refuse;
use super::words::human;
use super::{Context, mirror, parted, words};
use keystone_protocol::inventory::DiskIdentity;
use keystone_protocol::layout::{self, Content, Gpt, Kind, Table, TablePartition, partition_type};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{
    DeviceRef, HybridEntry, HybridMbr, InnerPartition, InnerPresence, InnerTable, MbrKind,
    MbrPartition, MbrTable, PartitionTable, PlannedPartition,
};

/// All tables of a layout.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// GPTs on disks.
    pub(super) gpt: Vec<PartitionTable>,
    /// MBR tables on disks.
    pub(super) mbr: Vec<MbrTable>,
    /// GPTs on what has no size yet.
    pub(super) inner: Vec<InnerTable>,
}

/// The tables that the layout makes, and those that are there and stay.
pub(super) fn tables(context: &Context<'_>, existing: &Existing) -> Result<Tables, Refusal> {
    let mut tables = Tables::default();
    for disk in &context.layout.disks {
        if let Some(table) = existing.table(&disk.name) {
            tables.gpt.push(table.clone());
            continue;
        }
        if let Some(table) = existing.mbr(&disk.name) {
            tables.mbr.push(table.clone());
            continue;
        }
        let identity = &context.disks[disk.name.as_str()].identity;
        match &disk.content {
            Some(Content::Gpt(gpt)) => tables.gpt.push(on_disk(context, disk, gpt, identity)?),
            Some(Content::Table(table)) if table.gpt => {
                tables.gpt.push(parted_gpt(disk, table, identity)?);
            }
            Some(Content::Table(table)) => tables.mbr.push(parted_mbr(disk, table, identity)?),
            _ => {}
        }
    }
    for (device, content) in context.layout.contents() {
        match content {
            Content::Gpt(gpt) if device.disk().is_none() => {
                let presence = match existing.has(context.layout, &device) {
                    false => InnerPresence::New,
                    true if context.mode.formats() => InnerPresence::Kept,
                    true => InnerPresence::Found,
                };
                tables.inner.push(inner(device, gpt, presence)?);
            }
            Content::Table(table) if device.disk().is_none() => {
                return Err(refuse(
                    RefusalKind::Layout,
                    format!("{}: a `table` that is not on a disk is not supported", table.path),
                    "describe it as `gpt`",
                ));
            }
            _ => {}
        }
    }
    Ok(tables)
}

/// The layout's GPT on a blank disk.
pub(super) fn on_disk(
    context: &Context<'_>,
    disk: &layout::Disk,
    gpt: &Gpt,
    identity: &DiskIdentity,
) -> Result<PartitionTable, Refusal> {
    let esp = mirror::esp_for(context, disk, identity)?;
    let mut places: Vec<Wanted> = esp.iter().map(|esp| esp.wanted).collect();
    places.extend(gpt.partitions.iter().map(Wanted::from));
    let extents = geometry::allocate(identity.size, identity.sector_size, &places)
        .map_err(|error| too_small(disk, identity, usize::from(esp.is_some()), &error))?;
    let mut extents = extents.into_iter();
    // The copy's place is the first of the list.
    let copy = esp.and_then(|esp| Some((esp, extents.next()?)));
    let mut partitions: Vec<PlannedPartition> = (1..)
        .zip(&gpt.partitions)
        .zip(extents)
        .map(|((number, partition), extent)| planned(number, partition, extent))
        .collect();
    if let Some((esp, extent)) = copy {
        partitions.push(esp.planned(partitions.len() as u32 + 1, extent));
    }
    let device = DeviceRef::Disk { disk: disk.name.clone() };
    Ok(PartitionTable { device, keep: false, partitions, hybrid: hybrid(gpt) })
}

/// A partition of the layout at a place.
pub(super) fn planned(
    number: u32,
    partition: &layout::Partition,
    extent: geometry::Extent,
) -> PlannedPartition {
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
}

fn hybrid(gpt: &Gpt) -> Option<HybridMbr> {
    let entries: Vec<HybridEntry> = (1..)
        .zip(&gpt.partitions)
        .filter_map(|(number, partition)| {
            let shown = partition.hybrid?;
            Some(HybridEntry { number, type_code: shown.type_code, bootable: shown.bootable })
        })
        .collect();
    let protective_first = gpt.protective_first;
    (!entries.is_empty()).then_some(HybridMbr { protective_first, entries })
}

fn inner(device: DeviceRef, gpt: &Gpt, presence: InnerPresence) -> Result<InnerTable, Refusal> {
    if let Some(partition) = gpt.partitions.iter().find(|partition| partition.hybrid.is_some()) {
        return Err(refuse(
            RefusalKind::Layout,
            format!("{}.hybrid: a hybrid MBR is for disks only", partition.path),
            "leave it out",
        ));
    }
    let partitions = (1..).zip(&gpt.partitions).map(|(number, partition)| InnerPartition {
        number,
        name: partition.name.clone(),
        label: partition.label.clone(),
        type_guid: partition.type_guid.clone(),
        guid: partition.guid.clone(),
        start: partition.start.to_string(),
        end: partition.end.to_string(),
        alignment: partition.alignment,
        attributes: partition.attributes,
    });
    Ok(InnerTable { device, presence, partitions: partitions.collect() })
}

/// The partitions of a `table` as parted would put them into a GPT.
pub(super) fn parted_gpt(
    disk: &layout::Disk,
    table: &Table,
    identity: &DiskIdentity,
) -> Result<PartitionTable, Refusal> {
    let places = parted::allocate(identity.size, identity.sector_size, table)
        .map_err(|problem| no_place(disk, identity, &problem))?;
    let partitions = table.partitions.iter().zip(places).map(|(partition, (extent, _))| {
        let flag = |name: &str| partition.flags.iter().any(|flag| flag == name);
        let label = partition.name.clone().unwrap_or_default();
        PlannedPartition {
            number: partition.number,
            name: partition.name.clone().unwrap_or_else(|| partition.number.to_string()),
            label,
            type_guid: gpt_type(partition),
            guid: None,
            first_lba: extent.first,
            last_lba: extent.last,
            // Source: UEFI 2.10, table 5-8: legacy BIOS bootable.
            attributes: if flag("legacy_boot") { 1 << 2 } else { 0 },
        }
    });
    Ok(PartitionTable {
        device: DeviceRef::Disk { disk: disk.name.clone() },
        keep: false,
        partitions: partitions.collect(),
        hybrid: None,
    })
}

/// The type that parted gives a partition of a GPT. Source: parted, libparted/labels/gpt.c.
pub(super) fn gpt_type(partition: &TablePartition) -> String {
    let flag = |names: &[&str]| partition.flags.iter().any(|flag| names.contains(&flag.as_str()));
    let code = match partition.fs_type.as_deref() {
        _ if flag(&["boot", "esp"]) => "EF00",
        _ if flag(&["bios_grub"]) => "EF02",
        _ if flag(&["lvm"]) => "8E00",
        _ if flag(&["raid"]) => "FD00",
        _ if flag(&["swap"]) => "8200",
        _ if flag(&["msftdata"]) => "0700",
        Some("linux-swap") => "8200",
        Some("fat16" | "fat32" | "ntfs" | "udf") => "0700",
        _ => "8300",
    };
    partition_type::guid(code).unwrap_or_default()
}

/// The same in an MBR table.
pub(super) fn parted_mbr(
    disk: &layout::Disk,
    table: &Table,
    identity: &DiskIdentity,
) -> Result<MbrTable, Refusal> {
    let places = parted::allocate(identity.size, identity.sector_size, table)
        .map_err(|problem| no_place(disk, identity, &problem))?;
    let partitions =
        table.partitions.iter().zip(places).map(|(partition, (extent, table_lba))| MbrPartition {
            number: partition.number,
            kind: match partition.kind {
                Kind::Primary => MbrKind::Primary,
                Kind::Extended => MbrKind::Extended,
                Kind::Logical => MbrKind::Logical,
            },
            type_code: mbr_type(partition),
            bootable: partition.flags.iter().any(|flag| flag == "boot"),
            first_lba: extent.first,
            last_lba: extent.last,
            table_lba,
        });
    let device = DeviceRef::Disk { disk: disk.name.clone() };
    Ok(MbrTable { device, keep: false, partitions: partitions.collect() })
}

/// The type that parted gives a partition of an MBR table. Source: parted,
/// libparted/labels/dos.c.
fn mbr_type(partition: &TablePartition) -> u8 {
    let flag = |name: &str| partition.flags.iter().any(|flag| flag == name);
    match partition.fs_type.as_deref() {
        _ if partition.kind == Kind::Extended => 0x0f,
        _ if flag("esp") => 0xef,
        _ if flag("lvm") => 0x8e,
        _ if flag("raid") => 0xfd,
        _ if flag("swap") => 0x82,
        Some("linux-swap") => 0x82,
        Some("fat16") => 0x0e,
        Some("fat32") => 0x0c,
        Some("ntfs" | "udf") => 0x07,
        Some("hfs" | "hfs+") => 0xaf,
        _ => 0x83,
    }
}

fn no_place(disk: &layout::Disk, identity: &DiskIdentity, no_place: &NoPlace) -> Refusal {
    refuse(
        RefusalKind::TargetUnfit,
        format!("disk {:?}, {}: {}", disk.name, words::disk(identity), no_place.problem),
        no_place.way_out,
    )
}

/// `before` partitions that are not the layout's are the first of the list.
fn too_small(
    disk: &layout::Disk,
    identity: &DiskIdentity,
    before: usize,
    error: &GeometryError,
) -> Refusal {
    let shown = words::disk(identity);
    let partition = |number: &usize| {
        number.checked_sub(before + 1).and_then(|index| disk.partitions().get(index))
    };
    let message = match error {
        GeometryError::NoTable => format!("disk {:?}, {shown}, is {error}", disk.name),
        GeometryError::Full { number } => {
            let name = partition(number).map_or(mirror::NAME, |partition| &partition.name);
            format!("disk {:?}, {shown}, is too small: nothing is left for {name}", disk.name)
        }
        GeometryError::NoRoom { number, left } => {
            let what = match partition(number) {
                None => format!("the copy of the {}", mirror::NAME),
                Some(partition) => format!(
                    "{}, which is to reach from {} to {}",
                    partition.name, partition.start, partition.end
                ),
            };
            format!(
                "disk {:?}, {shown}, is too small: {} are left for {what}",
                disk.name,
                human(*left)
            )
        }
    };
    refuse(
        RefusalKind::TargetUnfit,
        message,
        "choose a larger disk, or make the layout's partitions (swap, as a rule) smaller",
    )
}
