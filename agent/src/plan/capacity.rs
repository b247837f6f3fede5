//! Whether the closure has room.

use super::refuse::refuse;
use super::words::human;
use super::{Context, words};
use keystone_protocol::layout::{Content, Dataset, Format, Mounted, PoolMode, partition_type};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, PartitionTable};

/// Generations that the ESP must hold: the installed one and the next.
const GENERATIONS: u64 = 2;

/// What a file system needs beside the store, in bytes: `/etc`, `/var`, the report.
const MARGIN: u64 = 256 << 20;

/// The file system that the firmware reads.
pub(super) struct Esp {
    pub(super) device: DeviceRef,
    pub(super) mountpoint: String,
}

/// Finds the ESP, and refuses one that is too small for a system and its successor.
pub(super) fn esp(context: &Context<'_>, tables: &[PartitionTable]) -> Result<Esp, Refusal> {
    let (esp, bytes) = find_esp(context, tables).ok_or_else(|| {
        refuse(
            RefusalKind::Layout,
            "the layout has no EFI system partition: one of type EF00 with a vfat file system \
             that is mounted",
            "add one, mounted at /boot",
        )
    })?;
    let needed = context.closure.boot_bytes.saturating_mul(GENERATIONS);
    if bytes < needed {
        return Err(refuse(
            RefusalKind::Closure,
            format!(
                "the EFI system partition is {} and must hold two generations, whose kernels and \
                 initrds take {}",
                human(bytes),
                human(needed)
            ),
            "make it larger in the layout (1G is usual), or the initrd smaller",
        ));
    }
    Ok(esp)
}

/// The mounted ESP, `/boot` before others, and its size.
fn find_esp(context: &Context<'_>, tables: &[PartitionTable]) -> Option<(Esp, u64)> {
    let mut found = Vec::new();
    for (device, content) in context.layout.contents() {
        let DeviceRef::Partition { disk, number } = &device else { continue };
        let Content::Filesystem(filesystem) = content else { continue };
        let Some(mountpoint) = &filesystem.mountpoint else { continue };
        let table = tables.iter().find(|table| table.disk == *disk)?;
        let partition = &table.partitions[*number as usize - 1];
        if partition.type_guid == partition_type::ESP && filesystem.format == Format::Vfat {
            let bytes = partition_bytes(context, tables, &device).unwrap_or(0);
            found.push((Esp { mountpoint: mountpoint.clone(), device }, bytes));
        }
    }
    found.into_iter().min_by_key(|(esp, _)| esp.mountpoint != "/boot")
}

/// Refuses a file system for the store that can't hold the closure.
pub(super) fn store(context: &Context<'_>, tables: &[PartitionTable]) -> Result<(), Refusal> {
    let mounts = context.layout.mounts();
    // The last of the outermost-first list that `/nix/store` lies in.
    let holds_store = |target: &str| {
        target == "/" || "/nix/store" == target || "/nix/store".starts_with(&format!("{target}/"))
    };
    let Some(mount) = mounts.iter().rev().find(|mount| holds_store(mount.target)) else {
        return Ok(());
    };
    let (what, room) = match &mount.what {
        Mounted::Filesystem { device, .. } => {
            (mount.target.to_owned(), device_bytes(context, tables, device))
        }
        Mounted::Dataset { name, .. } => {
            let pool = name.split('/').next().unwrap_or_default();
            (format!("the pool {pool}"), pool_bytes(context, tables, pool))
        }
    };
    let needed = context.closure.nar_bytes + context.closure.nar_bytes / 10 + MARGIN;
    match room {
        Some(room) if room < needed => {
            let disks: Vec<String> =
                context.disks.values().map(|disk| words::disk(&disk.identity)).collect();
            Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "the closure takes {} ({} with what is written beside it) and is to lie in \
                     {what}, which will have room for {} on {}",
                    human(context.closure.nar_bytes),
                    human(needed),
                    human(room),
                    words::list(&disks)
                ),
                "choose a larger disk, make swap smaller, or the system",
            ))
        }
        _ => Ok(()),
    }
}

fn partition_bytes(
    context: &Context<'_>,
    tables: &[PartitionTable],
    device: &DeviceRef,
) -> Option<u64> {
    let DeviceRef::Partition { disk, number } = device else { return None };
    let table = tables.iter().find(|table| table.disk == *disk)?;
    let partition = table.partitions.iter().find(|partition| partition.number == *number)?;
    let sector = u64::from(context.disks.get(disk.as_str())?.identity.sector_size);
    Some((partition.last_lba - partition.first_lba + 1) * sector)
}

/// Size of a device that is made of partitions or volumes.
fn device_bytes(
    context: &Context<'_>,
    tables: &[PartitionTable],
    device: &DeviceRef,
) -> Option<u64> {
    match device {
        DeviceRef::Disk { .. } => None,
        DeviceRef::Partition { .. } => partition_bytes(context, tables, device),
        DeviceRef::Volume { dataset } => {
            volumes(context).find(|(name, _)| name == dataset).map(|(_, size)| size)
        }
        DeviceRef::Mapper { name } => {
            let contents = context.layout.contents();
            let (below, _) = contents.iter().find(
                |(_, content)| matches!(content, Content::Luks(luks) if luks.name == *name),
            )?;
            // The LUKS2 header takes 16 MiB. Source: cryptsetup-luksFormat(8).
            Some(device_bytes(context, tables, below)?.saturating_sub(16 << 20))
        }
    }
}

/// What a pool can hold: its members less parity, less the share that ZFS keeps for itself
/// (`spa_slop_shift`, 1/32) and the volumes' reservations.
fn pool_bytes(context: &Context<'_>, tables: &[PartitionTable], name: &str) -> Option<u64> {
    let pool = context.layout.zpools.iter().find(|pool| pool.name == name)?;
    let members = context.layout.members(name);
    let sizes: Option<Vec<u64>> =
        members.iter().map(|member| device_bytes(context, tables, member)).collect();
    let sizes = sizes?;
    let least = sizes.iter().copied().min()?;
    let raw = match pool.mode {
        PoolMode::Stripe => sizes.iter().sum(),
        PoolMode::Mirror => least,
        PoolMode::Raidz(parity) => least * (sizes.len() as u64).saturating_sub(parity.into()),
    };
    let prefix = format!("{name}/");
    let reserved: u64 = volumes(context)
        .filter(|(volume, _)| volume.starts_with(&prefix))
        .map(|(_, size)| size)
        .sum();
    Some((raw - raw / 32).saturating_sub(reserved))
}

/// Volumes of the layout with their sizes.
fn volumes<'a>(context: &'a Context<'_>) -> impl Iterator<Item = (String, u64)> + 'a {
    context.layout.zpools.iter().flat_map(|pool| {
        pool.datasets.iter().filter_map(move |dataset| match dataset {
            Dataset::Volume(volume) => {
                Some((format!("{}/{}", pool.name, volume.name), volume.size))
            }
            Dataset::Fs(_) => None,
        })
    })
}
