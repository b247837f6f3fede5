//! Disks and their identity.

use crate::block::sysfs::{attribute, devno, dir, number, size, whole_devices};
use crate::block::udev::{self, Record};
use crate::block::{DevNo, Roots};
use keystone_protocol::inventory::{Contents, Disk, DiskIdentity};
use std::fs;
use std::path::Path;

/// Kernel names of all disks with a medium in them: not what is made of others (dm, md, zd, loop),
/// nor memory (ram, zram), floppies, boot areas of MMC, or paths hidden below a multipath NVMe.
pub fn names(roots: &Roots) -> Vec<String> {
    whole_devices(roots)
        .into_iter()
        .filter(|name| is_disk_name(name))
        .filter(|name| number(roots, name, "hidden") != Some(1))
        .filter(|name| size(roots, name).is_some_and(|size| size > 0))
        .filter(|name| !is_empty_drive(roots, name))
        .collect()
}

/// An optical drive shows the size of its last medium, or a made-up one; opening it tells.
fn is_empty_drive(roots: &Roots, name: &str) -> bool {
    name.starts_with("sr") && fs::File::open(roots.node(name)).is_err()
}

fn is_disk_name(name: &str) -> bool {
    const OTHERS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "zd", "fd", "nbd", "drbd"];
    let mmc_area = name.starts_with("mmcblk")
        && (name.contains("boot") || name.contains("rpmb") || name.contains("gp"));
    !mmc_area && !OTHERS.iter().any(|other| name.starts_with(other))
}

/// Describes a disk.
pub fn describe(roots: &Roots, name: &str, contents: Contents, boot_medium: bool) -> Disk {
    let devno = devno(roots, name);
    let record = devno.and_then(|devno| udev::record(roots, devno));
    let links = links(roots, devno, record.as_ref());
    let record = record.unwrap_or_default();
    let real_path = fs::canonicalize(dir(roots, name)).unwrap_or_default();
    Disk {
        identity: identity(roots, name, &record, &links),
        devno: devno.map(|devno| devno.to_string()).unwrap_or_default(),
        physical_sector_size: number(roots, name, "queue/physical_block_size").unwrap_or(512)
            as u32,
        transport: transport(name, &real_path).map(str::to_owned),
        removable: number(roots, name, "removable") == Some(1),
        rotational: number(roots, name, "queue/rotational") == Some(1),
        read_only: number(roots, name, "ro") == Some(1),
        discard: crate::block::sysfs::can_discard(roots, name),
        kernel_name: name.to_owned(),
        links,
        boot_medium,
        contents,
    }
}

fn identity(roots: &Roots, name: &str, record: &Record, links: &[String]) -> DiskIdentity {
    let sysfs = |names: &[&str]| names.iter().find_map(|attr| attribute(roots, name, attr));
    let udev = |keys: &[&str]| keys.iter().find_map(|key| record.get(key)).map(str::to_owned);
    let serial = sysfs(&["serial", "device/serial"])
        .or_else(|| udev(&["ID_SERIAL_SHORT", "ID_SCSI_SERIAL", "ID_SERIAL"]));
    DiskIdentity {
        name: best_link(links)
            .or_else(|| serial.as_ref().map(|serial| format!("serial:{serial}")))
            .unwrap_or_else(|| name.to_owned()),
        serial,
        wwn: udev(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]).or_else(|| sysfs(&["wwid", "device/wwid"])),
        model: sysfs(&["device/model"]).or_else(|| udev(&["ID_MODEL"])),
        size: size(roots, name).unwrap_or(0),
        sector_size: number(roots, name, "queue/logical_block_size").unwrap_or(512) as u32,
    }
}

/// All links to a disk below `/dev/disk`: those udev recorded for it, or, where it recorded
/// nothing, those that lead to it now.
fn links(roots: &Roots, devno: Option<DevNo>, record: Option<&Record>) -> Vec<String> {
    if let Some(record) = record {
        let links = record.links.iter().filter(|link| link.starts_with("disk/"));
        return links.map(|link| format!("/dev/{link}")).collect();
    }
    let mut found = Vec::new();
    for kind in entries(&roots.dev.join("disk")) {
        for link in entries(&kind) {
            if devno.is_some() && DevNo::of_node(&link) == devno {
                let below = link.strip_prefix(&roots.dev).unwrap_or(&link);
                found.push(format!("/dev/{}", below.display()));
            }
        }
    }
    found.sort();
    found
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The link that says most to a person: model and serial rather than numbers alone, and the
/// shortest of those.
fn best_link(links: &[String]) -> Option<String> {
    const KINDS: [&str; 9] =
        ["virtio-", "nvme-", "ata-", "usb-", "mmc-", "scsi-S", "scsi-", "wwn-", ""];
    let rank = |name: &str| {
        let numbers = ["nvme-eui.", "nvme-nvme.", "nvme-uuid."].iter().any(|p| name.starts_with(p));
        let kind = KINDS.iter().position(|kind| name.starts_with(kind)).unwrap_or(KINDS.len());
        (numbers, kind, name.len())
    };
    links
        .iter()
        .filter_map(|link| Some((link, link.strip_prefix("/dev/disk/by-id/")?)))
        .filter(|(_, name)| !["dm-", "lvm-", "md-"].iter().any(|prefix| name.starts_with(prefix)))
        .min_by_key(|(_, name)| rank(name))
        .map(|(link, _)| link.clone())
}

/// How a disk is attached, from its place in the device tree.
fn transport(name: &str, path: &Path) -> Option<&'static str> {
    let path = path.to_string_lossy();
    let by_name = [("vd", "virtio"), ("nvme", "nvme"), ("mmcblk", "mmc"), ("xvd", "xen")];
    if let Some((_, transport)) = by_name.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Some(transport);
    }
    let by_path = [
        ("/usb", "usb"),
        ("/ata", "sata"),
        ("/virtio", "virtio-scsi"),
        ("/session", "iscsi"),
        ("/rport-", "fc"),
        ("/end_device-", "sas"),
        ("/host", "scsi"),
    ];
    by_path.iter().find(|(part, _)| path.contains(part)).map(|(_, transport)| *transport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;

    #[test]
    fn what_is_a_disk() {
        for name in ["vda", "sda", "sr0", "nvme0n1", "mmcblk0", "xvda"] {
            assert!(is_disk_name(name), "{name}");
        }
        for name in ["loop0", "ram1", "zram0", "dm-0", "md127", "zd16", "fd0", "mmcblk0boot0"] {
            assert!(!is_disk_name(name), "{name}");
        }
    }

    #[test]
    fn the_best_link() {
        let best = |links: &[&str]| {
            let links: Vec<String> = links.iter().map(|l| format!("/dev/disk/{l}")).collect();
            best_link(&links).map(|link| link.replace("/dev/disk/by-id/", ""))
        };
        assert_eq!(best(&["by-path/pci-0000:00:04.0"]), None);
        assert_eq!(
            best(&["by-id/nvme-eui.0025385", "by-id/nvme-Samsung_1_1", "by-id/nvme-Samsung_1"])
                .as_deref(),
            Some("nvme-Samsung_1")
        );
        assert_eq!(
            best(&["by-id/wwn-0x5002", "by-id/ata-WDC_1", "by-id/scsi-35002"]).as_deref(),
            Some("ata-WDC_1")
        );
        assert_eq!(best(&["by-id/lvm-pv-uuid-x", "by-id/wwn-0x1"]).as_deref(), Some("wwn-0x1"));
    }

    #[test]
    fn transports() {
        let of = |name: &str, path: &str| transport(name, Path::new(path));
        assert_eq!(
            of("vda", "/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda"),
            Some("virtio")
        );
        assert_eq!(of("sda", "/sys/devices/pci0000:00/usb2/2-1/host4/block/sda"), Some("usb"));
        assert_eq!(of("sda", "/sys/devices/pci0000:00/ata1/host0/block/sda"), Some("sata"));
        assert_eq!(of("sda", "/sys/devices/pci0/virtio2/host2/block/sda"), Some("virtio-scsi"));
        assert_eq!(of("pmem0", "/sys/devices/platform/pmem0"), None);
    }

    #[test]
    fn a_virtio_disk() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[
                ("sys/block/vda/size", "x"),
                ("sys/class/block/vda/dev", "254:0\n"),
                ("sys/class/block/vda/size", "41943040\n"),
                ("sys/class/block/vda/serial", "target"),
                ("sys/class/block/vda/ro", "0\n"),
                ("sys/class/block/vda/removable", "0\n"),
                ("sys/class/block/vda/queue/logical_block_size", "4096\n"),
                ("sys/class/block/vda/queue/physical_block_size", "4096\n"),
                ("sys/class/block/vda/queue/rotational", "1\n"),
                ("run/udev/data/b254:0", "S:disk/by-id/virtio-target\nS:disk/by-diskseq/9\nS:vd\n"),
            ],
        );
        let roots = Roots::below(root.path());
        assert_eq!(names(&roots), ["vda"]);
        let disk = describe(&roots, "vda", Contents::default(), false);
        assert_eq!(disk.identity.name, "/dev/disk/by-id/virtio-target");
        assert_eq!(disk.identity.serial.as_deref(), Some("target"));
        assert_eq!((disk.identity.size, disk.identity.sector_size), (20 << 30, 4096));
        assert_eq!(disk.links, ["/dev/disk/by-diskseq/9", "/dev/disk/by-id/virtio-target"]);
        assert_eq!((disk.devno.as_str(), disk.rotational, disk.read_only), ("254:0", true, false));
    }
}
