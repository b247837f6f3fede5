//! The inventory as text.

use super::uses;
use crate::ui::format::{bytes, count};
use keystone_protocol::inventory::{
    Contents, Disk, DiskIdentity, Holder, Inventory, Partition, PoolState, SecureBoot, Signature,
    Table, Tpm, utc,
};
use std::fmt::Write;

/// The machine in a few lines: for the head of a plan.
pub fn machine_lines(inventory: &Inventory) -> Vec<String> {
    let system = &inventory.system;
    let mut first = system.hostname.clone();
    if let Some(product) = &system.product {
        first.push_str(&format!(", {product}"));
    }
    let firmware = match inventory.firmware.uefi {
        true => "UEFI",
        false => "no UEFI",
    };
    vec![
        first,
        format!(
            "{}, {} × {}, {} of memory",
            system.platform,
            inventory.cpu.cores,
            inventory.cpu.model,
            bytes(inventory.memory.total)
        ),
        format!(
            "{firmware}, Secure Boot {}, {}",
            secure_boot(inventory.firmware.secure_boot),
            inventory.tpm.as_ref().map_or_else(|| "no TPM".to_owned(), tpm)
        ),
    ]
}

fn secure_boot(state: SecureBoot) -> &'static str {
    match state {
        SecureBoot::Unknown => "unknown",
        SecureBoot::Off => "off",
        SecureBoot::SetupMode => "off (setup mode)",
        SecureBoot::On => "on",
    }
}

fn tpm(tpm: &Tpm) -> String {
    let banks: Vec<&str> = tpm.pcr7.keys().map(String::as_str).collect();
    let lockout = if tpm.in_lockout { ", locked out" } else { "" };
    format!("TPM 2.0 ({} {}; {}{lockout})", tpm.manufacturer.trim(), tpm.firmware, banks.join(", "))
}

/// The whole inventory.
pub fn inventory_text(inventory: &Inventory) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line("MACHINE".into());
    machine_lines(inventory).into_iter().for_each(|text| line(format!("  {text}")));
    let system = &inventory.system;
    let os = match (&system.os_id, &system.variant_id) {
        (Some(os), Some(variant)) => format!("{os} ({variant})"),
        (Some(os), None) => os.clone(),
        _ => "an unknown system".into(),
    };
    line(format!("  running {os}, Linux {}, host id {:08x}", system.kernel, system.hostid));
    let zfs = match (&inventory.zfs.module, &inventory.zfs.problem) {
        (Some(version), _) => {
            format!("{version}, {}", count(inventory.zfs.features.len() as u64, "feature"))
        }
        (None, Some(problem)) => format!("none: {problem}"),
        (None, None) => "none".into(),
    };
    line(format!("  ZFS {zfs}"));
    for (name, path) in &inventory.tools {
        line(format!("  {name} at {path}"));
    }
    line("NETWORK".into());
    for interface in &inventory.network {
        let state = if interface.up { "up" } else { "down" };
        line(format!(
            "  {}  {}  {state}  {}",
            interface.name,
            interface.mac,
            interface.addresses.join(" ")
        ));
    }
    line("DISKS".into());
    for disk in &inventory.disks {
        disk_lines(disk).into_iter().for_each(|text| line(format!("  {text}")));
    }
    let uses = uses::lines(inventory);
    if !uses.is_empty() {
        line("IN USE".into());
        uses.into_iter().for_each(|text| line(format!("  {text}")));
    }
    if !inventory.target_mounts.is_empty() {
        line("MOUNTED FOR AN INSTALLATION".into());
        inventory.target_mounts.iter().for_each(|target| line(format!("  {target}")));
    }
    if !inventory.pools.is_empty() {
        line("IMPORTED POOLS".into());
        for pool in &inventory.pools {
            line(format!("  {} {} on {}", pool.name, pool.health, pool.devices.join(", ")));
        }
    }
    if !inventory.mappers.is_empty() {
        line("OPEN MAPPERS".into());
        for mapper in &inventory.mappers {
            line(format!("  {} ({})", mapper.name, mapper.uuid));
        }
    }
    out
}

fn disk_lines(disk: &Disk) -> Vec<String> {
    let mut head = format!(
        "{}  {}  {}",
        disk.identity.name,
        bytes(disk.identity.size),
        identity_details(&disk.identity)
    );
    let marks = [
        (disk.boot_medium, "the boot medium"),
        (disk.read_only, "write-protected"),
        (disk.removable, "removable"),
        (disk.rotational, "rotating"),
    ];
    for (_, mark) in marks.iter().filter(|(set, _)| *set) {
        let _ = write!(head, ", {mark}");
    }
    let transport = disk.transport.as_deref().unwrap_or("unknown transport");
    let mut lines = vec![
        head,
        format!(
            "    {} ({}, {transport}), sectors of {} / {} bytes",
            disk.kernel_name, disk.devno, disk.identity.sector_size, disk.physical_sector_size
        ),
    ];
    lines.extend(contents_lines(&disk.contents).into_iter().map(|text| format!("    {text}")));
    lines
}

/// Serial number, WWN and model, as far as they are known.
pub fn identity_details(identity: &DiskIdentity) -> String {
    let known = [("serial", &identity.serial), ("wwn", &identity.wwn), ("model", &identity.model)];
    let details: Vec<String> = known
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
        .collect();
    match details.is_empty() {
        true => "no serial number".to_owned(),
        false => details.join(", "),
    }
}

fn contents_lines(contents: &Contents) -> Vec<String> {
    if contents.is_blank() {
        return vec!["blank".to_owned()];
    }
    let mut lines = Vec::new();
    match &contents.table {
        Some(Table::Gpt { guid }) => lines.push(format!("GPT {guid}")),
        Some(Table::Mbr { id }) => lines.push(format!("MBR {id}")),
        None => {}
    }
    lines.extend(contents.signatures.iter().map(signature));
    lines.extend(contents.holders.iter().map(holder));
    lines.extend(contents.partitions.iter().map(partition));
    lines
}

fn partition(partition: &Partition) -> String {
    let label = partition.label.as_deref().unwrap_or("");
    let mut text = format!("{} {label} {}", partition.number, bytes(partition.size));
    let signatures = partition.signatures.iter().map(signature);
    let nixos = partition.nixos.iter().map(|system| {
        let host = system.hostname.as_deref().unwrap_or("unknown name");
        format!("boots NixOS {host}, generation {}", system.generation)
    });
    for what in signatures.chain(nixos).chain(partition.holders.iter().map(holder)) {
        let _ = write!(text, ", {what}");
    }
    text
}

fn signature(signature: &Signature) -> String {
    let named = |what: &str, label: &Option<String>| match label {
        Some(label) => format!("{what} \"{label}\""),
        None => what.to_owned(),
    };
    match signature {
        Signature::Filesystem { fstype, label, used, .. } => {
            let used = used.map(|used| format!(" ({} in use)", bytes(used)));
            named(fstype, label) + &used.unwrap_or_default()
        }
        Signature::Luks { version, label, .. } => named(&format!("LUKS{version}"), label),
        Signature::ZfsMember { pool, hostname, state, written, .. } => {
            let of = hostname.as_ref().map(|host| format!(" of {host}")).unwrap_or_default();
            let state = match state {
                PoolState::Active => "not exported",
                PoolState::Exported => "exported",
                PoolState::Destroyed => "destroyed",
            };
            let written = written.map(|at| format!(", last written {}", utc(at)));
            format!("pool {pool}{of} ({state}{})", written.unwrap_or_default())
        }
        Signature::Lvm => "LVM physical volume".into(),
        Signature::MdRaid => "member of a RAID".into(),
        Signature::Swap => "swap".into(),
        Signature::Other { name } => name.clone(),
    }
}

fn holder(holder: &Holder) -> String {
    match holder {
        Holder::Mount { target } => format!("mounted at {target}"),
        Holder::Swap => "in use as swap".into(),
        Holder::Pool { name, .. } => format!("in the imported pool {name}"),
        Holder::Device { kernel_name, name } => {
            format!("used by {}", name.as_deref().unwrap_or(kernel_name))
        }
    }
}
