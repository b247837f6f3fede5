//! Open device-mapper devices.

use crate::block::{Roots, holders, sysfs};
use crate::mount::MountPoint;
use keystone_protocol::inventory::Mapper;

/// All of them.
pub fn all(roots: &Roots, mounts: &[MountPoint]) -> Vec<Mapper> {
    sysfs::whole_devices(roots)
        .into_iter()
        .filter_map(|kernel_name| {
            let name = sysfs::mapper_name(roots, &kernel_name)?;
            Some(Mapper {
                name,
                uuid: sysfs::attribute(roots, &kernel_name, "dm/uuid").unwrap_or_default(),
                slaves: sysfs::slaves(roots, &kernel_name),
                mounts: holders::mounted_at(roots, &kernel_name, mounts),
                kernel_name,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;
    use crate::mount::table;

    #[test]
    fn a_container_on_a_volume() {
        let root = tempfile::tempdir().unwrap();
        tree(
            root.path(),
            &[
                ("sys/block/vda/dev", "254:0"),
                ("sys/class/block/vda/dev", "254:0"),
                ("sys/block/dm-0/dev", "253:0"),
                ("sys/class/block/dm-0/dev", "253:0"),
                ("sys/class/block/dm-0/dm/name", "credstore\n"),
                ("sys/class/block/dm-0/dm/uuid", "CRYPT-LUKS2-00-credstore\n"),
                ("sys/class/block/dm-0/slaves/zd0/dev", "230:0"),
            ],
        );
        let mounts =
            table::parse("50 1 253:0 / /run/keystone/m rw - ext4 /dev/mapper/credstore rw\n");
        let mappers = all(&Roots::below(root.path()), &mounts);
        assert_eq!(
            mappers,
            [Mapper {
                kernel_name: "dm-0".into(),
                name: "credstore".into(),
                uuid: "CRYPT-LUKS2-00-credstore".into(),
                slaves: vec!["zd0".into()],
                mounts: vec!["/run/keystone/m".into()],
            }]
        );
    }
}
