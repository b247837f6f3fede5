//! From what a device is to its node.

use super::{BlockError, DevNo, Poll, Roots, ioctl, sysfs, wait};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a device may take to appear.
const APPEAR_BOUND: Duration = Duration::from_secs(60);

/// A block device's node, checked: it stands for the device number that sysfs gives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Node {
    /// Kernel name.
    pub name: String,
    /// The devtmpfs node.
    pub path: PathBuf,
    /// Device number.
    pub devno: DevNo,
}

/// The node of a kernel name, once devtmpfs has it.
pub fn node(roots: &Roots, name: &str) -> Result<Node, BlockError> {
    wait(&format!("the block device {name}"), APPEAR_BOUND, || Ok(look(roots, name)))
}

/// A partition of a disk.
pub fn partition(roots: &Roots, disk: &str, number: u32) -> Result<Node, BlockError> {
    wait(&format!("partition {number} of {disk}"), APPEAR_BOUND, || {
        let found = sysfs::partitions(roots, disk).into_iter().find(|p| p.number == number);
        Ok(match found {
            Some(partition) => look(roots, &partition.name),
            None => Poll::Pending("the kernel knows of none".to_owned()),
        })
    })
}

/// The volume of a dataset: the `zd*` device whose driver gives that name.
pub fn zvol(roots: &Roots, dataset: &str) -> Result<Node, BlockError> {
    wait(&format!("the block device of the volume {dataset}"), APPEAR_BOUND, || {
        Ok(match zvol_now(roots, dataset) {
            Some(name) => look(roots, &name),
            None => Poll::Pending("no zd device belongs to it".to_owned()),
        })
    })
}

/// The kernel name of a dataset's volume, if there is one now.
pub fn zvol_now(roots: &Roots, dataset: &str) -> Option<String> {
    zvols(roots).into_iter().find(|(_, of)| of == dataset).map(|(name, _)| name)
}

/// All volumes that are there now: kernel name and dataset.
pub fn zvols(roots: &Roots) -> Vec<(String, String)> {
    sysfs::whole_devices(roots)
        .into_iter()
        .filter(|name| name.strip_prefix("zd").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .filter_map(|name| {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(roots.node(&name))
                .ok()?;
            let dataset = ioctl::zvol_name(&file).ok()?;
            Some((name, dataset))
        })
        .collect()
}

/// The device-mapper device with this UUID.
pub fn mapper(roots: &Roots, uuid: &str) -> Result<Node, BlockError> {
    wait(&format!("the device-mapper device {uuid}"), APPEAR_BOUND, || {
        Ok(match mapper_now(roots, |_, found| found == uuid) {
            Some(name) => look(roots, &name),
            None => Poll::Pending("no dm device has that UUID".to_owned()),
        })
    })
}

/// The device-mapper UUID that libcryptsetup gives an open LUKS2 container (`dm_prepare_uuid` in
/// cryptsetup 2.7 `lib/libdevmapper.c`): the header's UUID without dashes, then the name.
pub fn luks2_mapper_uuid(luks_uuid: &str, name: &str) -> String {
    format!("CRYPT-LUKS2-{}-{name}", luks_uuid.replace('-', ""))
}

/// Kernel name of the first device-mapper device whose name and UUID fit, if there is one now.
pub fn mapper_now(roots: &Roots, fits: impl Fn(&str, &str) -> bool) -> Option<String> {
    sysfs::whole_devices(roots).into_iter().find(|kernel_name| {
        let name = sysfs::mapper_name(roots, kernel_name);
        let uuid = sysfs::attribute(roots, kernel_name, "dm/uuid");
        name.is_some_and(|name| fits(&name, uuid.as_deref().unwrap_or("")))
    })
}

/// A logical volume of LVM: the `dm-*` device of that name whose UUID says that LVM made it.
pub fn logical_volume(roots: &Roots, group: &str, volume: &str) -> Result<Node, BlockError> {
    let name = keystone_planner::lvm::mapper_name(group, volume);
    wait(&format!("the logical volume {group}/{volume}"), APPEAR_BOUND, || {
        let found = mapper_now(roots, |found, uuid| found == name && uuid.starts_with("LVM-"));
        Ok(match found {
            Some(kernel_name) => look(roots, &kernel_name),
            None => Poll::Pending("it is not active".to_owned()),
        })
    })
}

/// The software RAID that runs on all of these devices (kernel names), if there is one now.
pub fn array_now(roots: &Roots, members: &[&str]) -> Option<String> {
    let (first, others) = members.split_first()?;
    let arrays = sysfs::holders(roots, first);
    arrays
        .into_iter()
        .filter(|name| name.starts_with("md"))
        .find(|array| others.iter().all(|member| sysfs::holders(roots, member).contains(array)))
}

/// Kernel name of an array that holds one of `members`: theirs, or a part of it.
pub fn array_of_any(roots: &Roots, members: &[String]) -> Option<String> {
    let mut holders = members.iter().flat_map(|member| sysfs::holders(roots, member));
    holders.find(|holder| holder.starts_with("md"))
}

fn look(roots: &Roots, name: &str) -> Poll<Node> {
    let path = roots.node(name);
    let Some(devno) = sysfs::devno(roots, name) else {
        return Poll::Pending("the kernel knows of none".to_owned());
    };
    match DevNo::of_node(&path) {
        Some(found) if found == devno => Poll::Ready(Node { name: name.to_owned(), path, devno }),
        Some(found) => {
            Poll::Pending(format!("{} stands for {found}, not for {devno}", path.display()))
        }
        None => Poll::Pending(format!("there is no block device node {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;

    #[test]
    fn a_mapper_is_found_by_uuid_whatever_its_number() {
        let root = tempfile::tempdir().unwrap();
        for (dm, name, uuid) in [
            ("dm-0", "other", "CRYPT-PLAIN-other"),
            ("dm-3", "credstore", "CRYPT-LUKS2-0123abcd-credstore"),
        ] {
            tree(
                root.path(),
                &[
                    (&format!("sys/block/{dm}/dm/name"), name),
                    (&format!("sys/class/block/{dm}/dm/name"), name),
                    (&format!("sys/class/block/{dm}/dm/uuid"), uuid),
                ],
            );
        }
        let roots = Roots::below(root.path());
        let uuid = luks2_mapper_uuid("0123-abcd", "credstore");
        assert_eq!(mapper_now(&roots, |_, found| found == uuid).as_deref(), Some("dm-3"));
        assert_eq!(mapper_now(&roots, |name, _| name == "rpool"), None);
    }

    #[test]
    fn a_node_of_another_device_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[("sys/class/block/vda1/dev", "254:1"), ("dev/vda1", "a file, not a node")],
        );
        let roots = Roots::below(root.path());
        assert!(matches!(look(&roots, "vda1"), Poll::Pending(why) if why.contains("no block")));
    }
}
