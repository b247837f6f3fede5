//! udev's view: its database below `/run/udev`.
//!
//! `data/b<major>:<minor>` is written by systemd-udevd when it has processed a device's event
//! (systemd v257, `src/libsystemd/sd-device/device-private.c`, `device_update_db`); `queue`
//! exists while events are being processed (`src/udev/udev-manager.c`), `control` while udevd
//! runs.

use super::{DevNo, Roots};
use std::collections::BTreeMap;

/// What udev recorded about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Links below `/dev` (`disk/by-id/virtio-target`), sorted.
    pub links: Vec<String>,
    /// Properties.
    pub properties: BTreeMap<String, String>,
}

impl Record {
    /// Parses a database file: `S:link`, `E:KEY=value`; other lines are not needed here.
    pub fn parse(text: &str) -> Self {
        let mut record = Record::default();
        for line in text.lines() {
            if let Some(link) = line.strip_prefix("S:") {
                record.links.push(link.to_owned());
            } else if let Some((key, value)) =
                line.strip_prefix("E:").and_then(|property| property.split_once('='))
            {
                record.properties.insert(key.to_owned(), value.to_owned());
            }
        }
        record.links.sort();
        record
    }

    /// A property, if it is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What udev recorded about a block device, if it did.
pub fn record(roots: &Roots, devno: DevNo) -> Option<Record> {
    let text = std::fs::read(roots.run.join(format!("udev/data/b{devno}"))).ok()?;
    Some(Record::parse(&String::from_utf8_lossy(&text)))
}

/// Whether udevd runs here. Where it does not, nobody writes the database.
pub fn is_running(roots: &Roots) -> bool {
    roots.run.join("udev/control").exists()
}

/// Whether udevd has no event in its queue.
pub fn is_idle(roots: &Roots) -> bool {
    !roots.run.join("udev/queue").exists()
}

/// A name as udev records it: of ASCII only letters, digits and `#+-.:=@_` stay, the rest is
/// `\x2f`. Source: util-linux 2.41, `libblkid/src/encode.c`, `blkid_encode_string`.
pub fn encoded(name: &str) -> String {
    let mut encoded = String::new();
    for character in name.chars() {
        if character.is_ascii()
            && !character.is_ascii_alphanumeric()
            && !"#+-.:=@_".contains(character)
        {
            encoded.push_str(&format!("\\x{:02x}", character as u32));
        } else {
            encoded.push(character);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("disk-main-ESP"), "disk-main-ESP");
        assert_eq!(encoded("a b/c\\ü"), "a\\x20b\\x2fc\\x5cü");
    }

    #[test]
    fn parses_a_record() {
        let record = Record::parse(
            "S:disk/by-path/pci-0000:00:04.0-part1\nS:disk/by-id/virtio-target-part1\nL:0\n\
             I:4312099\nE:ID_PART_ENTRY_UUID=1b6a2bfa-e92b-184c-a8a7-ed0610d54821\n\
             E:ID_PART_ENTRY_NAME=disk-root-ESP\nE:ID_FS_LABEL=\nE:ODD=a=b\nG:systemd\nV:1\n",
        );
        assert_eq!(
            record.links,
            ["disk/by-id/virtio-target-part1", "disk/by-path/pci-0000:00:04.0-part1"]
        );
        assert_eq!(record.get("ID_PART_ENTRY_NAME"), Some("disk-root-ESP"));
        assert_eq!(record.get("ID_FS_LABEL"), None);
        assert_eq!(record.get("ODD"), Some("a=b"));
    }
}
