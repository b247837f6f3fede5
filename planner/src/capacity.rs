//! Whether there is room: for the closure, and for each thing that the layout makes.

use super::geometry::GeometryError;
use super::refuse::refuse;
use super::sizes::{LUKS_HEADER, Made, Sizes};
use super::words::human;
use super::{Context, words};
use crate::vfat;
use keystone_protocol::layout::{
    Btrfs, Content, Format, Gpt, LogicalVolume, Mounted, Partition, VolumeGroup, partition_type,
};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::ClosureFacts;
use keystone_protocol::plan::DeviceRef;

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
) -> Result<Esp, Refusal> {
    let (esp, bytes) = find_esp(context, sizes).ok_or_else(|| {
        refuse(
            RefusalKind::Layout,
            "the layout has no EFI system partition: one of type EF00 with a vfat file system \
             that is mounted",
            "add one, mounted at /boot",
        )
    })?;
    if let DeviceRef::Array { name } = &esp.device {
        return Err(refuse(
            RefusalKind::Layout,
            format!(
                "the EFI system partition is on the RAID {name}: firmware writes to one member \
                 behind the RAID's back, and no boot entry can be made for it"
            ),
            "put it onto a partition of its own; --mirror-esp keeps copies on the other disks",
        ));
    }
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

/// The mounted ESP, `/boot` before others, and its size. It is a partition of type EF00, or a RAID
/// whose members all are: firmware reads each of them.
fn find_esp(context: &Context<'_>, sizes: &Sizes<'_>) -> Option<(Esp, u64)> {
    let layout = context.layout;
    let of_type = |device: &DeviceRef| {
        let mut partitions = layout.partitions().into_iter();
        let gpt = partitions.any(|(found, partition)| {
            found == *device && partition.type_guid == partition_type::ESP
        });
        gpt || sizes.is_parted_esp(device)
    };
    let is_esp = |device: &DeviceRef| match device {
        DeviceRef::Partition { .. } => of_type(device),
        DeviceRef::Array { name } => layout.array_members(name).iter().all(of_type),
        _ => false,
    };
    let mut found = Vec::new();
    for (device, content) in layout.contents() {
        let Content::Filesystem(filesystem) = content else { continue };
        let Some(mountpoint) = &filesystem.mountpoint else { continue };
        if filesystem.format == Format::Vfat && is_esp(&device) {
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
        Mounted::Filesystem { device, .. } => {
            (in_device(mount.target, device, sizes), sizes.room(device))
        }
        Mounted::Btrfs { device, btrfs, .. } => {
            let swap = swap_files(btrfs);
            let beside = match swap {
                0 => String::new(),
                swap => format!(" beside swap files of {}", human(swap)),
            };
            let room = sizes.room(device).map(|room| room.saturating_sub(swap));
            (format!("{}{beside}", in_device(mount.target, device, sizes)), room)
        }
        Mounted::Dataset { name, .. } => {
            let pool = name.split('/').next().unwrap_or_default();
            (format!("the pool {pool}"), sizes.unreserved(pool))
        }
        Mounted::Nodev(nodev) => {
            return Err(refuse(
                RefusalKind::Layout,
                format!(
                    "{}: the store would lie in {} ({}), which is gone after a reboot",
                    nodev.path, mount.target, nodev.fstype
                ),
                "mount a file system on a disk at /nix",
            ));
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
                "choose a larger disk, give it more room in the layout (and swap less, as a rule), \
                 or make the system smaller",
            ))
        }
        _ => Ok(()),
    }
}

/// Where something is mounted, and that it is on a volume which promises more than is there.
fn in_device(target: &str, device: &DeviceRef, sizes: &Sizes<'_>) -> String {
    match sizes.device(device).zip(sizes.room(device)) {
        Some((size, room)) if room < size => {
            format!("{target} (on a volume of {}, in a pool that has less)", human(size))
        }
        _ => target.to_owned(),
    }
}

/// What the swap files of a btrfs take.
fn swap_files(btrfs: &Btrfs) -> u64 {
    let files = btrfs.subvolumes.iter().flat_map(|subvolume| &subvolume.swap).chain(&btrfs.swap);
    files.fold(0, |sum, file| sum.saturating_add(file.size))
}

/// The least member of a pool. Source: OpenZFS, `SPA_MINDEVSIZE`.
const LEAST_MEMBER: u64 = 64 << 20;

/// The least ext4 that is of use: metadata, `lost+found` and a few files, in bytes.
const LEAST_EXT4: u64 = 2 << 20;

/// Source: mkfs.xfs(8), since xfsprogs 5.19.
const LEAST_XFS: u64 = 300 << 20;

/// Source: mkfs.btrfs(8): 109 MiB with the default block group profiles.
const LEAST_BTRFS: u64 = 109 << 20;

/// The least f2fs: seven segments of 2 MiB for metadata and as many for files, and what mkfs.f2fs
/// keeps for its own use. Source: f2fs-tools, mkfs/f2fs_format.c.
const LEAST_F2FS: u64 = 38 << 20;

/// Ten pages. Source: mkswap(8).
const LEAST_SWAP: u64 = 40 << 10;

/// The least of a format, in bytes, on those sectors.
fn least(format: Format, sector_size: u32) -> u64 {
    match format {
        Format::Vfat => vfat::least_size(sector_size),
        Format::Ext2 | Format::Ext3 | Format::Ext4 => LEAST_EXT4,
        Format::Xfs => LEAST_XFS,
        Format::Btrfs => LEAST_BTRFS,
        Format::F2fs => LEAST_F2FS,
        // bcachefs says itself if it is too little: its least size depends on the bucket size.
        Format::Bcachefs => LEAST_EXT4,
    }
}

/// Refuses devices that are too small for what is put onto them, and pools and volume groups that
/// are too small for their volumes. Found out only when they are made, it would be too late.
pub(super) fn devices(context: &Context<'_>, sizes: &Sizes<'_>) -> Result<(), Refusal> {
    for (device, content) in context.layout.contents() {
        let sector_size = sizes.sector_size(&device).unwrap_or(512);
        let (what, least) = match content {
            Content::Luks(_) => ("a LUKS2 container", LUKS_HEADER + LEAST_EXT4),
            Content::Zfs(_) => ("a member of a pool", LEAST_MEMBER),
            Content::Filesystem(filesystem) => {
                let what = match filesystem.format {
                    Format::Vfat => "FAT32",
                    format => format.name(),
                };
                (what, least(filesystem.format, sector_size))
            }
            Content::Btrfs(btrfs) => {
                ("btrfs with its swap files", LEAST_BTRFS.saturating_add(swap_files(btrfs)))
            }
            Content::Swap(_) => ("swap", LEAST_SWAP),
            Content::PhysicalVolume(member) => {
                // All members are there before the first volume's content.
                let mut groups = context.layout.groups.iter();
                if let Some(group) = groups.find(|group| group.name == member.group) {
                    volumes_fit(group, sizes)?;
                }
                continue;
            }
            Content::Gpt(gpt) => {
                partitions_fit(&device, gpt, sizes)?;
                continue;
            }
            Content::Table(_) | Content::ArrayMember(_) => continue,
        };
        let Some(size) = sizes.device(&device).filter(|size| *size < least) else { continue };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "{}: {what} takes at least {}, and would get {}",
                content.path(),
                human(least),
                human(size)
            ),
            "make its partition or volume larger in the layout, or choose a larger disk",
        ));
    }
    for pool in &context.layout.zpools {
        let reserved = sizes.reserved(&pool.name);
        let Some(room) = sizes.pool(&pool.name).filter(|room| *room < reserved) else { continue };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "{}: its volumes take {} with their metadata, and the pool will have room for {}: \
                 {} too little",
                pool.path,
                human(reserved),
                human(room),
                human(reserved - room)
            ),
            "choose a larger disk, or make the volumes smaller",
        ));
    }
    Ok(())
}

/// Refuses a new table in a container or on a RAID whose partitions do not fit even into the most
/// that there can be. Where those of disks lie is decided already.
fn partitions_fit(device: &DeviceRef, gpt: &Gpt, sizes: &Sizes<'_>) -> Result<(), Refusal> {
    if !sizes.is_new_inner(device) {
        return Ok(());
    }
    let Some((size, Err(error))) = sizes.device(device).zip(sizes.inner_places(device, gpt)) else {
        return Ok(());
    };
    let partition = |number: usize| &gpt.partitions[number - 1];
    let problem = match error {
        GeometryError::NoTable => error.to_string(),
        GeometryError::Full { number } => format!("nothing is left for {}", partition(number).name),
        GeometryError::NoRoom { number, left } => {
            let Partition { name, start, end, .. } = partition(number);
            let left = human(left);
            format!("{left} are left for {name}, which is to reach from {start} to {end}")
        }
    };
    Err(refuse(
        RefusalKind::TargetUnfit,
        format!("{}: what it is on will have {} at most: {problem}", gpt.path, human(size)),
        "make its partitions smaller in the layout, or what it is on larger, or choose a larger \
         disk",
    ))
}

/// Refuses logical volumes that do not fit into what those before them leave of their group. A
/// group that may be there has its volumes, and perhaps other extents.
fn volumes_fit(group: &VolumeGroup, sizes: &Sizes<'_>) -> Result<(), Refusal> {
    if !sizes.is_new_group(group) {
        return Ok(());
    }
    for (volume, made) in group.volumes.iter().zip(sizes.logical_volumes(group)) {
        let Some(left) = made.left else { continue };
        let message = if made.takes > left {
            format!(
                "{}: it takes {}{}, and {} are left for it of the volume group {}: {} too little",
                volume.path,
                human(made.takes),
                with_copies(volume, made),
                human(left),
                group.name,
                human(made.takes - left)
            )
        } else if volume.thin_pool.is_none() && made.size == Some(0) {
            format!("{}: nothing is left for it of the volume group {}", volume.path, group.name)
        } else {
            continue;
        };
        return Err(refuse(
            RefusalKind::TargetUnfit,
            message,
            "choose a larger disk, or make the volumes smaller; one of 100% has to be made last",
        ));
    }
    Ok(())
}

/// ` (8.0 GiB as raid1)` for a volume that takes more than it holds.
fn with_copies(volume: &LogicalVolume, made: Made) -> String {
    match (&volume.kind, made.size) {
        (Some(kind), Some(size)) if size < made.takes => format!(" ({} as {kind})", human(size)),
        _ => String::new(),
    }
}
