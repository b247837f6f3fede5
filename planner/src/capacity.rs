//! Whether there is room: for the closure, and for each thing that the layout makes.

use super::refuse::refuse;
use super::sizes::{LUKS_HEADER, Sizes};
use super::words::human;
use super::{Context, words};
use crate::vfat;
use keystone_protocol::layout::{Content, Format, Mounted, partition_type};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::ClosureFacts;
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
pub(super) fn esp(
    context: &Context<'_>,
    closure: &ClosureFacts,
    sizes: &Sizes<'_>,
    tables: &[PartitionTable],
) -> Result<Esp, Refusal> {
    let (esp, bytes) = find_esp(context, sizes, tables).ok_or_else(|| {
        refuse(
            RefusalKind::Layout,
            "the layout has no EFI system partition: one of type EF00 with a vfat file system \
             that is mounted",
            "add one, mounted at /boot",
        )
    })?;
    let needed = closure.boot_bytes.saturating_mul(GENERATIONS);
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
fn find_esp(
    context: &Context<'_>,
    sizes: &Sizes<'_>,
    tables: &[PartitionTable],
) -> Option<(Esp, u64)> {
    let mut found = Vec::new();
    for (device, content) in context.layout.contents() {
        let DeviceRef::Partition { disk, number } = &device else { continue };
        let Content::Filesystem(filesystem) = content else { continue };
        let Some(mountpoint) = &filesystem.mountpoint else { continue };
        let table = tables.iter().find(|table| table.device.disk() == Some(disk))?;
        let partition = &table.partitions[*number as usize - 1];
        if partition.type_guid == partition_type::ESP && filesystem.format == Format::Vfat {
            let bytes = sizes.device(&device).unwrap_or(0);
            found.push((Esp { mountpoint: mountpoint.clone(), device }, bytes));
        }
    }
    found.into_iter().min_by_key(|(esp, _)| esp.mountpoint != "/boot")
}

/// Refuses a file system for the store that can't hold the closure.
pub(super) fn store(
    context: &Context<'_>,
    closure: &ClosureFacts,
    sizes: &Sizes<'_>,
) -> Result<(), Refusal> {
    let mounts = context.layout.mounts();
    // The last of the outermost-first list that `/nix/store` lies in.
    let holds_store = |target: &str| {
        target == "/" || "/nix/store" == target || "/nix/store".starts_with(&format!("{target}/"))
    };
    let Some(mount) = mounts.iter().rev().find(|mount| holds_store(mount.target)) else {
        return Ok(());
    };
    let (what, room) = match &mount.what {
        Mounted::Filesystem { device, .. } => (mount.target.to_owned(), sizes.device(device)),
        Mounted::Dataset { name, .. } => {
            let pool = name.split('/').next().unwrap_or_default();
            let room = sizes.pool(pool).map(|room| room.saturating_sub(sizes.reserved(pool)));
            (format!("the pool {pool}"), room)
        }
    };
    let closure = closure.nar_bytes;
    let needed = closure.saturating_add(closure / 10).saturating_add(MARGIN);
    match room {
        Some(room) if room < needed => {
            let disks: Vec<String> =
                context.disks.values().map(|disk| words::disk(&disk.identity)).collect();
            Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "the closure takes {} ({} with what is written beside it) and is to lie in \
                     {what}, which will have room for {} on {}",
                    human(closure),
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

/// The least member of a pool. Source: OpenZFS, `SPA_MINDEVSIZE`.
const LEAST_MEMBER: u64 = 64 << 20;

/// The least ext4 that is of use: metadata, `lost+found` and a few files, in bytes.
const LEAST_EXT4: u64 = 2 << 20;

/// Refuses devices that are too small for what is put onto them, and pools that are too small
/// for their volumes. Found out only when they are made, it would be too late.
pub(super) fn devices(context: &Context<'_>, sizes: &Sizes<'_>) -> Result<(), Refusal> {
    for (device, content) in context.layout.contents() {
        let (path, what, least) = match content {
            Content::Luks(luks) => (&luks.path, "a LUKS2 container", LUKS_HEADER + LEAST_EXT4),
            Content::Zfs(member) => (&member.path, "a member of a pool", LEAST_MEMBER),
            Content::Filesystem(filesystem) => match filesystem.format {
                Format::Ext4 => (&filesystem.path, "ext4", LEAST_EXT4),
                Format::Vfat => {
                    let sector_size = sizes.sector_size(&device).unwrap_or(512);
                    (&filesystem.path, "FAT32", vfat::least_size(sector_size))
                }
            },
            Content::Swap(_) => continue,
        };
        let Some(size) = sizes.device(&device).filter(|size| *size < least) else { continue };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "{path}: {what} takes at least {}, and would get {}",
                human(least),
                human(size)
            ),
            "make its partition or volume larger in the layout, or choose a larger disk",
        ));
    }
    for pool in &context.layout.zpools {
        let reserved = sizes.reserved(&pool.name);
        if let Some(room) = sizes.pool(&pool.name).filter(|room| *room < reserved) {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "{}: its volumes take {}, and the pool will have room for {}",
                    pool.path,
                    human(reserved),
                    human(room)
                ),
                "choose a larger disk, or make the volumes smaller",
            ));
        }
    }
    Ok(())
}
