//! What will be on the disks, as a tree: disks, pools, groups and RAIDs, and what is in them.

use super::device::device;
use crate::ui::format::bytes;
use crate::ui::style::Style;
use keystone_protocol::plan::{
    Action, DatasetKey, DeviceRef, LvSize, MountPlan, MountSource, PartitionTable, Plan, PoolPlan,
    Vdev,
};
use std::collections::BTreeMap;

/// A line of the tree: its branches, which are repeated where it is broken, and its words.
pub(super) struct Line {
    /// `│  ├─ `
    pub(super) branches: String,
    /// The same for what is broken off.
    pub(super) rest: String,
    /// The words.
    pub(super) text: String,
}

/// The tree of a plan; empty where nothing is made or mounted.
pub(super) fn tree(plan: &Plan, style: Style) -> Vec<Line> {
    let mut tree = Tree { plan, nodes: Vec::new(), index: BTreeMap::new(), roots: Vec::new() };
    plan.steps.iter().for_each(|step| tree.take(&step.action));
    let mut lines = Vec::new();
    for &root in &tree.roots {
        lines.push(Line {
            branches: String::new(),
            rest: "  ".to_owned(),
            text: tree.nodes[root].text(style),
        });
        tree.below(root, "", style, &mut lines);
    }
    lines
}

/// What a node stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Device(DeviceRef),
    Pool(String),
    /// A dataset's full name, with a slash.
    Dataset(String),
    Group(String),
    Subvolume(DeviceRef, String),
}

impl Key {
    /// A dataset or, without a slash, the pool that it is the root of.
    fn dataset(name: &str) -> Key {
        match name.contains('/') {
            true => Key::Dataset(name.to_owned()),
            false => Key::Pool(name.to_owned()),
        }
    }

    /// What it is in, where its own name says so.
    fn parent(&self) -> Option<Key> {
        let above = |name: &str| name.rsplit_once('/').map(|(above, _)| Key::dataset(above));
        match self {
            Key::Device(DeviceRef::Partition { disk, .. }) => {
                Some(Key::Device(DeviceRef::Disk { disk: disk.clone() }))
            }
            Key::Device(DeviceRef::Inner { on, .. }) => Some(Key::Device((**on).clone())),
            Key::Device(DeviceRef::Volume { dataset }) => above(dataset),
            Key::Device(DeviceRef::LogicalVolume { group, .. }) => Some(Key::Group(group.clone())),
            Key::Dataset(name) => above(name),
            Key::Subvolume(device, _) => Some(Key::Device(device.clone())),
            Key::Device(_) | Key::Pool(_) | Key::Group(_) => None,
        }
    }

    /// Its name below what it is in.
    fn label(&self) -> String {
        let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        match self {
            Key::Device(DeviceRef::Partition { number, .. } | DeviceRef::Inner { number, .. }) => {
                format!("partition {number}")
            }
            Key::Device(DeviceRef::Volume { dataset }) => format!("volume {}", last(dataset)),
            Key::Device(DeviceRef::LogicalVolume { name, .. }) => format!("volume {name}"),
            Key::Device(other) => device(other),
            Key::Pool(name) => format!("pool {name}"),
            Key::Dataset(name) => last(name),
            Key::Group(name) => format!("volume group {name}"),
            Key::Subvolume(_, name) => format!("subvolume {name}"),
        }
    }
}

/// A line, before it is one.
#[derive(Debug, Default)]
struct Node {
    label: String,
    /// What it is, without repetitions.
    words: Vec<String>,
    mounted_at: Vec<String>,
    children: Vec<usize>,
}

impl Node {
    fn say(&mut self, words: impl Into<String>) {
        let words = words.into();
        if !self.words.contains(&words) {
            self.words.push(words);
        }
    }

    fn encrypted(&mut self, key: Option<&DatasetKey>) {
        if key.is_some() {
            self.say("encrypted");
        }
    }

    fn text(&self, style: Style) -> String {
        let mut text = self.label.clone();
        if !self.words.is_empty() {
            text.push_str(": ");
            text.push_str(&self.words.join(", "));
        }
        for target in &self.mounted_at {
            text.push_str(" at ");
            text.push_str(&style.bold(target));
        }
        text
    }
}

struct Tree<'p> {
    plan: &'p Plan,
    nodes: Vec<Node>,
    index: BTreeMap<Key, usize>,
    roots: Vec<usize>,
}

impl Tree<'_> {
    /// The node of `key`, which is made if there is none, in what its name says it is in.
    fn at(&mut self, key: &Key) -> &mut Node {
        let parent = key.parent();
        let index = self.place(key, parent.as_ref());
        &mut self.nodes[index]
    }

    fn device(&mut self, device: &DeviceRef) -> &mut Node {
        self.at(&Key::Device(device.clone()))
    }

    fn place(&mut self, key: &Key, parent: Option<&Key>) -> usize {
        if let Some(&index) = self.index.get(key) {
            return index;
        }
        let parent = parent.map(|parent| {
            let above = parent.parent();
            self.place(parent, above.as_ref())
        });
        let mut node = Node { label: key.label(), ..Node::default() };
        if let Key::Device(DeviceRef::Disk { disk }) = key
            && let Some(identity) = self.plan.basis.disks.get(disk)
        {
            node.say(bytes(identity.size));
            node.say(identity.name.clone());
        }
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.index.insert(key.clone(), index);
        match parent {
            Some(parent) => self.nodes[parent].children.push(index),
            None => self.roots.push(index),
        }
        index
    }

    fn sector_size(&self, device: &DeviceRef) -> u64 {
        let disk = device.disk().and_then(|disk| self.plan.basis.disks.get(disk));
        disk.map_or(512, |identity| u64::from(identity.sector_size))
    }

    fn take(&mut self, action: &Action) {
        match action {
            Action::Partition(table) => self.table(table, table.keep),
            Action::FindPartitions(table) => self.table(table, true),
            Action::PartitionMbr(table) => {
                let sector = self.sector_size(&table.device);
                for partition in &table.partitions {
                    let size = (partition.last_lba + 1 - partition.first_lba) * sector;
                    self.device(&table.device.partition(partition.number)).say(bytes(size));
                }
            }
            Action::PartitionInner(table) => {
                for partition in &table.partitions {
                    let node = self.device(&table.device.partition(partition.number));
                    node.label = format!("{} {}", partition.number, partition.name);
                }
            }
            Action::MakeVfat { device, .. } => self.device(device).say("vfat"),
            Action::MakeFilesystem { device, fstype, .. } => self.device(device).say(fstype),
            Action::CreateSubvolume { device, subvolume, .. } => {
                self.at(&Key::Subvolume(device.clone(), subvolume.clone()));
            }
            Action::CreateSwapFile { device, path, size } => {
                self.device(device).say(format!("swap file {path} of {}", bytes(*size)));
            }
            Action::MakeSwap { device, .. } | Action::Swapon { device, .. } => {
                self.device(device).say("swap");
            }
            Action::CreateArray(array) | Action::AssembleArray(array) => {
                for member in &array.members {
                    self.device(member).say(format!("in RAID {}", array.name));
                }
                self.device(&DeviceRef::Array { name: array.name.clone() }).say(format!(
                    "level {} of {}",
                    array.level,
                    array.members.len()
                ));
            }
            Action::CreateVolumeGroup { name, members }
            | Action::ActivateGroup { name, members } => {
                for member in members {
                    self.device(member).say(format!("in volume group {name}"));
                }
                self.at(&Key::Group(name.clone()));
            }
            Action::CreateLogicalVolume(volume) => {
                let (group, name) = (volume.group.clone(), volume.name.clone());
                let node = self.device(&DeviceRef::LogicalVolume { group, name });
                node.say(match &volume.size {
                    LvSize::Bytes { bytes: size } => bytes(*size),
                    LvSize::Percent { percent, of } => format!("{percent} % of {of}"),
                });
                volume.kind.iter().for_each(|kind| node.say(kind));
                volume.thin_pool.iter().for_each(|pool| node.say(format!("thin, in {pool}")));
            }
            Action::CreatePool(pool) => self.pool(pool),
            Action::ImportPool(pool) => {
                for member in pool.members.iter().chain(&pool.auxiliary) {
                    self.device(member).say(format!("in pool {}", pool.name));
                }
                self.at(&Key::Pool(pool.name.clone())).say("as it is");
            }
            Action::CreateVolume { dataset, size, sparse, key, .. } => {
                let node = self.device(&DeviceRef::Volume { dataset: dataset.clone() });
                node.say(bytes(*size));
                if *sparse {
                    node.say("sparse");
                }
                node.encrypted(key.as_ref());
            }
            Action::CreateDataset { dataset, key, .. } => {
                self.at(&Key::dataset(dataset)).encrypted(key.as_ref());
            }
            Action::FormatLuks { device, name, .. } => {
                self.container(device, name).say("LUKS2");
            }
            Action::OpenLuks { device, name, .. } => {
                self.container(device, name);
            }
            Action::CreateKey { device, file, .. } | Action::LoadKey { device, file, .. } => {
                self.device(device).say(format!("the key {file}"));
            }
            Action::CopyEsp { mountpoint, to } => {
                self.device(to).say(format!("a copy of {mountpoint}"));
            }
            Action::Mount(mount) => self.mount(mount),
            // Neither made nor mounted by it.
            _ => {}
        }
    }

    fn table(&mut self, table: &PartitionTable, keep: bool) {
        let sector = self.sector_size(&table.device);
        let disk = self.device(&table.device);
        if keep {
            disk.say("kept");
        }
        for partition in &table.partitions {
            let node = self.device(&table.device.partition(partition.number));
            node.label = format!("{} {}", partition.number, partition.name);
            node.say(bytes((partition.last_lba + 1 - partition.first_lba) * sector));
        }
    }

    fn pool(&mut self, pool: &PoolPlan) {
        let classes = [
            ("", &pool.vdevs),
            (" (log)", &pool.log),
            (" (special)", &pool.special),
            (" (dedup)", &pool.dedup),
        ];
        for (class, vdevs) in classes {
            for vdev in vdevs {
                for member in vdev.members() {
                    self.device(member).say(format!("in pool {}{class}", pool.name));
                }
                let node = self.at(&Key::Pool(pool.name.clone()));
                match vdev {
                    Vdev::Disk { .. } => {}
                    // Several of a kind are each said.
                    Vdev::Mirror { members } => {
                        node.words.push(format!("mirror of {}{class}", members.len()));
                    }
                    Vdev::Raidz { parity, members } => {
                        node.words.push(format!("raidz{parity} of {}{class}", members.len()));
                    }
                }
            }
        }
        for (class, members) in [("cache", &pool.cache), ("spare", &pool.spare)] {
            for member in members {
                self.device(member).say(format!("in pool {} ({class})", pool.name));
            }
        }
        self.at(&Key::Pool(pool.name.clone())).encrypted(pool.root_key.as_ref());
    }

    fn container(&mut self, on: &DeviceRef, name: &str) -> &mut Node {
        let mapper = Key::Device(DeviceRef::Mapper { name: name.to_owned() });
        let index = self.place(&mapper, Some(&Key::Device(on.clone())));
        &mut self.nodes[index]
    }

    fn mount(&mut self, mount: &MountPlan) {
        let node = match &mount.source {
            MountSource::Dataset { dataset } => self.at(&Key::dataset(dataset)),
            MountSource::Filesystem { device, fstype } => {
                let subvolume = mount.options.iter().find_map(|option| {
                    Some(option.strip_prefix("subvol=")?.trim_matches('/').to_owned())
                });
                match subvolume.filter(|name| !name.is_empty()) {
                    Some(name) => self.at(&Key::Subvolume(device.clone(), name)),
                    None => {
                        let node = self.device(device);
                        node.say(fstype);
                        node
                    }
                }
            }
            MountSource::Virtual { fstype, .. } => self.alone(fstype.clone()),
            MountSource::Bind { path, .. } => self.alone(format!("{path} again")),
        };
        node.mounted_at.push(mount.target.clone());
    }

    /// What is on no disk.
    fn alone(&mut self, label: String) -> &mut Node {
        self.nodes.push(Node { label, ..Node::default() });
        let index = self.nodes.len() - 1;
        self.roots.push(index);
        &mut self.nodes[index]
    }

    fn below(&self, node: usize, before: &str, style: Style, lines: &mut Vec<Line>) {
        let children = &self.nodes[node].children;
        for (position, &child) in children.iter().enumerate() {
            let last = position + 1 == children.len();
            let (branch, on) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let on = format!("{before}{on}");
            lines.push(Line {
                branches: format!("{before}{branch}"),
                rest: format!("{on}  "),
                text: self.nodes[child].text(style),
            });
            self.below(child, &on, style, lines);
        }
    }
}
