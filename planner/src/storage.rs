//! Steps from the wiped disk to the mounted target.

use super::existing::Existing;
use super::{Context, Decisions, Remarks, words};
use keystone_protocol::layout::{
    self as layout, Content, Dataset, Filesystem, Format, Luks, Mounted, ZfsFs, Zpool,
};
use keystone_protocol::plan::{
    Action, DatasetKey, DeviceRef, ImportPlan, MountPlan, MountSource, Step,
};
use std::collections::BTreeSet;

/// The steps, in disko's order: tables, what is on partitions, pools with their datasets, mounts.
/// Other than with disko every container gets its lasting keys, and is closed if nothing in it is
/// mounted, before anything is mounted.
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
    builder.tables();
    for (device, content) in context.layout.contents() {
        // Volumes follow with their pools.
        if is_on_partition(context, &device) {
            builder.content(&device, content);
        }
    }
    for pool in &context.layout.zpools {
        builder.pool(pool);
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

/// Whether a device is a partition or a container on one, directly or not.
fn is_on_partition(context: &Context<'_>, device: &DeviceRef) -> bool {
    match device {
        DeviceRef::Disk { .. } | DeviceRef::Partition { .. } => true,
        DeviceRef::Inner { on, .. } => is_on_partition(context, on),
        DeviceRef::Volume { .. }
        | DeviceRef::LogicalVolume { .. }
        | DeviceRef::Array { .. } => false,
        DeviceRef::Mapper { name } => context
            .layout
            .contents()
            .iter()
            .find(|(_, content)| matches!(content, Content::Luks(luks) if luks.name == *name))
            .is_some_and(|(below, _)| is_on_partition(context, below)),
    }
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

    fn tables(&mut self) {
        for table in &self.decisions.tables {
            let name = table.device.disk().unwrap_or_default();
            let names: Vec<&str> = table.partitions.iter().map(|p| p.name.as_str()).collect();
            let (title, action) = match self.existing.table(name) {
                None => ("partition", Action::Partition(table.clone())),
                Some(_) => ("find the partitions of", Action::FindPartitions(table.clone())),
            };
            self.push(
                format!("partition:{name}"),
                format!("{title} disk {name}: {}", words::list(&names)),
                action,
            );
        }
    }

    fn content(&mut self, device: &DeviceRef, content: &Content) {
        match content {
            Content::Luks(luks) => self.luks(device, luks),
            _ if !self.context.mode.formats() => {}
            Content::Filesystem(filesystem) => self.filesystem(device, filesystem),
            Content::Swap(_) => {
                let (_, place) = self.place(device);
                self.remarks.notes.push(format!(
                    "{place} is for swap that the installed system encrypts with a new key at \
                     every boot; nothing is written to it"
                ));
            }
            // A pool is made when all its members are there.
            Content::Zfs(_) => {}
        }
    }

    /// A device in an id and in a title.
    fn place(&self, device: &DeviceRef) -> (String, String) {
        match device {
            DeviceRef::Disk { disk } => (disk.clone(), format!("disk {disk}")),
            DeviceRef::Partition { disk, number } => {
                let table = self.decisions.tables.iter().find(|table| table.device.disk() == Some(disk));
                let name = table
                    .and_then(|table| table.partitions.iter().find(|p| p.number == *number))
                    .map_or_else(|| number.to_string(), |partition| partition.name.clone());
                (format!("{disk}/{name}"), format!("partition {name} of disk {disk}"))
            }
            DeviceRef::Volume { dataset } => (dataset.clone(), format!("volume {dataset}")),
            DeviceRef::Mapper { name } => (name.clone(), format!("container {name}")),
            DeviceRef::Inner { on, number } => {
                let (id, place) = self.place(on);
                (format!("{id}/{number}"), format!("partition {number} of {place}"))
            }
            DeviceRef::LogicalVolume { group, name } => {
                (format!("{group}/{name}"), format!("logical volume {group}/{name}"))
            }
            DeviceRef::Array { name } => (name.clone(), format!("RAID {name}")),
        }
    }

    fn filesystem(&mut self, device: &DeviceRef, filesystem: &Filesystem) {
        let (id, place) = self.place(device);
        let device = device.clone();
        let action = match filesystem.format {
            Format::Vfat => Action::MakeVfat { device, label: None },
            Format::Ext4 => Action::MakeFilesystem {
                device,
                fstype: "ext4".into(),
                extra_args: filesystem.extra_args.clone(),
            },
        };
        let format = filesystem.format.name();
        self.push(format!("{format}:{id}"), format!("make {format} on {place}"), action);
    }

    fn luks(&mut self, device: &DeviceRef, luks: &Luks) {
        let (_, place) = self.place(device);
        let id = format!("luks:{}", luks.name);
        let (on, name) = (device.clone(), luks.name.clone());
        if self.existing.has(self.context.layout, device) {
            let open = Action::OpenLuks {
                device: on,
                name,
                key_file: super::unlock::key_file(luks),
                make: self.context.mode.formats(),
            };
            self.push(id, format!("open container {} on {place}", luks.name), open);
        } else {
            let format = Action::FormatLuks {
                device: on,
                name,
                format: Default::default(),
                open: Default::default(),
            };
            self.push(id, format!("make container {} on {place}", luks.name), format);
        }
    }

    fn pool(&mut self, pool: &Zpool) {
        if let Some(found) = self.existing.pool(&pool.name) {
            self.push(
                format!("pool:{}", pool.name),
                format!("import pool {}", pool.name),
                Action::ImportPool(ImportPlan {
                    name: pool.name.clone(),
                    guid: found.guid.clone(),
                    members: self.context.layout.members(&pool.name),
                    any_host: found.any_host,
                }),
            );
        } else if let Some(plan) = self.decisions.pools.iter().find(|p| p.name == pool.name) {
            self.push(
                format!("pool:{}", pool.name),
                format!("make pool {}", pool.name),
                Action::CreatePool(plan.clone()),
            );
        }
        // The root dataset is there already.
        let mut made: BTreeSet<String> = BTreeSet::from([pool.name.clone()]);
        for dataset in &pool.datasets {
            let name = format!("{}/{}", pool.name, dataset.name());
            if !self.context.mode.formats() {
                match dataset {
                    Dataset::Fs(fs) => self.load_key(&name, fs),
                    Dataset::Volume(_) => self.volume_contents(&name),
                }
                continue;
            }
            self.parents(&name, &mut made);
            match dataset {
                Dataset::Fs(fs) => self.dataset(&name, fs),
                Dataset::Volume(volume) => {
                    self.push(
                        format!("volume:{name}"),
                        format!("make volume {name} of {}", words::human(volume.size)),
                        Action::CreateVolume {
                            dataset: name.clone(),
                            size: volume.size,
                            properties: volume.options.clone(),
                            sparse: false,
                            key: None,
                        },
                    );
                    self.volume_contents(&name);
                }
            }
            made.insert(name);
        }
    }

    /// What is on a volume, container before contents.
    fn volume_contents(&mut self, dataset: &str) {
        let contents = self.context.layout.contents();
        let volume = DeviceRef::Volume { dataset: dataset.to_owned() };
        let start = contents.iter().position(|(device, _)| *device == volume);
        for (index, (device, content)) in
            contents.iter().enumerate().skip(start.unwrap_or(contents.len()))
        {
            // A container's contents follow it immediately.
            if Some(index) != start && !matches!(device, DeviceRef::Mapper { .. }) {
                break;
            }
            self.content(device, content);
        }
    }

    /// Parents that the layout does not name, without properties, as `zfs create -p` makes them.
    fn parents(&mut self, name: &str, made: &mut BTreeSet<String>) {
        for (index, _) in name.match_indices('/') {
            let parent = &name[..index];
            if made.insert(parent.to_owned()) {
                self.push(
                    format!("dataset:{parent}"),
                    format!("make dataset {parent}"),
                    Action::CreateDataset {
                        dataset: parent.to_owned(),
                        properties: Default::default(),
                        key: None,
                    },
                );
            }
        }
    }

    fn dataset(&mut self, name: &str, fs: &ZfsFs) {
        let key = fs.key.as_ref().map(|key| {
            let keeper = DeviceRef::Mapper { name: key.container.clone() };
            self.push(
                format!("key:{name}"),
                format!("make the key of {name} in container {}", key.container),
                Action::CreateKey {
                    device: keeper.clone(),
                    file: key.file.clone(),
                    bytes: key.bytes,
                },
            );
            self.remarks.notes.push(format!(
                "{}: the hooks that make the key of {name} are not run; it is made natively in \
                 container {}, once, readable by root alone, synced and read back",
                fs.path, key.container
            ));
            DatasetKey::Made { device: keeper, file: key.file.clone() }
        });
        self.push(
            format!("dataset:{name}"),
            format!("make {}dataset {name}", if key.is_some() { "encrypted " } else { "" }),
            Action::CreateDataset { dataset: name.to_owned(), properties: fs.properties(), key },
        );
    }

    fn load_key(&mut self, name: &str, fs: &ZfsFs) {
        let Some(key) = &fs.key else { return };
        let keeper = DeviceRef::Mapper { name: key.container.clone() };
        self.push(
            format!("key:{name}"),
            format!("load the key of {name} from container {}", key.container),
            Action::LoadKey {
                dataset: name.to_owned(),
                device: keeper,
                file: key.file.clone(),
                bytes: key.bytes,
            },
        );
    }

    /// Lasting keys for every container; those that nothing needs any more are closed.
    fn containers(&mut self) {
        for (device, content) in self.context.layout.contents() {
            let Content::Luks(luks) = content else { continue };
            let plan = self.decisions.containers.iter().find(|plan| plan.name == luks.name);
            if let Some(plan) = plan {
                self.push(
                    format!("enroll:{}", luks.name),
                    format!("give container {} its lasting keys", luks.name),
                    Action::Enroll {
                        device,
                        name: luks.name.clone(),
                        unlock: plan.unlock.clone(),
                        additional: Vec::new(),
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

    fn mounts(&mut self) {
        for mount in self.context.layout.mounts() {
            let (source, options, what) = match &mount.what {
                Mounted::Filesystem { device, filesystem } => {
                    let fstype = filesystem.format.name().to_owned();
                    let (_, place) = self.place(device);
                    let source = MountSource::Filesystem { device: device.clone(), fstype };
                    (source, &filesystem.mount_options, place)
                }
                Mounted::Dataset { name, fs } => {
                    let source = MountSource::Dataset { dataset: name.clone() };
                    (source, &fs.mount_options, format!("dataset {name}"))
                }
            };
            let options = options.iter().filter(|option| *option != "defaults").cloned().collect();
            self.push(
                format!("mount:{}", mount.target),
                format!("mount {what} at {}", mount.target),
                Action::Mount(MountPlan { source, target: mount.target.to_owned(), options }),
            );
        }
    }
}

/// Until when a container must stay open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// Nothing in it is used once the datasets are made.
    No,
    /// A file system in it is mounted.
    Mounted,
    /// A pool lives on it.
    Pool,
}
