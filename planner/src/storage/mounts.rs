//! Mounts and swap, with the hooks around them.
//!
//! disko runs the mount hooks of everything that something is in around opening it, and again
//! around each mount (`lib/default.nix`, `mkMountOption`); so they are here.

use super::Builder;
use keystone_protocol::layout::{Content, Hooks, Mount, Mounted, Nodev, Placed, Root};
use keystone_protocol::plan::{Action, DeviceRef, HookKind, MountPlan, MountSource};

impl Builder<'_> {
    pub(super) fn mounts(&mut self) {
        for root in self.context.layout.order() {
            self.opened(*root);
        }
        for mount in self.context.layout.mounts() {
            let around = format!("@{}", mount.target);
            self.around(&mount.hooks, &around, |builder| builder.mount(&mount));
        }
        for placed in self.context.layout.placed() {
            self.swapon(&placed);
        }
    }

    /// Runs hooks before, outermost first, and after, innermost first.
    fn around(&mut self, hooks: &[&Hooks], when: &str, inside: impl FnOnce(&mut Self)) {
        for hooks in hooks {
            self.hook(hooks, HookKind::PreMount, when);
        }
        inside(self);
        for hooks in hooks.iter().rev() {
            self.hook(hooks, HookKind::PostMount, when);
        }
    }

    /// Hooks around opening: everything is open already, so nothing else is done.
    fn opened(&mut self, root: Root) {
        let layout = self.context.layout;
        let (hooks, always, inner) = match root {
            Root::Disk(index) => {
                let disk = &layout.disks[index];
                (&disk.hooks, false, disk.content.iter().collect::<Vec<_>>())
            }
            Root::Array(index) => {
                let array = &layout.arrays[index];
                (&array.hooks, false, array.content.iter().collect())
            }
            Root::Group(index) => {
                let group = &layout.groups[index];
                let inner = group.volumes.iter().filter_map(|volume| volume.content.as_ref());
                (&group.hooks, true, inner.collect())
            }
            Root::Pool(index) => (&layout.zpools[index].hooks, true, Vec::new()),
            Root::Nodev(_) => return,
        };
        if !always && !inner.iter().any(|content| is_opened(content)) {
            return;
        }
        self.around(&[hooks], "@open", |builder| {
            for content in inner {
                builder.open_content(content);
            }
        });
    }

    fn open_content(&mut self, content: &Content) {
        if !is_opened(content) {
            return;
        }
        self.around(&[content.hooks()], "@open", |builder| match content {
            Content::Luks(luks) => luks.content.iter().for_each(|c| builder.open_content(c)),
            Content::Gpt(gpt) => {
                let inner = gpt.partitions.iter().filter_map(|p| p.content.as_ref());
                inner.for_each(|content| builder.open_content(content));
            }
            Content::Table(table) => {
                let inner = table.partitions.iter().filter_map(|p| p.content.as_ref());
                inner.for_each(|content| builder.open_content(content));
            }
            _ => {}
        });
    }

    fn mount(&mut self, mount: &Mount<'_>) {
        let (source, what) = match &mount.what {
            Mounted::Filesystem { device, filesystem } => {
                let fstype = filesystem.format.name().to_owned();
                let (_, place) = self.place(device);
                (MountSource::Filesystem { device: device.clone(), fstype }, place)
            }
            Mounted::Btrfs { device, subvolume, .. } => {
                let (_, place) = self.place(device);
                let what = match subvolume {
                    Some(subvolume) => format!("subvolume {} of {place}", subvolume.inner_path()),
                    None => place,
                };
                let fstype = "btrfs".to_owned();
                (MountSource::Filesystem { device: device.clone(), fstype }, what)
            }
            Mounted::Dataset { name, .. } => {
                (MountSource::Dataset { dataset: name.clone() }, format!("dataset {name}"))
            }
            Mounted::Nodev(nodev) => without_device(nodev),
        };
        let bind = matches!(source, MountSource::Bind { .. });
        let mut options = mount.options();
        options.retain(|option| !(bind && (option == "bind" || option == "rbind")));
        self.push(
            format!("mount:{}", mount.target),
            format!("mount {what} at {}", mount.target),
            Action::Mount(MountPlan { source, target: mount.target.to_owned(), options }),
        );
    }

    fn swapon(&mut self, placed: &Placed<'_>) {
        let Content::Swap(swap) = placed.content else { return };
        if swap.random_encryption {
            return;
        }
        let device: &DeviceRef = &placed.device;
        let (id, place) = self.place(device);
        self.around(&placed.hooks, &format!("@swap:{id}"), |builder| {
            builder.push(
                format!("swapon:{id}"),
                format!("swap to {place}"),
                Action::Swapon {
                    device: device.clone(),
                    priority: swap.priority,
                    discard: swap.discard,
                    options: swap.options.clone(),
                },
            );
        });
    }
}

/// Whether disko opens something for it. Source: the `dev` of each type's `_mount`.
fn is_opened(content: &Content) -> bool {
    matches!(content, Content::Luks(_) | Content::Gpt(_) | Content::Table(_))
}

fn without_device(nodev: &Nodev) -> (MountSource, String) {
    if nodev.is_bind() {
        let recursive = nodev.mount_options.iter().any(|option| option == "rbind");
        let path = nodev.device.clone();
        let what = format!("{path} of this system");
        return (MountSource::Bind { path, recursive }, what);
    }
    let (fstype, name) = (nodev.fstype.clone(), nodev.device.clone());
    let what = fstype.clone();
    (MountSource::Virtual { fstype, name }, what)
}
