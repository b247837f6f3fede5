//! The EFI system partitions of a plan. After a failure none boots the unfinished system: from one
//! that this run formatted every boot loader goes; from one that was there only what is new, since
//! the rest is somebody else's.

use super::{Came, Machine};
use crate::bootloader::{Variables, unboot};
use crate::ensure::Ensured;
use crate::gpt;
use crate::mount::TempMount;
use keystone_protocol::plan::{Action, DeviceRef, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// What ESPs are mounted as. Not every kernel that tests run on has FAT.
const FSTYPE: &str = if cfg!(test) { "ext4" } else { "vfat" };

/// What is known of the ESPs before a boot loader is installed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Esps {
    /// What this run made a file system on, whatever it is for.
    formatted: BTreeSet<DeviceRef>,
    /// ESPs that were there, and what was on them; `None` if that could not be seen.
    found: Vec<(DeviceRef, Option<unboot::Before>)>,
}

impl Machine {
    /// Notes that a file system was made.
    pub fn formatted(&mut self, device: &DeviceRef, ensured: Ensured) {
        if ensured == Ensured::Created {
            self.esps.formatted.insert(device.clone());
        }
    }

    /// Notes what is on the ESPs that were there, once, before a boot loader is installed.
    pub fn look_at_esps(&mut self, plan: &Plan) {
        for esp in esps(plan) {
            let known = self.esps.formatted.contains(esp)
                || self.esps.found.iter().any(|(found, _)| found == esp);
            if known {
                continue;
            }
            let before = self.on_esp(esp, unboot::look);
            let before = before.inspect_err(|why| tracing::warn!("{esp:?} can't be seen: {why}"));
            self.esps.found.push((esp.clone(), before.ok()));
        }
    }

    /// Takes boot loaders and boot entries of this run away again from the ESP and its copies, and
    /// says so.
    pub(super) fn unboot(&self, plan: &Plan) -> Vec<String> {
        let mut said = Vec::new();
        for esp in esps(plan) {
            match self.esps.formatted.contains(esp) {
                true => self.unboot_formatted(esp, &mut said),
                false => self.unboot_found(esp, &mut said),
            }
        }
        said
    }

    /// Where the loaders can't be removed, the whole table of the disk is, if this run made it.
    fn unboot_formatted(&self, esp: &DeviceRef, said: &mut Vec<String>) {
        let name = esp.disk().unwrap_or_default();
        self.remove_entries(esp, None, said);
        match self.on_esp(esp, unboot::remove_loaders) {
            Ok(Ensured::Created) => {
                said.push(format!(
                    "the boot loader on disk {name} was removed again: it does not boot"
                ));
            }
            Ok(Ensured::AlreadySo) => {}
            Err(why) => {
                tracing::error!("the boot loader can't be removed from the ESP: {why}");
                let disk = self.disks.get(name).filter(|disk| disk.came == Some(Came::Made));
                let removed = match disk {
                    Some(disk) => gpt::invalidate(&self.roots, &disk.kernel_name)
                        .map_err(|error| error.to_string()),
                    None => Err(why),
                };
                said.push(match removed {
                    Ok(()) => {
                        format!("the partition table of disk {name} was removed: it does not boot")
                    }
                    Err(error) => format!("disk {name} MAY LOOK INSTALLED AND BOOT: {error}"),
                });
            }
        }
    }

    fn unboot_found(&self, esp: &DeviceRef, said: &mut Vec<String>) {
        let name = esp.disk().unwrap_or_default();
        // Before it was looked at, nothing was installed.
        let found = self.esps.found.iter().find(|(found, _)| found == esp);
        let Some((_, before)) = found else { return };
        let removed = match before {
            Some(before) => self.on_esp(esp, |path| unboot::remove_new(path, before)),
            None => Err("what was on it before is not known, so nothing was removed".to_owned()),
        };
        match removed {
            Ok(files) if files.is_empty() => {}
            Ok(files) => {
                self.remove_entries(esp, Some(&files), said);
                said.push(format!(
                    "what this run added to the EFI system partition of disk {name} was removed \
                     again; files that were there before stay, as this run left them"
                ));
            }
            Err(why) => said.push(format!(
                "the EFI system partition of disk {name} was there before and is left as it is: \
                 IT MAY BOOT THE UNFINISHED SYSTEM: {why}"
            )),
        }
    }

    /// Removes the boot entries for an ESP: those that start one of `files`, or all.
    fn remove_entries(&self, esp: &DeviceRef, files: Option<&[String]>, said: &mut Vec<String>) {
        let Ok(partition) = self.partition(esp) else { return };
        let variables = Variables::new(self.roots.sys.join("firmware/efi/efivars"));
        let removed = unboot::remove_entries(&variables, partition.guid, |option| match files {
            Some(files) => files.iter().any(|file| option.is(partition.guid, file)),
            None => true,
        });
        let name = esp.disk().unwrap_or_default();
        match removed {
            Ok(numbers) if numbers.is_empty() => {}
            Ok(_) => said.push(match files {
                Some(_) => format!("this run's boot entries for disk {name} were removed again"),
                None => format!("the boot entries for disk {name} were removed again"),
            }),
            Err(error) => tracing::warn!(%error, "boot entries stay"),
        }
    }

    fn on_esp<T>(
        &self,
        esp: &DeviceRef,
        act: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, String> {
        let node = self.node(esp).map_err(|error| error.to_string())?;
        // It may be mounted to be written already; then it can't be mounted in another way.
        let mount = TempMount::new(&self.roots, &node.path, FSTYPE, false)
            .map_err(|error| error.to_string())?;
        let done = act(mount.path()).map_err(|error| error.to_string());
        mount.unmount().map_err(|error| error.to_string())?;
        done
    }
}

/// The ESP that the boot loader is installed on, and its copies.
fn esps(plan: &Plan) -> impl Iterator<Item = &DeviceRef> {
    plan.steps.iter().filter_map(|step| match &step.action {
        Action::VerifyBootloader { esp, .. } => Some(esp),
        Action::CopyEsp { to, .. } => Some(to),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Disk;
    use super::*;
    use crate::block::{Roots, find};
    use crate::testing::{Loop, run};
    use keystone_protocol::inventory::Inventory;
    use keystone_protocol::plan::{PartitionTable, PlannedPartition, Step};
    use std::fs;
    use std::os::unix::fs::symlink;

    const FILES: [&str; 2] = ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"];

    fn esp(disk: &str) -> DeviceRef {
        DeviceRef::Partition { disk: disk.to_owned(), number: 1 }
    }

    /// A plan that installs on the disk `root` and copies to the disk `mirror`.
    fn plan() -> Plan {
        let inventory: Inventory =
            serde_json::from_str(include_str!("../../../../planner/src/fixtures/machine.json"))
                .unwrap();
        let layout = include_str!("../../../../tests/layouts/keystone/single-disk-root.json");
        let mut plan =
            crate::plan::plan_with(&inventory, layout, &Default::default(), None).unwrap();
        let step = |action| Step { id: "step".to_owned(), title: "step".to_owned(), action };
        plan.steps = vec![
            step(Action::VerifyBootloader {
                toplevel: "/nix/store/x".to_owned(),
                esp: esp("root"),
                mountpoint: "/boot".to_owned(),
            }),
            step(Action::CopyEsp { mountpoint: "/boot".to_owned(), to: esp("mirror") }),
        ];
        plan
    }

    /// A machine with the disks of [`plan`], and efivars of its own.
    struct Bench {
        machine: Machine,
        plan: Plan,
        dir: tempfile::TempDir,
        _disks: [Loop; 2],
    }

    impl Bench {
        /// Both disks get a table with an ESP.
        fn new(keep: bool) -> Bench {
            let plan = plan();
            let inventory: Inventory =
                serde_json::from_str(include_str!("../../../../planner/src/fixtures/machine.json"))
                    .unwrap();
            let mut machine = Machine::new(&inventory, &plan);
            let identity = machine.disks.values().next().unwrap().identity.clone();
            machine.disks.clear();
            let dir = tempfile::tempdir().unwrap();
            let sys = dir.path().join("sys");
            fs::create_dir_all(sys.join("firmware/efi/efivars")).unwrap();
            for link in ["block", "class", "dev", "devices"] {
                symlink(Path::new("/sys").join(link), sys.join(link)).unwrap();
            }
            let disks = [Loop::new(64 << 20, 512), Loop::new(64 << 20, 512)];
            for (name, disk) in ["root", "mirror"].into_iter().zip(&disks) {
                let table = PartitionTable {
                    device: DeviceRef::Disk { disk: name.to_owned() },
                    keep,
                    partitions: vec![PlannedPartition {
                        number: 1,
                        name: "ESP".to_owned(),
                        label: "ESP".to_owned(),
                        type_guid: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".to_owned(),
                        guid: None,
                        first_lba: 2048,
                        last_lba: 98_303,
                        attributes: 0,
                    }],
                    hybrid: None,
                };
                let kernel_name = disk.name().to_owned();
                let sequence = super::super::sequence(&Roots::default(), &kernel_name);
                let of_plan = Disk {
                    kernel_name,
                    sequence,
                    wiped: false,
                    identity: identity.clone(),
                    guids: None,
                    partitions: Vec::new(),
                    came: None,
                };
                machine.disks.insert(name.to_owned(), of_plan);
                let (ensured, ids) = gpt::ensure(&Roots::default(), disk.name(), &table).unwrap();
                machine.partitioned(&table, ids, ensured);
                let node = find::partition(&Roots::default(), disk.name(), 1).unwrap();
                run("e2fsprogs", "mkfs.ext4", &["-q", node.path.to_str().unwrap()]);
            }
            machine.roots = Roots { sys, run: dir.path().to_owned(), ..Roots::default() };
            Bench { machine, plan, dir, _disks: disks }
        }

        fn put(&self, disk: &str, files: &[&str]) {
            self.machine
                .on_esp(&esp(disk), |at| {
                    for file in files {
                        let file = at.join(file);
                        fs::create_dir_all(file.parent().unwrap())?;
                        fs::write(file, "MZ")?;
                    }
                    Ok(())
                })
                .unwrap();
        }

        fn files(&self, disk: &str) -> Vec<String> {
            let look = self.machine.on_esp(&esp(disk), unboot::look).unwrap();
            look.into_iter().collect()
        }

        fn variables(&self) -> Variables {
            Variables::new(self.dir.path().join("sys/firmware/efi/efivars"))
        }

        fn entry(&self, disk: &str, file: &str) {
            let partition = self.machine.partition(&esp(disk)).unwrap();
            self.variables().append_boot_entry("Linux Boot Manager", &partition, file).unwrap();
        }

        fn entries(&self) -> usize {
            self.variables().boot_entries().unwrap().len()
        }
    }

    #[test]
    fn no_copy_of_the_esp_boots_what_failed() {
        let mut bench = Bench::new(false);
        for disk in ["root", "mirror"] {
            bench.machine.formatted(&esp(disk), Ensured::Created);
        }
        bench.machine.look_at_esps(&bench.plan);
        assert!(bench.machine.esps.found.is_empty());
        for disk in ["root", "mirror"] {
            bench.put(disk, &FILES);
            bench.entry(disk, FILES[1]);
        }
        let said = bench.machine.unboot(&bench.plan);
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[3].contains("the boot loader on disk mirror was removed again"), "{said:?}");
        assert_eq!(bench.entries(), 0);
        for disk in ["root", "mirror"] {
            assert!(bench.files(disk).is_empty());
        }
        assert!(bench.machine.unboot(&bench.plan).is_empty());
    }

    #[test]
    fn a_kept_esp_keeps_what_it_had() {
        const THEIRS: [&str; 2] = ["EFI/Microsoft/Boot/bootmgfw.efi", FILES[0]];
        let mut bench = Bench::new(true);
        // A partition beside it may have been added to the table.
        bench.machine.disks.get_mut("root").unwrap().came = Some(Came::Changed);
        bench.machine.formatted(&esp("root"), Ensured::AlreadySo);
        bench.machine.formatted(&esp("mirror"), Ensured::Created);
        bench.put("root", &THEIRS);
        bench.entry("root", THEIRS[0]);
        bench.machine.look_at_esps(&bench.plan);
        let before = bench.files("root");
        assert!(bench.machine.unboot(&bench.plan).is_empty());

        bench.put("root", &FILES);
        bench.put("root", &["loader/entries/nixos-generation-1.conf"]);
        bench.entry("root", FILES[1]);
        // Another agent goes on: what is new by then is none of what was there.
        let state = serde_json::to_string(&bench.machine.state()).unwrap();
        bench.machine.esps = Esps::default();
        bench.machine.restore(&serde_json::from_str(&state).unwrap());
        bench.machine.look_at_esps(&bench.plan);
        let said = bench.machine.unboot(&bench.plan);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[1].contains("files that were there before stay"), "{said:?}");
        assert_eq!(bench.files("root"), before);
        assert_eq!(bench.entries(), 1);
    }

    #[test]
    fn what_was_there_is_left_if_it_is_not_known() {
        let mut bench = Bench::new(true);
        bench.put("root", &FILES);
        bench.entry("root", FILES[1]);
        // Nobody has looked: no boot loader was to be installed yet.
        assert!(bench.machine.unboot(&bench.plan).is_empty());
        bench.machine.esps.found.push((esp("root"), None));
        let said = bench.machine.unboot(&bench.plan);
        assert!(said[0].contains("disk root was there before and is left as it is"), "{said:?}");
        assert_eq!((bench.files("root").len(), bench.entries()), (2, 1));
    }

    #[test]
    fn only_a_table_of_this_run_is_removed() {
        for (came, word) in [(Came::Changed, "MAY LOOK"), (Came::Made, "table of disk root was")] {
            let mut bench = Bench::new(false);
            bench.machine.formatted(&esp("root"), Ensured::Created);
            bench.machine.disks.get_mut("root").unwrap().came = Some(came);
            // It can't be mounted.
            let node = bench.machine.node(&esp("root")).unwrap();
            fs::OpenOptions::new()
                .write(true)
                .open(&node.path)
                .and_then(|mut file| io::Write::write_all(&mut file, &[0; 64 << 10]))
                .unwrap();
            let said = bench.machine.unboot(&bench.plan);
            assert!(said[0].contains(word), "{said:?}");
        }
    }
}
