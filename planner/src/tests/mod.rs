//! Plans and refusals for a made-up machine.

mod hooks;
mod kept;
mod layouts;
mod legacy;
mod marks;
mod mirror;
mod modes;
mod occupied;
mod parted;
mod properties;
mod refusals;
mod room;
mod steps;

use super::plan;
use keystone_protocol::inventory::*;
use keystone_protocol::message::Refusal;
use keystone_protocol::options::{ClosureFacts, FstabEntry, InstallOptions};
use keystone_protocol::plan::Plan;

const SINGLE: &str = include_str!("../../../tests/layouts/keystone/single-disk-root.json");
const OS_SINGLE: &str = include_str!("../../../tests/layouts/keystone/os-zfs-single.json");
const OS_MIRROR: &str = include_str!("../../../tests/layouts/keystone/os-zfs-mirror.json");
const OS_EXT4: &str = include_str!("../../../tests/layouts/keystone/os-ext4-single.json");

/// A QEMU machine with TPM, the installer's medium, and blank disks `vda` (virtio-target), `vdb`
/// (virtio-a) and `vdc` (virtio-b).
fn machine() -> Inventory {
    serde_json::from_str(include_str!("../fixtures/machine.json")).unwrap()
}

/// Something that makes a case another one.
type Change = fn(&mut Case);

/// Everything that a plan is made from.
#[derive(Clone)]
struct Case {
    inventory: Inventory,
    layout: String,
    options: InstallOptions,
    closure: ClosureFacts,
}

impl Case {
    /// A blank machine and a system that agrees with `layout`.
    fn new(layout: &str) -> Self {
        Case {
            inventory: machine(),
            layout: layout.to_owned(),
            options: InstallOptions::default(),
            closure: closure(layout),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Replaces a piece of the layout's text, which must be there.
    fn layout(mut self, from: &str, to: &str) -> Self {
        assert!(self.layout.contains(from), "{from:?} is not in the layout");
        self.layout = self.layout.replace(from, to);
        self
    }

    fn disk(&mut self, kernel_name: &str) -> &mut Disk {
        let disks = &mut self.inventory.disks;
        disks.iter_mut().find(|disk| disk.kernel_name == kernel_name).unwrap()
    }

    fn result(&self) -> Result<Plan, Refusal> {
        plan(&self.inventory, &self.layout, &self.options, &self.closure)
    }

    fn plan(&self) -> Plan {
        self.result().unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    fn refusal(&self) -> Refusal {
        match self.result() {
            Err(refusal) => refusal,
            Ok(plan) => panic!("not refused: {:?}", ids(&plan)),
        }
    }
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.id.as_str()).collect()
}

/// The facts of a system whose fstab agrees with the layout.
fn closure(layout: &str) -> ClosureFacts {
    use keystone_protocol::layout::Layout;
    let layout = Layout::parse(layout).unwrap();
    let fstab = layout.mounts().into_iter().map(|mount| FstabEntry {
        source: mount.source(),
        target: mount.target.to_owned(),
        fstype: mount.fstype().to_owned(),
        options: vec!["defaults".to_owned()],
    });
    ClosureFacts {
        toplevel: "/nix/store/0c1pq9l1v2gqq4fhvqzs9mh2gqzs4xz1-nixos-system-vault-25.05".to_owned(),
        system: "x86_64-linux".to_owned(),
        paths: 612,
        nar_bytes: 1_932_735_283,
        boot_bytes: 58_720_256,
        hostid: Some(0xdead_beef),
        hostname: Some("vault".to_owned()),
        fstab: fstab.collect(),
        zfs_version: Some("2.3.4".to_owned()),
        enrols_secure_boot_keys: false,
    }
}
