//! What of the layout is on the disks already, for plans that keep it.
//!
//! A disk is kept unless the plan destroys it. What is found on it must be what the layout puts
//! there: then the plan only looks that it is still so. What is missing is made, if the mode
//! makes anything. What is something else is refused: nothing here is ever overwritten.
//!
//! A partition is told by its disk, number and name, a pool by its GUID and the partitions that
//! its members are, never by name alone.

use super::refuse::refuse;
use super::{Context, Remarks, words};
use keystone_protocol::inventory::{Disk, Partition, PoolState, Signature, Table};
use keystone_protocol::layout::{self, Content, Dataset, ZfsKey};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, PartitionTable, PlannedPartition};
use std::collections::BTreeMap;

/// What of the layout is there and stays.
#[derive(Debug, Default)]
pub(super) struct Existing {
    tables: BTreeMap<String, PartitionTable>,
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
            if context.mode.formats() {
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
        supported(context, wanted)?;
        existing.tables.insert(wanted.name.clone(), table(wanted, disk)?);
        contents(context, wanted, disk)?;
    }
    for pool in &context.layout.zpools {
        if let Some(found) = pool_of(context, &existing, &pool.name, remarks)? {
            existing.pools.insert(pool.name.clone(), found);
        }
    }
    Ok(existing)
}

impl Existing {
    /// The table of a disk that stays.
    pub(super) fn table(&self, disk: &str) -> Option<&PartitionTable> {
        self.tables.get(disk)
    }

    /// A pool that is there.
    pub(super) fn pool(&self, name: &str) -> Option<&ExistingPool> {
        self.pools.get(name)
    }

    /// Whether a device may be there already, and what is on it with it.
    pub(super) fn has(&self, layout: &layout::Layout, device: &DeviceRef) -> bool {
        match device {
            DeviceRef::Disk { disk } | DeviceRef::Partition { disk, .. } => {
                self.tables.contains_key(disk)
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

/// What can be made, and can't be found again yet.
fn supported(context: &Context<'_>, wanted: &layout::Disk) -> Result<(), Refusal> {
    let no = |path: &str, what: &str| {
        let disk = words::disk(&context.disks[wanted.name.as_str()].identity);
        Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "{path}: disk {:?}, {disk}, is kept and not blank, and {what} can't be found \
                 again yet",
                wanted.name
            ),
            ANEW,
        ))
    };
    if !matches!(&wanted.content, Some(Content::Gpt(_))) {
        return no(&wanted.path, "what is on a disk without a GPT");
    }
    if let Some(group) = context.layout.groups.first() {
        return no(&group.path, "a volume group");
    }
    if let Some(array) = context.layout.arrays.first() {
        return no(&array.path, "a RAID");
    }
    let inner = context.layout.contents().into_iter().find(|(device, content)| {
        matches!(content, Content::Gpt(_) | Content::Table(_)) && device.disk().is_none()
    });
    if let Some((_, content)) = inner {
        return no(content.path(), "a partition table in a container");
    }
    let other_key = |key: &Option<ZfsKey>| matches!(key, Some(key) if !matches!(key, ZfsKey::Credstore(_)));
    for pool in &context.layout.zpools {
        let mut keys = pool.datasets.iter().map(|dataset| match dataset {
            Dataset::Fs(fs) => &fs.key,
            Dataset::Volume(volume) => &volume.key,
        });
        if other_key(&pool.root.key) || keys.any(other_key) {
            return no(&pool.path, "the key of its datasets");
        }
    }
    Ok(())
}

/// The table that is there, as a table of the layout: geometry and GUIDs are the disk's.
fn table(wanted: &layout::Disk, disk: &Disk) -> Result<PartitionTable, Refusal> {
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
    let mut partitions = Vec::new();
    for (number, planned) in (1..).zip(wanted.partitions()) {
        let Some(found) = numbered(disk, number) else {
            return Err(other(format!(
                "has no partition {number}, which is {:?} in the layout",
                planned.label
            )));
        };
        let label = found.label.as_deref().unwrap_or_default();
        if label != planned.label {
            return Err(other(format!(
                "has a partition {number} named {label:?}, and the layout names it {:?}",
                planned.label
            )));
        }
        let same = |found: &Option<String>, wanted: &str| {
            found.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(wanted))
        };
        if !same(&found.type_guid, &planned.type_guid) {
            return Err(other(format!(
                "has a partition {number} ({label:?}) of type {}, and the layout gives it the \
                 type {}",
                found.type_guid.as_deref().unwrap_or("unknown"),
                planned.type_guid
            )));
        }
        if let Some(guid) = planned.guid.as_deref().filter(|guid| !same(&found.guid, guid)) {
            return Err(other(format!(
                "has a partition {number} ({label:?}) with the GUID {}, and the layout gives it \
                 {guid}",
                found.guid.as_deref().unwrap_or("unknown")
            )));
        }
        partitions.push(PlannedPartition {
            number,
            name: planned.name.clone(),
            label: planned.label.clone(),
            type_guid: planned.type_guid.clone(),
            guid: found.guid.clone(),
            first_lba: found.first_lba,
            last_lba: found.first_lba + (found.size / sector).saturating_sub(1),
            attributes: planned.attributes,
        });
    }
    Ok(PartitionTable {
        device: DeviceRef::Disk { disk: wanted.name.clone() },
        keep: true,
        partitions,
        hybrid: None,
    })
}

fn numbered(disk: &Disk, number: u32) -> Option<&Partition> {
    disk.contents.partitions.iter().find(|partition| partition.number == number)
}

/// Every partition must hold what the layout puts there, or nothing where that can be made.
fn contents(context: &Context<'_>, wanted: &layout::Disk, disk: &Disk) -> Result<(), Refusal> {
    for (number, planned) in (1..).zip(wanted.partitions()) {
        let found = numbered(disk, number).map_or(&[][..], |partition| &partition.signatures);
        let (what, right) = match &planned.content {
            Some(Content::Filesystem(filesystem)) => {
                let name = filesystem.format.name();
                let right = |signature: &Signature| {
                    matches!(signature, Signature::Filesystem { fstype, .. } if fstype == name)
                };
                (format!("the file system {name}"), found.iter().any(right))
            }
            Some(Content::Luks(luks)) => {
                let right = |found: &Signature| matches!(found, Signature::Luks { version: 2, .. });
                (format!("the LUKS2 container {}", luks.name), found.iter().any(right))
            }
            Some(Content::Zfs(member)) => {
                let right = |found: &Signature| matches!(found, Signature::ZfsMember { .. });
                (format!("a member of the pool {}", member.pool), found.iter().any(right))
            }
            _ => continue,
        };
        if right || (found.is_empty() && context.mode.formats()) {
            continue;
        }
        let there = match found {
            [] => "nothing".to_owned(),
            found => {
                words::list(&found.iter().map(super::occupancy::signature).collect::<Vec<_>>())
            }
        };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "partition {number} ({:?}) of disk {:?}, {}, holds {there}, where the layout has \
                 {what}",
                planned.label,
                wanted.name,
                words::disk(&disk.identity)
            ),
            ANEW,
        ));
    }
    Ok(())
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
fn pool_of(
    context: &Context<'_>,
    existing: &Existing,
    name: &str,
    remarks: &mut Remarks,
) -> Result<Option<ExistingPool>, Refusal> {
    let members = context.layout.members(name);
    let hidden = members.iter().any(|member| {
        matches!(member, DeviceRef::Mapper { .. }) && existing.has(context.layout, member)
    });
    if hidden {
        return in_containers(context, name);
    }
    let labels: Vec<Label<'_>> =
        members.iter().filter_map(|device| label(context, existing, device)).collect();
    let Some(first) = labels.first() else {
        if context.mode.formats() {
            return Ok(None);
        }
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!("there is no pool {name:?} on the layout's disks"),
            "are they the right disks? To make it: --disko-mode format,mount",
        ));
    };
    let other = |message: String| Err(refuse(RefusalKind::TargetUnfit, message, ANEW));
    if let Some(wrong) = labels.iter().find(|label| label.pool != name) {
        return other(format!(
            "{} belongs to a pool {:?} (guid {}), and in the layout to {name:?}",
            place(context, wrong.device),
            wrong.pool,
            wrong.guid
        ));
    }
    if let Some(wrong) = labels.iter().find(|label| label.guid != first.guid) {
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
    let imported = context.inventory.pools.iter().any(|pool| pool.guid == first.guid);
    let own = first.hostid == Some(context.inventory.system.hostid);
    let any_host = !imported && first.state == PoolState::Active && !own;
    if any_host {
        remarks.warnings.push(format!(
            "the pool {name:?} was last used by {} and not exported there: it is imported all the \
             same, so no other machine may be using its disks now",
            first.hostname.map_or_else(|| "another host".to_owned(), |host| format!("host {host:?}"))
        ));
    }
    Ok(Some(ExistingPool { guid: Some(first.guid.to_owned()), any_host, imported }))
}

/// A pool whose members are in containers can only be seen once those are open.
fn in_containers(context: &Context<'_>, name: &str) -> Result<Option<ExistingPool>, Refusal> {
    if context.mode.formats() {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "the pool {name:?} is in a container that is there already: whether the pool is \
                 there too can only be seen once it is open"
            ),
            "if it is, mount it: --disko-mode mount; to make everything anew: --disko-mode disko \
             --erase",
        ));
    }
    let imported = context.inventory.pools.iter().any(|pool| pool.name == name);
    Ok(Some(ExistingPool { guid: None, any_host: true, imported }))
}

fn label<'a>(
    context: &'a Context<'_>,
    existing: &Existing,
    device: &'a DeviceRef,
) -> Option<Label<'a>> {
    let DeviceRef::Partition { disk, number } = device else { return None };
    existing.table(disk)?;
    let found = numbered(context.disks[disk.as_str()], *number)?;
    found.signatures.iter().find_map(|signature| match signature {
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
        other => format!("{other:?}"),
    }
}
