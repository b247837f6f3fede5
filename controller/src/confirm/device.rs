//! Devices and keys as they are named in the layout.

use keystone_protocol::plan::{ContainerUnlock, DeviceRef, KeyFile};

/// A device as it is named in the layout.
pub(super) fn device(at: &DeviceRef) -> String {
    match at {
        DeviceRef::Disk { disk } => format!("disk {disk}"),
        DeviceRef::Partition { disk, number } => format!("partition {number} of {disk}"),
        DeviceRef::Inner { on, number } => format!("partition {number} of {}", device(on)),
        DeviceRef::Volume { dataset } => format!("volume {dataset}"),
        DeviceRef::Mapper { name } => format!("container {name}"),
        DeviceRef::LogicalVolume { group, name } => format!("logical volume {group}/{name}"),
        DeviceRef::Array { name } => format!("RAID {name}"),
    }
}

/// Several devices.
pub(super) fn list(devices: &[DeviceRef]) -> String {
    devices.iter().map(device).collect::<Vec<_>>().join(", ")
}

/// What will open a container, a phrase.
pub(super) fn unlock(unlock: &ContainerUnlock) -> String {
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
        ContainerUnlock::KeyFile(file) => key_file(file),
    }
}

/// A key file, and which part of it.
pub(super) fn key_file(file: &KeyFile) -> String {
    let mut text = format!("the key file {} of the machine as it is now", file.path);
    if let Some(size) = file.size {
        text.push_str(&format!(", {size} bytes of it"));
    }
    if file.offset > 0 {
        text.push_str(&format!(", from byte {} on", file.offset));
    }
    if file.trim_newline {
        text.push_str(", its last line break dropped");
    }
    text
}
