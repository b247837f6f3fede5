//! What is on a disk and who uses it.

use super::nixos;
use super::pool::Pools;
use crate::block::probe::{self, Source, ZFS_MEMBER};
use crate::block::sysfs::{self, KernelPartition};
use crate::block::{DevNo, Roots, holders};
use crate::gpt::{self, Entry, Gpt};
use crate::mount::MountPoint;
use keystone_protocol::inventory::{Contents, Holder, Partition, Signature};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

/// What a disk's contents are seen against.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where the kernel's file systems are.
    pub roots: &'a Roots,
    /// The mount table.
    pub mounts: &'a [MountPoint],
    /// Imported pools and ZFS labels.
    pub pools: &'a Pools<'a>,
}

/// The contents of a disk. One that can't be read must not look blank: it says so.
pub fn of(surroundings: &Surroundings<'_>, disk: &str) -> Contents {
    let Surroundings { roots, .. } = *surroundings;
    let sector_size = sysfs::number(roots, disk, "queue/logical_block_size").unwrap_or(512) as u32;
    let size = sysfs::size(roots, disk).unwrap_or(0);
    let partitions = |gpt: Option<&Gpt>| {
        sysfs::partitions(roots, disk)
            .into_iter()
            .map(|known| partition(surroundings, sector_size, gpt, known))
            .collect()
    };
    let holders = used_by(surroundings, disk);
    let read = || {
        let file = open(roots, disk)?;
        let source = Source::new(&file, size, sector_size);
        let gpt = gpt::read(&file, size, sector_size);
        let table = probe::table(source)?;
        let mut signatures = signatures(surroundings, disk, source)?;
        if table.is_none() && signatures.is_empty() && !ends_are_zero(&file, size)? {
            signatures.push(unknown());
        }
        Ok((table, gpt, signatures))
    };
    match read() {
        Ok((table, gpt, signatures)) => {
            Contents { table, signatures, partitions: partitions(gpt.as_ref()), holders }
        }
        Err(error) => Contents {
            table: None,
            signatures: vec![unreadable(error)],
            partitions: partitions(None),
            holders,
        },
    }
}

fn partition(
    surroundings: &Surroundings<'_>,
    sector_size: u32,
    gpt: Option<&Gpt>,
    known: KernelPartition,
) -> Partition {
    let entry = gpt.and_then(|gpt| entry(gpt, known.number, known.start));
    let read = open(surroundings.roots, &known.name).and_then(|file| {
        let source = Source::new(&file, known.length, sector_size);
        let mut signatures = signatures(surroundings, &known.name, source)?;
        // What an extended partition holds is a table.
        let empty = signatures.is_empty() && probe::table(source)?.is_none();
        if empty && !ends_are_zero(&file, known.length)? {
            signatures.push(unknown());
        }
        let nixos = is_fat(&signatures).then(|| nixos::on_esp(&file, known.length)).flatten();
        Ok((signatures, nixos))
    });
    let (signatures, nixos) = read.unwrap_or_else(|error| (vec![unreadable(error)], None));
    Partition {
        number: known.number,
        first_lba: known.start / u64::from(sector_size),
        size: known.length,
        type_guid: entry.map(|entry| entry.type_guid.clone()),
        guid: entry.map(|entry| entry.guid.clone()),
        label: entry.map(|entry| entry.label.clone()).filter(|label| !label.is_empty()),
        attributes: entry.map(|entry| entry.attributes),
        signatures,
        nixos,
        holders: used_by(surroundings, &known.name),
        kernel_name: known.name,
    }
}

/// How much of each end of a disk is looked at, in bytes.
const END: u64 = 1 << 20;

/// Whether both ends of a disk hold nothing: one without a known magic may still hold data, as a
/// plain dm-crypt device or one whose LUKS header lies elsewhere.
fn ends_are_zero(file: &File, size: u64) -> io::Result<bool> {
    let length = END.min(size) as usize;
    let mut bytes = vec![0; length];
    for offset in [0, size - length as u64] {
        file.read_exact_at(&mut bytes, offset)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_fat(signatures: &[Signature]) -> bool {
    let is_fat = |found: &Signature| matches!(found, Signature::Filesystem { fstype, .. } if fstype == "vfat");
    signatures.iter().any(is_fat)
}

fn unknown() -> Signature {
    Signature::Other { name: "data of an unknown kind".to_owned() }
}

fn unreadable(error: io::Error) -> Signature {
    Signature::Other { name: format!("something that can't be read ({error})") }
}

/// The table's entry of a partition that the kernel knows, unless the table was changed since.
fn entry(gpt: &Gpt, number: u32, start: u64) -> Option<&Entry> {
    let sector = u64::from(gpt.sector_size);
    gpt.partitions
        .iter()
        .find(|entry| entry.number == number && entry.first_lba.checked_mul(sector) == Some(start))
}

fn open(roots: &Roots, name: &str) -> io::Result<File> {
    // A drive without a medium must not be waited for.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(roots.node(name))
}

fn signatures(
    surroundings: &Surroundings<'_>,
    name: &str,
    source: Source<'_>,
) -> io::Result<Vec<Signature>> {
    let mut found = probe::signatures(source)?;
    for signature in &mut found {
        let is_zfs = matches!(signature, Signature::Other { name } if name == ZFS_MEMBER);
        if is_zfs && let Some(label) = surroundings.pools.label(name) {
            *signature = label.signature;
        }
    }
    // What is mounted has written its superblock some time ago; but a btrfs, whose device number is of
    // no device, keeps it up.
    if let [Signature::Filesystem { used, .. }] = &mut found[..] {
        let devno = sysfs::devno(surroundings.roots, name);
        let mut mounted =
            surroundings.mounts.iter().filter(|mount| Some(mount.devno) == devno).peekable();
        if mounted.peek().is_some() {
            *used = mounted.find_map(used_of);
        }
    }
    Ok(found)
}

/// How much of what is mounted is in use, in bytes; `None` where something else is mounted over it.
fn used_of(mount: &MountPoint) -> Option<u64> {
    let is_seen = DevNo::from_raw(fs::metadata(&mount.target).ok()?.dev()) == mount.devno;
    let found = is_seen.then(|| statvfs(&mount.target[..]).ok())??;
    found.blocks().checked_sub(found.blocks_free())?.checked_mul(found.fragment_size())
}

fn used_by(surroundings: &Surroundings<'_>, name: &str) -> Vec<Holder> {
    let mut found = holders::of(surroundings.roots, name, surroundings.mounts);
    found.extend(surroundings.pools.holder_of(name));
    found
}
