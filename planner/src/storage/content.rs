//! What is put onto a device, and what is in that.

use super::{Builder, words};
use keystone_protocol::layout::{Btrfs, Content, Filesystem, Format, Luks, Swap, SwapFile};
use keystone_protocol::plan::{Action, DeviceRef, HookKind, InnerPresence};

impl Builder<'_> {
    pub(super) fn content(&mut self, device: &DeviceRef, content: Option<&Content>) {
        let Some(content) = content else { return };
        self.hook(content.hooks(), HookKind::PreCreate, "");
        match content {
            Content::Gpt(gpt) => {
                self.table(device);
                for (number, partition) in (1..).zip(&gpt.partitions) {
                    self.content(&device.partition(number), partition.content.as_ref());
                }
            }
            Content::Table(table) => {
                self.table(device);
                for partition in &table.partitions {
                    self.content(&device.partition(partition.number), partition.content.as_ref());
                }
            }
            Content::Luks(luks) => self.luks(device, luks),
            _ if !self.context.mode.formats() => {}
            Content::Filesystem(filesystem) => self.filesystem(device, filesystem),
            Content::Btrfs(btrfs) => self.btrfs(device, btrfs),
            Content::Swap(swap) => self.swap(device, swap),
            Content::PhysicalVolume(volume) => {
                let (id, place) = self.place(device);
                self.push(
                    format!("pv:{id}"),
                    format!("make {place} a physical volume, for {}", volume.group),
                    Action::CreatePhysicalVolume { device: device.clone() },
                );
            }
            // A pool or RAID is made when all its members are there.
            Content::Zfs(_) | Content::ArrayMember(_) => {}
        }
        self.hook(content.hooks(), HookKind::PostCreate, "");
    }

    /// The table of a device.
    fn table(&mut self, device: &DeviceRef) {
        let (id, place) = match device {
            DeviceRef::Disk { disk } => (disk.clone(), format!("disk {disk}")),
            DeviceRef::Mapper { name } => (format!("container:{name}"), self.place(device).1),
            device => self.place(device),
        };
        let tables = &self.decisions.tables;
        let (names, action) = if let Some(table) = tables.gpt.iter().find(|t| t.device == *device) {
            let names = table.partitions.iter().map(|p| p.name.clone()).collect();
            let action = match self.existing.has_all_of(table) {
                true => Action::FindPartitions(table.clone()),
                false => Action::Partition(table.clone()),
            };
            (names, action)
        } else if let Some(table) = tables.inner.iter().find(|t| t.device == *device) {
            let names = table.partitions.iter().map(|p| p.name.clone()).collect();
            (names, Action::PartitionInner(table.clone()))
        } else if let Some(table) = tables.mbr.iter().find(|t| t.device == *device) {
            let names = table.partitions.iter().map(|p| p.number.to_string()).collect();
            (names, Action::PartitionMbr(table.clone()))
        } else {
            return;
        };
        let names: Vec<String> = names;
        let title = match &action {
            Action::FindPartitions(_) => "find the partitions of",
            Action::PartitionInner(table) if table.presence == InnerPresence::Found => {
                "find the partitions of"
            }
            Action::PartitionMbr(table) if table.keep => "find the partitions of",
            _ => "partition",
        };
        self.push(
            format!("partition:{id}"),
            format!("{title} {place}: {}", words::list(&names)),
            action,
        );
    }

    fn filesystem(&mut self, device: &DeviceRef, filesystem: &Filesystem) {
        let (id, place) = self.place(device);
        let device = device.clone();
        let format = filesystem.format.name();
        let action = match filesystem.format {
            Format::Vfat => Action::MakeVfat { device, label: filesystem.label.clone() },
            _ => Action::MakeFilesystem {
                device,
                fstype: format.to_owned(),
                extra_args: filesystem.extra_args.clone(),
            },
        };
        self.push(format!("{format}:{id}"), format!("make {format} on {place}"), action);
    }

    fn btrfs(&mut self, device: &DeviceRef, btrfs: &Btrfs) {
        let (id, place) = self.place(device);
        self.push(
            format!("btrfs:{id}"),
            format!("make btrfs on {place}"),
            Action::MakeFilesystem {
                device: device.clone(),
                fstype: "btrfs".to_owned(),
                extra_args: btrfs.extra_args.clone(),
            },
        );
        self.swap_files(device, "", &btrfs.swap);
        for subvolume in &btrfs.subvolumes {
            let path = subvolume.inner_path();
            self.push(
                format!("subvolume:{id}:{path}"),
                format!("make subvolume {path} in the btrfs on {place}"),
                Action::CreateSubvolume {
                    device: device.clone(),
                    subvolume: path.to_owned(),
                    extra_args: subvolume.extra_args.clone(),
                },
            );
            self.swap_files(device, &format!("{path}/"), &subvolume.swap);
        }
    }

    fn swap_files(&mut self, device: &DeviceRef, directory: &str, files: &[SwapFile]) {
        let (id, place) = self.place(device);
        for file in files {
            let path = format!("{directory}{}", file.file);
            self.push(
                format!("swapfile:{id}:{path}"),
                format!(
                    "make swap file {path} of {} in the btrfs on {place}",
                    words::human(file.size)
                ),
                Action::CreateSwapFile { device: device.clone(), path, size: file.size },
            );
        }
    }

    fn luks(&mut self, device: &DeviceRef, luks: &Luks) {
        let (_, place) = self.place(device);
        let (id, on, name) = (format!("luks:{}", luks.name), device.clone(), luks.name.clone());
        if self.existing.has(self.context.layout, device) {
            let open =
                Action::OpenLuks { device: on, name, key_file: crate::unlock::key_file(luks) };
            self.push(id, format!("open container {} on {place}", luks.name), open);
        } else {
            let (format, open) = (luks.format.clone(), luks.open.clone());
            let action = Action::FormatLuks { device: on, name, format, open };
            self.push(id, format!("make container {} on {place}", luks.name), action);
        }
        let inner = DeviceRef::Mapper { name: luks.name.clone() };
        self.content(&inner, luks.content.as_ref());
    }

    fn swap(&mut self, device: &DeviceRef, swap: &Swap) {
        let (id, place) = self.place(device);
        if swap.random_encryption {
            self.remarks.notes.push(format!(
                "{place} is for swap that the installed system encrypts with a new key at every \
                 boot; nothing is written to it"
            ));
            return;
        }
        self.push(
            format!("swap:{id}"),
            format!("make swap on {place}"),
            Action::MakeSwap {
                device: device.clone(),
                label: swap.label.clone(),
                uuid: swap.uuid.clone(),
            },
        );
    }
}
