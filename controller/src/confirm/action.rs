//! A step's exact parameters as text: everything that is in the plan.

use crate::ui::format::{bytes, count};
use keystone_protocol::plan::{
    Action, ContainerUnlock, DeviceRef, MountPlan, MountSource, PartitionTable, PlannedPartition,
    PoolPlan, Release, Vdev,
};
use std::collections::BTreeMap;

/// A device as it is named in the layout.
pub fn device(device: &DeviceRef) -> String {
    match device {
        DeviceRef::Disk { disk } => format!("disk {disk}"),
        DeviceRef::Partition { disk, number } => format!("partition {number} of {disk}"),
        DeviceRef::Volume { dataset } => format!("volume {dataset}"),
        DeviceRef::Mapper { name } => format!("container {name}"),
    }
}

/// What will open a container, a phrase.
pub fn unlock(unlock: &ContainerUnlock) -> String {
    match unlock {
        ContainerUnlock::Tpm2 { pcrs, bank, pin } => {
            let pin = if *pin { " and a PIN" } else { "" };
            let bound = match pcrs.as_slice() {
                [] => "no PCR".to_owned(),
                pcrs => {
                    let list: Vec<String> = pcrs.iter().map(u8::to_string).collect();
                    format!("PCR {} ({bank})", list.join("+"))
                }
            };
            format!("TPM2 bound to {bound}{pin}; a recovery key beside it")
        }
        ContainerUnlock::Password => "a password typed at boot; a recovery key beside it".into(),
        ContainerUnlock::KeyFile { path, trim_newline } => {
            let trim = if *trim_newline { ", its last line break dropped" } else { "" };
            format!("the key file {path} of the machine as it is now{trim}")
        }
    }
}

/// The lines below a step's title; none where the title says it all.
pub fn parameters(action: &Action) -> Vec<String> {
    match action {
        Action::Release(release) => release_lines(release),
        Action::WipeDisk { .. }
        | Action::SetProfile { .. }
        | Action::HostKey
        | Action::InstallBootloader { .. }
        | Action::WriteReport
        | Action::Unmount
        | Action::CloseLuks { .. }
        | Action::ExportPool { .. }
        | Action::ProveSeal => Vec::new(),
        Action::Partition(table) => table_lines(table),
        Action::MakeVfat { device: at } => vec![format!("FAT32 on {}", device(at))],
        Action::MakeExt4 { device: at, extra_args } => {
            let mut line = format!("ext4 on {}", device(at));
            if !extra_args.is_empty() {
                line.push_str(&format!(", with {}", extra_args.join(" ")));
            }
            vec![line]
        }
        Action::CreatePool(pool) => pool_lines(pool),
        Action::CreateVolume { dataset, size, properties } => {
            let mut lines = vec![format!("{dataset}, {}", bytes(*size))];
            lines.extend(property_lines("", properties));
            lines
        }
        Action::FormatLuks { device: at, name } => {
            vec![format!("LUKS2 (argon2id) on {}, opened as {name}", device(at))]
        }
        Action::Enroll { unlock: by, .. } => vec![unlock(by)],
        Action::CreateKey { device: at, file, bytes } => {
            vec![format!("{file}, {bytes} random bytes, on {}", device(at))]
        }
        Action::CreateDataset { properties, key, .. } => {
            let mut lines = property_lines("", properties);
            if let Some(key) = key {
                lines.push(format!("key: {} on {}", key.file, device(&key.device)));
            }
            lines
        }
        Action::Mount(mount) => mount_lines(mount),
        Action::ReceiveClosure { paths, bytes: size } => {
            vec![format!("{}, {}", count(*paths, "store path"), bytes(*size))]
        }
        Action::VerifyBootloader { esp, mountpoint, .. } => {
            vec![format!("ESP: {} at {mountpoint}", device(esp))]
        }
    }
}

fn release_lines(release: &Release) -> Vec<String> {
    vec![match release {
        Release::Unmount { target } => format!("unmount {target}"),
        Release::Swapoff { device: at } => format!("stop swapping to {}", device(at)),
        Release::CloseMapper { name, uuid } => format!("close {name} ({uuid})"),
        Release::DestroyPool { name, guid } => format!("destroy the imported pool {name} ({guid})"),
    }]
}

fn table_lines(table: &PartitionTable) -> Vec<String> {
    table.partitions.iter().map(partition_line).collect()
}

fn partition_line(partition: &PlannedPartition) -> String {
    let mut line = format!(
        "{} {}: type {}, sectors {} to {}",
        partition.number,
        partition.label,
        partition.type_guid,
        partition.first_lba,
        partition.last_lba
    );
    if let Some(guid) = &partition.guid {
        line.push_str(&format!(", GUID {guid}"));
    }
    if partition.attributes != 0 {
        line.push_str(&format!(", attributes {:#x}", partition.attributes));
    }
    line
}

fn pool_lines(pool: &PoolPlan) -> Vec<String> {
    let list = |members: &[DeviceRef]| members.iter().map(device).collect::<Vec<_>>().join(", ");
    let mut lines: Vec<String> = pool
        .vdevs
        .iter()
        .map(|vdev| match vdev {
            Vdev::Disk { member } => device(member),
            Vdev::Mirror { members } => format!("mirror of {}", list(members)),
            Vdev::Raidz { parity, members } => format!("raidz{parity} of {}", list(members)),
        })
        .collect();
    lines.extend(property_lines("pool: ", &pool.properties));
    lines.extend(property_lines("root dataset: ", &pool.root_properties));
    lines.push(format!("features ({}): {}", pool.features.len(), pool.features.join(" ")));
    lines
}

fn property_lines(head: &str, properties: &BTreeMap<String, String>) -> Vec<String> {
    if properties.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![format!("{head}{}", list.join(" "))]
}

fn mount_lines(mount: &MountPlan) -> Vec<String> {
    let source = match &mount.source {
        MountSource::Dataset { dataset } => format!("dataset {dataset}"),
        MountSource::Filesystem { device: at, fstype } => format!("{fstype} on {}", device(at)),
    };
    let options = match mount.options.is_empty() {
        true => String::new(),
        false => format!(" ({})", mount.options.join(",")),
    };
    vec![format!("{source} at {}{options}", mount.target)]
}
