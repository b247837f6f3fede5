//! What of the layout is on the disks already, for plans that keep it.
//!
//! A disk is kept unless the plan destroys it. What is found on it must be what the layout puts
//! there: then the plan only looks that it is still so. What is missing is made, if the mode
//! makes anything. What is something else is refused: nothing here is ever overwritten.
//!
//! A partition is told by its disk, number, name and type, a pool by its GUID and the partitions that
//! its members are (labels of caches and spares have no GUID of a pool), a RAID and a volume group by
//! what they are made of, never by name alone. In modes that make things, what of name, type, GUID
//! and attributes is not the layout's is made so, of a partition that is known all the same. What is
//! in a container, a RAID or a volume group shows only once that is open: the steps look then.
//! A RAID or volume group of which only a part would stay is refused by [`parts`].

mod legacy;
mod parts;

use super::geometry::Extent;
use super::refuse::refuse;
use super::{Context, Remarks, tables, words};
use keystone_protocol::inventory::{Disk, Partition, PoolState, Signature, Table};
use keystone_protocol::layout::{self, Content, Gpt};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, MbrTable, PartitionTable, PlannedPartition};
use std::collections::{BTreeMap, BTreeSet};

/// What of the layout is there and stays.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// Disks that stay and are not blank.
    disks: BTreeSet<String>,
    tables: BTreeMap<String, PartitionTable>,
    mbr: BTreeMap<String, MbrTable>,
    /// Partitions of those tables that are to be made.
    missing: BTreeSet<DeviceRef>,
    /// Disks whose tables give a partition of the layout another name, type, GUID or attribute.
    changed: BTreeSet<String>,
    /// Partitions that are there and hold nothing.
    empty: BTreeSet<DeviceRef>,
    pools: BTreeMap<String, ExistingPool>,
}

/// A pool that is there.
#[derive(Debug)]
pub(super) struct ExistingPool {
    /// Its GUID, unless it is in a container that is closed.
    pub(super) guid: Option<String>,
    /// Whether another host had it last and did not export it.
    pub(super) any_host: bool,
    /// Whether it is imported now.
    pub(super) imported: bool,
}

/// The last words of every refusal here.
const ANEW: &str = "what is there is kept in this mode; to lose it and make everything anew: \
                    --disko-mode disko --erase";

/// Looks at the disks that stay.
pub(super) fn find(context: &Context<'_>, remarks: &mut Remarks) -> Result<Existing, Refusal> {
    let mut existing = Existing::default();
    for wanted in &context.layout.disks {
        if context.wipes(wanted) {
            continue;
        }
        let disk = context.disks[wanted.name.as_str()];
        if disk.contents.is_blank() {
            let auxiliary = matches!(&wanted.content,
                Some(Content::Zfs(member)) if context.layout.is_auxiliary(member));
            if context.mode.formats() || auxiliary {
                continue;
            }
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "disk {:?}, {}, is blank: there is nothing to mount",
                    wanted.name,
                    words::disk(&disk.identity)
                ),
                "is it the right disk? To make what the layout says: --disko-mode format,mount",
            ));
        }
        let (name, whole) = (wanted.name.clone(), DeviceRef::Disk { disk: wanted.name.clone() });
        existing.disks.insert(name.clone());
        match &wanted.content {
            Some(Content::Gpt(gpt)) => {
                let found = table(context, wanted, gpt, disk)?;
                if !found.changes.is_empty() {
                    existing.changed.insert(name.clone());
                    remarks.warnings.push(format!(
                        "the partition table of disk {:?}, {}, stays, and is made the layout's: {}",
                        wanted.name,
                        words::disk(&disk.identity),
                        found.changes.join(", ")
                    ));
                }
                existing.tables.insert(name, found.table);
                let missing = found.missing.into_iter().map(|number| whole.partition(number));
                existing.missing.extend(missing);
            }
            Some(Content::Table(table)) => match legacy::find(wanted, table, disk)? {
                legacy::Found::Gpt(table) => drop(existing.tables.insert(name, table)),
                legacy::Found::Mbr(table) => drop(existing.mbr.insert(name, table)),
            },
            _ => {}
        }
        let empty = disk.contents.partitions.iter().filter(|found| found.signatures.is_empty());
        existing.empty.extend(empty.map(|found| whole.partition(found.number)));
        contents(context, wanted, disk)?;
    }
    for pool in &context.layout.zpools {
        if let Some(found) = pool_of(context, &existing, &pool.name, remarks)? {
            existing.pools.insert(pool.name.clone(), found);
        }
    }
    parts::check(context, &existing)?;
    Ok(existing)
}

impl Existing {
    /// The table of a disk that stays.
    pub(super) fn table(&self, disk: &str) -> Option<&PartitionTable> {
        self.tables.get(disk)
    }

    /// The MBR table of a disk that stays.
    pub(super) fn mbr(&self, disk: &str) -> Option<&MbrTable> {
        self.mbr.get(disk)
    }

    /// Whether all partitions of a table of the plan are there, as the layout has them.
    pub(super) fn has_all_of(&self, table: &PartitionTable) -> bool {
        let disk = table.device.disk().unwrap_or_default();
        self.tables.contains_key(disk)
            && !self.changed.contains(disk)
            && !table
                .partitions
                .iter()
                .any(|partition| self.missing.contains(&table.device.partition(partition.number)))
    }

    /// A pool that is there.
    pub(super) fn pool(&self, name: &str) -> Option<&ExistingPool> {
        self.pools.get(name)
    }

    /// Whether a device may be there already, and what is on it with it.
    pub(super) fn has(&self, layout: &layout::Layout, device: &DeviceRef) -> bool {
        match device {
            DeviceRef::Disk { disk } => self.disks.contains(disk),
            DeviceRef::Partition { disk, .. } => {
                self.disks.contains(disk)
                    && !self.missing.contains(device)
                    && !self.empty.contains(device)
            }
            DeviceRef::Volume { dataset } => {
                self.pools.contains_key(dataset.split('/').next().unwrap_or_default())
            }
            DeviceRef::Mapper { name } => {
                layout.below(name).is_some_and(|device| self.has(layout, &device))
            }
            DeviceRef::Inner { on, .. } => self.has(layout, on),
            DeviceRef::LogicalVolume { group, .. } => {
                layout.physical_volumes(group).iter().any(|device| self.has(layout, device))
            }
            DeviceRef::Array { name } => {
                layout.array_members(name).iter().any(|device| self.has(layout, device))
            }
        }
    }
}

/// A table that is there.
struct FoundTable {
    /// As a table of the layout: geometry and GUIDs are the disk's.
    table: PartitionTable,
    /// Numbers of the partitions that are to be added to it, where the layout would have them.
    missing: Vec<u32>,
    /// What of its partitions is not as the layout says and is made so, each a phrase.
    changes: Vec<String>,
}

/// The table that is there, and how it becomes the layout's.
fn table(
    context: &Context<'_>,
    wanted: &layout::Disk,
    gpt: &Gpt,
    disk: &Disk,
) -> Result<FoundTable, Refusal> {
    let other = |what: String| {
        let shown = words::disk(&disk.identity);
        refuse(RefusalKind::TargetUnfit, format!("disk {:?}, {shown}, {what}", wanted.name), ANEW)
    };
    match &disk.contents.table {
        Some(Table::Gpt { .. }) => {}
        Some(Table::Mbr { id }) => {
            return Err(other(format!("has an MBR partition table ({id}), and the layout a GPT")));
        }
        None => return Err(other("is not blank and has no GPT".to_owned())),
    }
    let sector = u64::from(disk.identity.sector_size);
    let last = |found: &Partition| found.first_lba + (found.size / sector).max(1) - 1;
    let mut partitions = Vec::new();
    let mut missing = Vec::new();
    let mut changes = Vec::new();
    for planned in &wanted_partitions(context, wanted, gpt, disk)? {
        let number = planned.number;
        let twin =
            disk.contents.partitions.iter().find(|found| {
                found.number != number && found.label.as_deref() == Some(&planned.label)
            });
        if let Some(twin) = twin.filter(|_| context.mode.formats()) {
            let (label, twin) = (&planned.label, twin.number);
            return Err(other(format!(
                "has a partition {twin} named {label:?}, as partition {number} of the layout"
            )));
        }
        let Some(found) = numbered(disk, number) else {
            let none =
                format!("has no partition {number}, which is {:?} in the layout", planned.label);
            if !context.mode.formats() {
                return Err(other(none));
            }
            let in_the_way = disk.contents.partitions.iter().find(|found| {
                found.first_lba <= planned.last_lba && planned.first_lba <= last(found)
            });
            if let Some(found) = in_the_way {
                return Err(other(format!(
                    "{none}, and partition {} is in its place",
                    found.number
                )));
            }
            missing.push(number);
            partitions.push(planned.clone());
            continue;
        };
        let content = (number as usize).checked_sub(1).and_then(|at| gpt.partitions.get(at));
        let content = content.and_then(|partition| partition.content.as_ref());
        let marks = marks(found, planned, &disk.identity.name);
        if let Some(mark) = marks.first()
            && !(context.mode.formats() && is_known(context, planned, content, found))
        {
            return Err(other(format!("has a partition {number} {}", mark.refused)));
        }
        changes.extend(marks.iter().map(|mark| format!("partition {number} gets {}", mark.change)));
        let lacks = planned.attributes & !found.attributes.unwrap_or(planned.attributes);
        if lacks != 0 && context.mode.formats() {
            changes.push(format!("partition {number} gets the attributes {lacks:#x}"));
        }
        partitions.push(PlannedPartition {
            guid: planned.guid.clone().or_else(|| found.guid.clone()),
            first_lba: found.first_lba,
            last_lba: last(found),
            // Those of which the layout says nothing stay.
            attributes: planned.attributes | found.attributes.unwrap_or_default(),
            ..planned.clone()
        });
    }
    let numbers = partitions.iter().map(|planned| planned.number);
    let numbers: BTreeSet<u32> =
        numbers.chain(disk.contents.partitions.iter().map(|found| found.number)).collect();
    if !(changes.is_empty() && missing.is_empty())
        && numbers.iter().zip(1..).any(|(found, number)| *found != number)
    {
        return Err(other(
            "has a table whose partitions are not numbered 1, 2, 3, …, and that would have to be \
             changed"
                .to_owned(),
        ));
    }
    let table = PartitionTable {
        device: DeviceRef::Disk { disk: wanted.name.clone() },
        keep: true,
        partitions,
        hybrid: None,
    };
    Ok(FoundTable { table, missing, changes })
}

/// Whether a partition with other marks is the layout's all the same: it has the name, or the GUID
/// that the layout gives, or is of the layout's pool; and what is on it can be told to be what the
/// layout puts there (which [`contents`] does), or it is empty.
fn is_known(
    context: &Context<'_>,
    planned: &PlannedPartition,
    content: Option<&Content>,
    found: &Partition,
) -> bool {
    let guid = planned.guid.as_deref().zip(found.guid.as_deref());
    let of_pool = match content {
        Some(Content::Zfs(member)) if !context.layout.is_auxiliary(member) => {
            let its = |signature: &Signature| matches!(signature, Signature::ZfsMember { pool, .. } if *pool == member.pool);
            found.signatures.iter().any(its)
        }
        _ => false,
    };
    let nothing_to_tell = match content {
        Some(Content::Swap(swap)) => swap.random_encryption,
        Some(Content::Gpt(_) | Content::Table(_)) | None => true,
        Some(_) => false,
    };
    let known = found.label.as_deref() == Some(&planned.label)
        || guid.is_some_and(|(wanted, found)| wanted.eq_ignore_ascii_case(found))
        || of_pool;
    known && (found.signatures.is_empty() || !nothing_to_tell)
}

/// A mark of a partition that is not the layout's.
struct Mark {
    /// After "has a partition 1".
    refused: String,
    /// After "partition 1 gets".
    change: String,
}

/// What a partition of `disk` is told by besides its number, where it is not the layout's: name,
/// type, GUID.
fn marks(found: &Partition, planned: &PlannedPartition, disk: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    let label = found.label.as_deref().unwrap_or_default();
    let (number, wanted) = (planned.number, &planned.label);
    if label != wanted {
        marks.push(Mark {
            refused: format!(
                "named {label:?}, and the layout names it {wanted:?} (if it is the layout's: \
                 sgdisk -c '{number}:{wanted}' {disk})"
            ),
            change: format!("the name {wanted:?} (now {label:?})"),
        });
    }
    let same = |found: &Option<String>, wanted: &str| {
        found.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(wanted))
    };
    let or_unknown = |found: &Option<String>| found.clone().unwrap_or_else(|| "unknown".to_owned());
    if !same(&found.type_guid, &planned.type_guid) {
        let (is, wanted) = (or_unknown(&found.type_guid), &planned.type_guid);
        marks.push(Mark {
            refused: format!("({label:?}) of type {is}, and the layout gives it the type {wanted}"),
            change: format!("the type {wanted} (now {is})"),
        });
    }
    if let Some(guid) = planned.guid.as_deref().filter(|guid| !same(&found.guid, guid)) {
        let is = or_unknown(&found.guid);
        marks.push(Mark {
            refused: format!("({label:?}) with the GUID {is}, and the layout gives it {guid}"),
            change: format!("the GUID {guid} (now {is})"),
        });
    }
    marks
}

/// The layout's partitions. Where they would be on a blank disk matters only where some are to be
/// added: what is there already may be mounted from a disk that is too small for the layout.
fn wanted_partitions(
    context: &Context<'_>,
    wanted: &layout::Disk,
    gpt: &Gpt,
    disk: &Disk,
) -> Result<Vec<PlannedPartition>, Refusal> {
    let complete = (1..).zip(&gpt.partitions).all(|(number, _)| numbered(disk, number).is_some());
    if context.options.mirror_esp || (context.mode.formats() && !complete) {
        return Ok(tables::on_disk(context, wanted, gpt, &disk.identity)?.partitions);
    }
    let nowhere = Extent { first: 0, last: 0 };
    let partitions = (1..).zip(&gpt.partitions);
    Ok(partitions.map(|(number, partition)| tables::planned(number, partition, nowhere)).collect())
}

fn numbered(disk: &Disk, number: u32) -> Option<&Partition> {
    disk.contents.partitions.iter().find(|partition| partition.number == number)
}

/// Every partition, or the disk without a table, must hold what the layout puts there, or nothing
/// where that can be made.
fn contents(context: &Context<'_>, wanted: &layout::Disk, disk: &Disk) -> Result<(), Refusal> {
    let shown = words::disk(&disk.identity);
    let partitions: Vec<(u32, &str, Option<&Content>)> = match &wanted.content {
        Some(Content::Gpt(gpt)) => (1..)
            .zip(&gpt.partitions)
            .map(|(number, planned)| (number, planned.label.as_str(), planned.content.as_ref()))
            .collect(),
        Some(Content::Table(table)) => table
            .partitions
            .iter()
            .map(|planned| {
                (
                    planned.number,
                    planned.name.as_deref().unwrap_or_default(),
                    planned.content.as_ref(),
                )
            })
            .collect(),
        _ => Vec::new(),
    };
    if !matches!(&wanted.content, Some(Content::Gpt(_) | Content::Table(_))) {
        if let (Some(_), Some(content)) = (&disk.contents.table, &wanted.content) {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "{}: disk {:?}, {shown}, has a partition table, where the layout has none",
                    content.path(),
                    wanted.name
                ),
                ANEW,
            ));
        }
        let place = format!("disk {:?}, {shown},", wanted.name);
        return holds(context, &place, wanted.content.as_ref(), &disk.contents.signatures);
    }
    for (number, label, content) in partitions {
        let partition = numbered(disk, number);
        let found = partition.map_or(&[][..], |partition| &partition.signatures);
        let label = partition.and_then(|found| found.label.as_deref()).unwrap_or(label);
        let name = if label.is_empty() { String::new() } else { format!(" ({label:?})") };
        let place = format!("partition {number}{name} of disk {:?}, {shown},", wanted.name);
        holds(context, &place, content, found)?;
    }
    Ok(())
}

/// Refused unless `found` says what the layout puts there, or nothing where that can be made.
fn holds(
    context: &Context<'_>,
    place: &str,
    content: Option<&Content>,
    found: &[Signature],
) -> Result<(), Refusal> {
    let filesystem = |name: &str| {
        let right = |signature: &Signature| matches!(signature, Signature::Filesystem { fstype, .. } if fstype == name);
        (format!("the file system {name}"), found.iter().any(right))
    };
    let (what, right) = match content {
        Some(Content::Filesystem(wanted)) => filesystem(wanted.format.name()),
        Some(Content::Btrfs(_)) => filesystem("btrfs"),
        Some(Content::Luks(luks)) => {
            let right = |found: &Signature| matches!(found, Signature::Luks { version: 2, .. });
            (format!("the LUKS2 container {}", luks.name), found.iter().any(right))
        }
        Some(Content::Zfs(member)) if context.layout.is_auxiliary(member) => {
            // A spare in use has a label of the pool. One that is blank is done without.
            let right = |found: &Signature| {
                found.is_zfs_auxiliary() || matches!(found, Signature::ZfsMember { .. })
            };
            let what = format!("a cache or spare of the pool {}", member.pool);
            (what, found.is_empty() || found.iter().any(right))
        }
        Some(Content::Zfs(member)) => {
            let right = |found: &Signature| matches!(found, Signature::ZfsMember { .. });
            (format!("a member of the pool {}", member.pool), found.iter().any(right))
        }
        Some(Content::PhysicalVolume(volume)) => {
            let what = format!("a physical volume of {}", volume.group);
            (what, found.contains(&Signature::Lvm))
        }
        Some(Content::ArrayMember(member)) => {
            (format!("a member of RAID {}", member.array), found.contains(&Signature::MdRaid))
        }
        Some(Content::Swap(swap)) if !swap.random_encryption => {
            ("swap".to_owned(), found.contains(&Signature::Swap))
        }
        Some(Content::Swap(_) | Content::Gpt(_) | Content::Table(_)) | None => return Ok(()),
    };
    if right || (found.is_empty() && context.mode.formats()) {
        return Ok(());
    }
    let there = match found {
        [] => "nothing".to_owned(),
        found => words::list(&found.iter().map(super::occupancy::signature).collect::<Vec<_>>()),
    };
    Err(refuse(
        RefusalKind::TargetUnfit,
        format!("{place} holds {there}, where the layout has {what}"),
        ANEW,
    ))
}

/// What one member's label says.
struct Label<'a> {
    device: &'a DeviceRef,
    pool: &'a str,
    guid: &'a str,
    hostname: Option<&'a str>,
    hostid: Option<u32>,
    state: PoolState,
}

/// The pool `name`, if it is there; refused if what is there is another one, or not all of it.
/// Caches and spares may be missing.
fn pool_of(
    context: &Context<'_>,
    existing: &Existing,
    name: &str,
    remarks: &mut Remarks,
) -> Result<Option<ExistingPool>, Refusal> {
    let members = context.layout.data_members(name);
    let auxiliary = context.layout.auxiliary_members(name);
    if members.iter().any(|member| is_hidden(context, existing, member)) {
        return in_containers(context, name, remarks);
    }
    let labels: Vec<Label<'_>> =
        members.iter().filter_map(|device| label(context, existing, device)).collect();
    let other = |message: String| Err(refuse(RefusalKind::TargetUnfit, message, ANEW));
    let Some(first) = labels.first() else {
        if !context.mode.formats() {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!("there is no pool {name:?} on the layout's disks"),
                "are they the right disks? To make it: --disko-mode format,mount",
            ));
        }
        if auxiliary.iter().any(|device| is_hidden(context, existing, device)) {
            return in_containers(context, name, remarks);
        }
        // Whose it is its label does not say.
        let held = |device: &&DeviceRef| !signatures(context, existing, device).is_empty();
        return match auxiliary.iter().find(held) {
            None => Ok(None),
            Some(device) => other(format!(
                "{} holds a cache or spare of a pool, and the layout's disks hold no pool {name:?}",
                place(context, device)
            )),
        };
    };
    let in_use: Vec<Label<'_>> =
        auxiliary.iter().filter_map(|device| label(context, existing, device)).collect();
    let all = || labels.iter().chain(&in_use);
    if let Some(wrong) = all().find(|label| label.pool != name) {
        return other(format!(
            "{} belongs to a pool {:?} (guid {}), and in the layout to {name:?}",
            place(context, wrong.device),
            wrong.pool,
            wrong.guid
        ));
    }
    if let Some(wrong) = all().find(|label| label.guid != first.guid) {
        return other(format!(
            "{} and {} belong to two pools named {name:?}, with the GUIDs {} and {}",
            place(context, first.device),
            place(context, wrong.device),
            first.guid,
            wrong.guid
        ));
    }
    if let Some(gone) = labels.iter().find(|label| label.state == PoolState::Destroyed) {
        return other(format!(
            "the pool {name:?} on {} was destroyed",
            place(context, gone.device)
        ));
    }
    if let Some(missing) =
        members.iter().find(|member| !labels.iter().any(|label| label.device == *member))
    {
        return other(format!(
            "{} holds no member of the pool {name:?} (guid {}), and {} does",
            place(context, missing),
            first.guid,
            place(context, first.device)
        ));
    }
    for device in &auxiliary {
        let seen = matches!(device, DeviceRef::Disk { .. } | DeviceRef::Partition { .. });
        if seen && signatures(context, existing, device).is_empty() {
            remarks.warnings.push(format!(
                "{} holds nothing, where the layout has a cache or spare of the pool {name:?}: the \
                 pool is imported without it",
                place(context, device)
            ));
        }
    }
    let imported = context.inventory.pools.iter().any(|pool| pool.guid == first.guid);
    let own = first.hostid == Some(context.inventory.system.hostid);
    let any_host = !imported && first.state == PoolState::Active && !own;
    if any_host {
        remarks.warnings.push(format!(
            "the pool {name:?} was last used by {} and not exported there: it is imported all the \
             same, so no other machine may be using its disks now",
            first
                .hostname
                .map_or_else(|| "another host".to_owned(), |host| format!("host {host:?}"))
        ));
    }
    Ok(Some(ExistingPool { guid: Some(first.guid.to_owned()), any_host, imported }))
}

/// A pool whose members are in containers can only be seen once those are open.
fn in_containers(
    context: &Context<'_>,
    name: &str,
    remarks: &mut Remarks,
) -> Result<Option<ExistingPool>, Refusal> {
    if context.mode.formats() {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "the pool {name:?} is in something that is there already: whether the pool is there \
                 too can only be seen once that is open"
            ),
            "if it is, mount it: --disko-mode mount; to make everything anew: --disko-mode disko \
             --erase",
        ));
    }
    let imported = context.inventory.pools.iter().any(|pool| pool.name == name);
    if !imported {
        remarks.warnings.push(format!(
            "whether the pool {name:?} was exported can only be seen once what it is in is open: \
             it is imported all the same, so no other machine may be using its disks now"
        ));
    }
    Ok(Some(ExistingPool { guid: None, any_host: true, imported }))
}

/// Whether a device is there, in something that has to be opened to see it.
fn is_hidden(context: &Context<'_>, existing: &Existing, device: &DeviceRef) -> bool {
    !matches!(device, DeviceRef::Disk { .. } | DeviceRef::Partition { .. })
        && existing.has(context.layout, device)
}

/// What is on a disk or partition that stays.
fn signatures<'a>(
    context: &'a Context<'_>,
    existing: &Existing,
    device: &DeviceRef,
) -> &'a [Signature] {
    if !existing.has(context.layout, device) {
        return &[];
    }
    match device {
        DeviceRef::Disk { disk } => &context.disks[disk.as_str()].contents.signatures,
        DeviceRef::Partition { disk, number } => numbered(context.disks[disk.as_str()], *number)
            .map_or(&[], |partition| &partition.signatures),
        _ => &[],
    }
}

fn label<'a>(
    context: &'a Context<'_>,
    existing: &Existing,
    device: &'a DeviceRef,
) -> Option<Label<'a>> {
    let signatures = signatures(context, existing, device);
    signatures.iter().find_map(|signature| match signature {
        Signature::ZfsMember { pool, guid, hostname, hostid, state, .. } => Some(Label {
            device,
            pool,
            guid,
            hostname: hostname.as_deref(),
            hostid: *hostid,
            state: *state,
        }),
        _ => None,
    })
}

fn place(context: &Context<'_>, device: &DeviceRef) -> String {
    match device {
        DeviceRef::Partition { disk, number } => format!(
            "partition {number} of disk {disk:?}, {},",
            words::disk(&context.disks[disk.as_str()].identity)
        ),
        DeviceRef::Disk { disk } => {
            format!("disk {disk:?}, {},", words::disk(&context.disks[disk.as_str()].identity))
        }
        DeviceRef::Mapper { name } => match context.layout.below(name) {
            Some(below) => format!("container {name} on {}", place(context, &below)),
            None => format!("container {name}"),
        },
        DeviceRef::Inner { on, number } => {
            format!("partition {number} of {}", place(context, on))
        }
        DeviceRef::Volume { dataset } => format!("volume {dataset}"),
        DeviceRef::LogicalVolume { group, name } => format!("logical volume {group}/{name}"),
        DeviceRef::Array { name } => format!("RAID {name}"),
    }
}
