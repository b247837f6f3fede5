//! Who uses what: what is made of disks, and what of that, down to mounts. The kernel does not connect a
//! pool with its volumes; the inventory does.

use keystone_protocol::inventory::{Disk, Holder, Inventory};

/// How deep what is made of a disk may be nested: RAID, container, group, volume, container are five.
const DEPTH: usize = 16;

/// A tree for each disk or partition that something is made of or mounted from, a line for each use,
/// indented by two spaces a level.
pub(super) fn lines(inventory: &Inventory) -> Vec<String> {
    let mut lines = Vec::new();
    for disk in &inventory.disks {
        for (name, holders) in parts(disk) {
            let mut below = Vec::new();
            for holder in holders {
                if let Holder::Mount { target } = holder {
                    below.push(format!("  mounted at {target}"));
                }
            }
            uses(inventory, name, 1, &mut below);
            if !below.is_empty() {
                lines.push(name.to_owned());
                lines.append(&mut below);
            }
        }
    }
    lines
}

/// A disk and its partitions, with their holders.
fn parts(disk: &Disk) -> impl Iterator<Item = (&str, &[Holder])> {
    let partitions = disk.contents.partitions.iter();
    let partitions = partitions.map(|part| (part.kernel_name.as_str(), part.holders.as_slice()));
    [(disk.kernel_name.as_str(), disk.contents.holders.as_slice())].into_iter().chain(partitions)
}

/// What is made of the device `name`, and what of that.
fn uses(inventory: &Inventory, name: &str, depth: usize, lines: &mut Vec<String>) {
    if depth > DEPTH {
        return;
    }
    let at = |depth: usize, text: String| format!("{}{text}", "  ".repeat(depth));
    let mounted = |targets: &[String], depth: usize, lines: &mut Vec<String>| {
        lines.extend(targets.iter().map(|target| at(depth, format!("mounted at {target}"))));
    };
    if inventory.swaps.iter().any(|swap| swap == name) {
        lines.push(at(depth, "in use as swap".into()));
    }
    let is_of = |devices: &[String]| devices.iter().any(|device| device == name);
    for mapper in inventory.mappers.iter().filter(|mapper| is_of(&mapper.slaves)) {
        lines.push(at(depth, format!("/dev/mapper/{} ({})", mapper.name, mapper.uuid)));
        mounted(&mapper.mounts, depth + 1, lines);
        uses(inventory, &mapper.kernel_name, depth + 1, lines);
    }
    for array in inventory.arrays.iter().filter(|array| is_of(&array.slaves)) {
        lines.push(at(depth, format!("RAID {} ({})", array.name, array.kernel_name)));
        mounted(&array.mounts, depth + 1, lines);
        uses(inventory, &array.kernel_name, depth + 1, lines);
    }
    for pool in inventory.pools.iter().filter(|pool| is_of(&pool.devices)) {
        lines.push(at(depth, format!("pool {} {}", pool.name, pool.health)));
        // All is shown below the pool's first device, and named below the others.
        if pool.devices.first().is_some_and(|first| first != name) {
            continue;
        }
        mounted(&pool.mounts, depth + 1, lines);
        for (volume, dataset) in &pool.volumes {
            lines.push(at(depth + 1, format!("volume {dataset} ({volume})")));
            uses(inventory, volume, depth + 2, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystone_protocol::inventory::{ImportedPool, Mapper, RunningArray};

    #[test]
    fn a_container_on_a_volume_is_seen_from_its_disk() {
        let mut inventory: Inventory =
            serde_json::from_str(include_str!("../../../planner/src/fixtures/machine.json"))
                .unwrap();
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&inventory), ["sr0", "  mounted at /iso"]);
        inventory.disks.retain(|disk| !disk.boot_medium);
        assert_eq!(lines(&inventory), Vec::<String>::new());
        let names: Vec<String> =
            inventory.disks.iter().map(|disk| disk.kernel_name.clone()).collect();
        inventory.pools = vec![ImportedPool {
            name: "rpool".into(),
            guid: "1".into(),
            health: "ONLINE".into(),
            devices: vec![names[0].clone(), "md0".into()],
            volumes: [("zd0".to_owned(), "rpool/credstore".to_owned())].into(),
            mounts: text(&["/mnt", "/mnt/nix"]),
        }];
        let mapper = |kernel_name: &str, name: &str, slave: &str, mounts: &[&str]| Mapper {
            kernel_name: kernel_name.into(),
            name: name.into(),
            uuid: format!("CRYPT-{name}"),
            slaves: text(&[slave]),
            mounts: text(mounts),
        };
        inventory.mappers = vec![
            mapper("dm-0", "credstore", "zd0", &["/etc/credstore"]),
            mapper("dm-1", "swap", "dm-0", &[]),
        ];
        inventory.arrays = vec![RunningArray {
            kernel_name: "md0".into(),
            name: "raid".into(),
            slaves: vec![names[1].clone()],
            mounts: Vec::new(),
        }];
        inventory.swaps = text(&["dm-1"]);
        inventory.disks[0].contents.holders = vec![Holder::Mount { target: "/old".into() }];
        let expected = format!(
            "{}\n  mounted at /old\n  pool rpool ONLINE\n    mounted at /mnt\n    mounted at /mnt/nix\n    \
             volume rpool/credstore (zd0)\n      /dev/mapper/credstore (CRYPT-credstore)\n        \
             mounted at /etc/credstore\n        /dev/mapper/swap (CRYPT-swap)\n          \
             in use as swap\n{}\n  RAID raid (md0)\n    pool rpool ONLINE",
            names[0], names[1]
        );
        assert_eq!(lines(&inventory).join("\n"), expected);
        // What would be endless is not followed for ever.
        inventory.mappers[1].slaves = text(&["dm-1"]);
        inventory.mappers[0].slaves = text(&["dm-1", "zd0"]);
        assert!(lines(&inventory).len() < 200);
    }
}
