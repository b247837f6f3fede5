//! `--mirror-esp`: an EFI system partition on every other disk of what the root is on.
//!
//! disko makes one ESP, and the machine does not boot once that disk is gone. As an option of
//! ours every other member gets one of the same size, the first on its disk, numbered after the
//! layout's partitions so that those keep their numbers.

use super::geometry::{Extent, Wanted};
use super::refuse::refuse;
use super::{Context, geometry, tables};
use keystone_protocol::inventory::DiskIdentity;
use keystone_protocol::layout::{Anchor, Content, Disk, Format, Position, Root, partition_type};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, PlannedPartition};
use std::collections::BTreeSet;

/// The copy's name.
pub(super) const NAME: &str = "ESP";

/// A copy of the ESP on another disk.
#[derive(Debug)]
pub(super) struct Copy {
    /// Where it is to lie.
    pub(super) wanted: Wanted,
    label: String,
}

impl Copy {
    /// As a partition of the plan.
    pub(super) fn planned(&self, number: u32, extent: Extent) -> PlannedPartition {
        PlannedPartition {
            number,
            name: NAME.to_owned(),
            label: self.label.clone(),
            type_guid: partition_type::ESP.to_owned(),
            guid: None,
            first_lba: extent.first,
            last_lba: extent.last,
            attributes: 0,
        }
    }
}

/// The copy that a disk gets, if it gets one.
pub(super) fn esp_for(
    context: &Context<'_>,
    disk: &Disk,
    identity: &DiskIdentity,
) -> Result<Option<Copy>, Refusal> {
    if !context.options.mirror_esp {
        return Ok(None);
    }
    let Some((first, bytes)) = esp(context) else { return Ok(None) };
    if !others(context, &first).contains(disk.name.as_str()) {
        return Ok(None);
    }
    let sectors = bytes / u64::from(identity.sector_size);
    let end = Position { anchor: Anchor::Start, count: sectors, unit: None };
    let label = format!("disk-{}-{NAME}", disk.name);
    let taken = context.layout.partitions().iter().any(|(_, p)| p.label == label);
    if taken || label.encode_utf16().count() > keystone_protocol::layout::MAX_LABEL_UNITS {
        return Err(refuse(
            RefusalKind::Layout,
            format!("--mirror-esp would make a partition {label:?}, a name that can't be given"),
            "leave --mirror-esp out, or rename the disk in the layout",
        ));
    }
    Ok(Some(Copy { wanted: Wanted { start: Position::DEFAULT, end, alignment: None }, label }))
}

/// The copies, as devices.
pub(super) fn copies(context: &Context<'_>) -> Result<Vec<DeviceRef>, Refusal> {
    if !context.options.mirror_esp {
        return Ok(Vec::new());
    }
    let found = match esp(context) {
        Some((first, _)) => others(context, &first),
        None => BTreeSet::new(),
    };
    if found.is_empty() {
        return Err(refuse(
            RefusalKind::Layout,
            "--mirror-esp has nothing to mirror to: the layout has no mounted EFI system \
             partition on a disk of a pool or RAID with further disks",
            "leave --mirror-esp out",
        ));
    }
    let number = |name: &str| {
        let disk = context.layout.disks.iter().find(|disk| disk.name == name);
        disk.map_or(0, |disk| disk.partitions().len() as u32 + 1)
    };
    let device = |name: &str| DeviceRef::Partition { disk: name.to_owned(), number: number(name) };
    Ok(found.into_iter().map(device).collect())
}

/// The ESP that is mirrored: its disk, and its size in bytes. It is the one that the system is
/// installed to: that at `/boot` before others, as [`super::capacity::esp`] has it.
fn esp(context: &Context<'_>) -> Option<(String, u64)> {
    let layout = context.layout;
    let mounted = layout.contents().into_iter().filter_map(|(device, content)| match content {
        Content::Filesystem(filesystem) if filesystem.format == Format::Vfat => {
            Some((filesystem.mountpoint.as_deref()?, device))
        }
        _ => None,
    });
    let esps = mounted.filter(|(_, device)| is_esp(context, device));
    let first = esps.min_by_key(|(target, _)| *target != "/boot");
    let (_, DeviceRef::Partition { disk: name, number }) = first? else { return None };
    let disk = layout.disks.iter().find(|disk| disk.name == name)?;
    let identity = &context.disks[name.as_str()].identity;
    let wanted: Vec<Wanted> = disk.partitions().iter().map(Wanted::from).collect();
    // A disk that is too small is refused where its own table is made.
    let places = geometry::allocate(identity.size, identity.sector_size, &wanted).ok()?;
    // One in a `table` is not mirrored.
    let place = places.get((number as usize).checked_sub(1)?)?;
    let bytes = place.sectors() * u64::from(identity.sector_size);
    Some((name, bytes))
}

fn is_esp(context: &Context<'_>, device: &DeviceRef) -> bool {
    let DeviceRef::Partition { disk: name, number } = device else { return false };
    let disk = context.layout.disks.iter().find(|disk| disk.name == *name);
    match disk.and_then(|disk| disk.content.as_ref()) {
        Some(Content::Gpt(gpt)) => {
            let mut partitions = (1..).zip(&gpt.partitions);
            partitions.any(|(at, found)| at == *number && found.type_guid == partition_type::ESP)
        }
        Some(Content::Table(table)) if table.gpt => {
            let mut partitions = table.partitions.iter();
            partitions.any(|found| {
                found.number == *number && tables::gpt_type(found) == partition_type::ESP
            })
        }
        _ => false,
    }
}

/// The other disks with a GPT of every pool and RAID that has a member on that disk.
fn others<'a>(context: &'a Context<'_>, first: &str) -> BTreeSet<&'a str> {
    let layout = context.layout;
    let mut found = BTreeSet::new();
    for root in layout.order() {
        let members = match root {
            Root::Pool(index) => layout.members(&layout.zpools[*index].name),
            Root::Array(index) => layout.array_members(&layout.arrays[*index].name),
            _ => continue,
        };
        let disks: BTreeSet<String> =
            members.iter().filter_map(|member| base(context, member)).collect();
        if disks.contains(first) {
            found.extend(
                layout
                    .disks
                    .iter()
                    .map(|disk| disk.name.as_str())
                    .filter(|name| *name != first && disks.contains(*name)),
            );
        }
    }
    found.retain(|name| {
        layout.disks.iter().any(|disk| disk.name == *name && !disk.partitions().is_empty())
    });
    found
}

/// The disk that a partition, or a container on one, is on.
pub(super) fn base(context: &Context<'_>, device: &DeviceRef) -> Option<String> {
    match device {
        DeviceRef::Mapper { name } => base(context, &context.layout.below(name)?),
        DeviceRef::Inner { on, .. } => base(context, on),
        device => device.disk().map(str::to_owned),
    }
}
