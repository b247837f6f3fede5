//! What is on a disk, in words. Without kernel names, which may be others at the next boot.

use crate::words::human;
use keystone_protocol::inventory::{
    Disk, Holder, InstalledNixos, Partition, PoolState, Signature, Table, utc,
};

/// What is on the disk, a phrase each; none for a blank one.
pub(super) fn phrases(disk: &Disk) -> Vec<String> {
    let contents = &disk.contents;
    let mut phrases = Vec::new();
    match (&contents.table, contents.partitions.len()) {
        (Some(Table::Gpt { guid }), count) => {
            phrases.push(format!("a GPT ({guid}) with {}", partitions(count)));
        }
        (Some(Table::Mbr { id }), count) => {
            phrases.push(format!("an MBR partition table ({id}) with {}", partitions(count)));
        }
        (None, 0) => {}
        (None, count) => phrases.push(partitions(count)),
    }
    phrases.extend(signatures(&contents.signatures, &contents.holders));
    phrases.extend(contents.holders.iter().filter_map(holder));
    phrases.extend(contents.partitions.iter().map(partition));
    phrases
}

fn partitions(count: usize) -> String {
    match count {
        0 => "no partitions".to_owned(),
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    }
}

fn partition(partition: &Partition) -> String {
    let label = partition.label.as_ref().filter(|label| !label.is_empty());
    let label = label.map_or(String::new(), |label| format!(" {label:?}"));
    let signatures = signatures(&partition.signatures, &partition.holders).into_iter();
    let holders = partition.holders.iter().filter_map(holder);
    let nixos = partition.nixos.iter().map(nixos);
    let found: Vec<String> = signatures.chain(nixos).chain(holders).collect();
    let found = if found.is_empty() { "nothing known".to_owned() } else { found.join(", ") };
    format!("partition {}{label} of {}: {found}", partition.number, human(partition.size))
}

/// What is there, with when a pool was written last and how much of a file system is in use: unless somebody
/// has it, and may write it all the time.
fn signatures(found: &[Signature], holders: &[Holder]) -> Vec<String> {
    let phrase = |found: &Signature| match found {
        Signature::ZfsMember { written: Some(at), .. } if holders.is_empty() => {
            format!("{}, last written {}", signature(found), utc(*at))
        }
        Signature::Filesystem { used: Some(bytes), .. } if holders.is_empty() => {
            format!("{}, {} in use", signature(found), human(*bytes))
        }
        found => signature(found),
    };
    found.iter().map(phrase).collect()
}

fn nixos(system: &InstalledNixos) -> String {
    let host = system.hostname.as_ref().map_or(String::new(), |host| format!(" of host {host:?}"));
    let version = match &system.version {
        Some(version) => format!(" ({version})"),
        None => String::new(),
    };
    format!("the boot loader of a NixOS{host}, generation {}{version}", system.generation)
}

pub(in super::super) fn signature(signature: &Signature) -> String {
    let named = |what: String, label: &Option<String>, uuid: &Option<String>| {
        let label = label.as_ref().map(|label| format!("{label:?}"));
        let details: Vec<String> = label.into_iter().chain(uuid.clone()).collect();
        if details.is_empty() { what } else { format!("{what} ({})", details.join(", ")) }
    };
    match signature {
        Signature::Filesystem { fstype, label, uuid, .. } => {
            named(format!("the file system {fstype}"), label, uuid)
        }
        Signature::Luks { version, uuid, label } => {
            named(format!("a LUKS{version} container"), label, uuid)
        }
        Signature::ZfsMember { pool, guid, hostname, state, .. } => {
            let host = hostname.as_ref().map_or(String::new(), |host| format!(" of host {host:?}"));
            let state = match state {
                PoolState::Active => "not exported",
                PoolState::Exported => "exported",
                PoolState::Destroyed => "destroyed",
            };
            format!("a member of the ZFS pool {pool:?}{host} (guid {guid}, {state})")
        }
        Signature::Lvm => "an LVM physical volume".to_owned(),
        Signature::MdRaid => "a member of a Linux software RAID".to_owned(),
        Signature::Swap => "swap".to_owned(),
        Signature::Other { name } => name.clone(),
    }
}

fn holder(holder: &Holder) -> Option<String> {
    match holder {
        Holder::Mount { target } => Some(format!("mounted at {target}")),
        Holder::Swap => Some("swapped to".to_owned()),
        Holder::Pool { name, .. } => Some(format!("in use by the imported pool {name:?}")),
        Holder::Device { name, .. } => name.as_ref().map(|name| format!("open as {name}")),
    }
}
