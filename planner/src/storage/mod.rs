//! Steps from the wiped disk to the mounted target.
//!
//! | module | steps |
//! |---|---|
//! | this | the order, tables, containers |
//! | [`content`] | what is put onto a device |
//! | [`pool`] | pools with their datasets |
//! | [`mounts`] | mounts and swap, with their hooks |
//! | [`place`] | devices in ids and titles |

mod content;
mod mounts;
mod place;
mod pool;

pub(super) use pool::dataset_key;

use super::existing::Existing;
use super::{Context, Decisions, Remarks, words};
use keystone_protocol::layout::{self, Content, Hooks, LogicalVolume, Luks, Root, VolumeGroup};
use keystone_protocol::plan::{Action, ArrayPlan, DeviceRef, HookKind, LogicalVolumePlan, Step};

/// The steps, in disko's order: each disk with its table and what is on its partitions, then what
/// is made of them, then mounts. Other than with disko every container gets its lasting keys, and
/// is closed if nothing in it is used any more, before anything is mounted.
///
/// What is there and stays is found, imported and opened; what is missing is made if the mode
/// makes anything.
pub(super) fn steps(
    context: &Context<'_>,
    decisions: &Decisions,
    existing: &Existing,
    remarks: &mut Remarks,
) -> Vec<Step> {
    let steps = wipes(context, remarks);
    let mut builder = Builder { context, decisions, existing, remarks, steps };
    for root in context.layout.order() {
        builder.root(*root);
    }
    if context.mode.formats() {
        builder.mirrors();
    }
    builder.containers();
    if context.mode.mounts() {
        builder.mounts();
    }
    builder.steps
}

/// Wipes the disks whose contents the plan destroys.
pub(super) fn wipes(context: &Context<'_>, remarks: &mut Remarks) -> Vec<Step> {
    let wiped: Vec<_> = context.layout.disks.iter().filter(|disk| context.wipes(disk)).collect();
    for wanted in &wiped {
        let disk = context.disks[wanted.name.as_str()];
        if context.options.discard && !disk.discard {
            remarks.notes.push(format!(
                "disk {:?}, {}, knows no discard: it is wiped without",
                wanted.name,
                words::disk(&disk.identity)
            ));
        }
    }
    let step = |wanted: &layout::Disk| {
        let disk = context.disks[wanted.name.as_str()];
        Step {
            id: format!("wipe:{}", wanted.name),
            title: format!(
                "{} disk {}, {}",
                if context.options.discard && disk.discard { "discard and wipe" } else { "wipe" },
                wanted.name,
                words::disk(&disk.identity)
            ),
            action: Action::WipeDisk {
                disk: wanted.name.clone(),
                discard: context.options.discard && disk.discard,
            },
        }
    };
    wiped.into_iter().map(step).collect()
}

struct Builder<'a> {
    context: &'a Context<'a>,
    decisions: &'a Decisions,
    existing: &'a Existing,
    remarks: &'a mut Remarks,
    steps: Vec<Step>,
}

impl Builder<'_> {
    fn push(&mut self, id: impl Into<String>, title: impl Into<String>, action: Action) {
        self.steps.push(Step { id: id.into(), title: title.into(), action });
    }

    /// A hook, if there is one; `when` tells several runs of one apart.
    fn hook(&mut self, hooks: &Hooks, kind: HookKind, when: &str) {
        let creates = matches!(kind, HookKind::PreCreate | HookKind::PostCreate);
        if creates && !self.context.mode.formats() {
            return;
        }
        if let Some(hook) = hooks.hook(kind) {
            self.steps.push(crate::hooks::step(hook, when));
        }
    }

    /// Makes something of the layout's top and all that is on it.
    fn root(&mut self, root: Root) {
        let layout = self.context.layout;
        let formats = self.context.mode.formats();
        match root {
            Root::Disk(index) => {
                let disk = &layout.disks[index];
                self.hook(&disk.hooks, HookKind::PreCreate, "");
                let device = DeviceRef::Disk { disk: disk.name.clone() };
                self.content(&device, disk.content.as_ref());
                self.hook(&disk.hooks, HookKind::PostCreate, "");
            }
            Root::Array(index) => {
                let array = &layout.arrays[index];
                self.hook(&array.hooks, HookKind::PreCreate, "");
                let plan = ArrayPlan {
                    name: array.name.clone(),
                    level: array.level,
                    metadata: array.metadata.clone(),
                    members: layout.array_members(&array.name),
                    extra_args: array.extra_args.clone(),
                };
                let devices = plan.members.len();
                let (title, action) = match formats {
                    true => ("make", Action::CreateArray(plan)),
                    false => ("start", Action::AssembleArray(plan)),
                };
                self.push(
                    format!("raid:{}", array.name),
                    format!("{title} RAID {} of {devices} devices", array.name),
                    action,
                );
                let device = DeviceRef::Array { name: array.name.clone() };
                self.content(&device, array.content.as_ref());
                self.hook(&array.hooks, HookKind::PostCreate, "");
            }
            Root::Group(index) => {
                let group = &layout.groups[index];
                self.hook(&group.hooks, HookKind::PreCreate, "");
                let members = layout.physical_volumes(&group.name);
                let name = group.name.clone();
                let (title, action) = match formats {
                    true => ("make", Action::CreateVolumeGroup { name, members }),
                    false => ("activate", Action::ActivateGroup { name, members }),
                };
                self.push(
                    format!("group:{}", group.name),
                    format!("{title} volume group {}", group.name),
                    action,
                );
                for volume in &group.volumes {
                    if formats {
                        self.logical_volume(group, volume);
                    }
                    let device = DeviceRef::LogicalVolume {
                        group: group.name.clone(),
                        name: volume.name.clone(),
                    };
                    self.content(&device, volume.content.as_ref());
                }
                self.hook(&group.hooks, HookKind::PostCreate, "");
            }
            Root::Pool(index) => self.pool(&layout.zpools[index]),
            Root::Nodev(_) => {}
        }
    }

    fn logical_volume(&mut self, group: &VolumeGroup, volume: &LogicalVolume) {
        let name = format!("{}/{}", group.name, volume.name);
        self.push(
            format!("lv:{name}"),
            format!("make logical volume {name}"),
            Action::CreateLogicalVolume(LogicalVolumePlan {
                group: group.name.clone(),
                name: volume.name.clone(),
                size: volume.size.clone(),
                kind: volume.kind.clone(),
                thin_pool: volume.thin_pool.clone(),
                extra_args: volume.extra_args.clone(),
            }),
        );
    }

    /// File systems for the copies of the ESP.
    fn mirrors(&mut self) {
        for copy in &self.decisions.esp_copies {
            let (id, place) = self.place(copy);
            self.push(
                format!("vfat:{id}"),
                format!("make vfat on {place}, for a copy of the ESP"),
                Action::MakeVfat { device: copy.clone(), label: None },
            );
        }
        if !self.decisions.esp_copies.is_empty() {
            let places: Vec<String> =
                self.decisions.esp_copies.iter().map(|copy| self.place(copy).1).collect();
            self.remarks.notes.push(format!(
                "differs from disko: with --mirror-esp an EFI system partition is made on {} too, \
                 and what is on the layout's one is copied there; the installed system must \
                 refresh the copies after each update of its boot loader",
                words::list(&places)
            ));
        }
    }

    /// Lasting keys for every container; those that nothing needs any more are closed.
    fn containers(&mut self) {
        for (device, content) in self.context.layout.contents() {
            let Content::Luks(luks) = content else { continue };
            let plan = self.decisions.containers.iter().find(|plan| plan.name == luks.name);
            if let Some(plan) = plan {
                let additional = crate::unlock::additional(luks, self.remarks);
                self.push(
                    format!("enroll:{}", luks.name),
                    format!("give container {} its lasting keys", luks.name),
                    Action::Enroll {
                        device,
                        name: luks.name.clone(),
                        unlock: plan.unlock.clone(),
                        additional,
                    },
                );
            }
        }
        for name in super::system::containers(self.context, |needed| needed == Needed::No) {
            self.push(
                format!("close:{name}"),
                format!("close container {name}"),
                Action::CloseLuks { name },
            );
        }
    }
}

/// Until when a container must stay open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// Nothing in it is used once the datasets are made.
    No,
    /// A file system in it is mounted, or it is swapped to.
    Mounted,
    /// Something is made of it that is closed first: a pool, a volume group, a RAID, partitions.
    Below,
}

/// Until when a container must stay open.
pub(super) fn needed(luks: &Luks) -> Needed {
    match &luks.content {
        None => Needed::No,
        Some(Content::Filesystem(filesystem)) if filesystem.mountpoint.is_none() => Needed::No,
        Some(Content::Btrfs(btrfs)) => {
            let mut mounted = btrfs.subvolumes.iter().map(|s| &s.mountpoint);
            match btrfs.mountpoint.is_some() || mounted.any(Option::is_some) {
                true => Needed::Mounted,
                false => Needed::No,
            }
        }
        Some(Content::Swap(swap)) if swap.random_encryption => Needed::No,
        Some(Content::Filesystem(_) | Content::Swap(_)) => Needed::Mounted,
        Some(Content::Luks(inner)) => needed(inner),
        Some(_) => Needed::Below,
    }
}
