//! Pools with their datasets.

use super::{Builder, words};
use keystone_protocol::layout::{Dataset, ZfsFs, ZfsKey, ZfsVolume, Zpool};
use keystone_protocol::plan::{Action, DatasetKey, DeviceRef, HookKind, ImportPlan};
use std::collections::BTreeSet;

/// A key in the plan's words.
pub(crate) fn dataset_key(key: &ZfsKey) -> DatasetKey {
    match key {
        ZfsKey::Credstore(key) => DatasetKey::Made {
            device: DeviceRef::Mapper { name: key.container.clone() },
            file: key.file.clone(),
        },
        ZfsKey::File { path } => DatasetKey::File { path: path.clone() },
        ZfsKey::Asked => DatasetKey::Asked,
    }
}

impl Builder<'_> {
    pub(super) fn pool(&mut self, pool: &Zpool) {
        self.hook(&pool.hooks, HookKind::PreCreate, "");
        if let Some(found) = self.existing.pool(&pool.name) {
            self.push(
                format!("pool:{}", pool.name),
                format!("import pool {}", pool.name),
                Action::ImportPool(ImportPlan {
                    name: pool.name.clone(),
                    guid: found.guid.clone(),
                    members: self.context.layout.data_members(&pool.name),
                    auxiliary: self.context.layout.auxiliary_members(&pool.name),
                    any_host: found.any_host,
                }),
            );
        } else if let Some(plan) = self.decisions.pools.iter().find(|plan| plan.name == pool.name) {
            self.push(
                format!("pool:{}", pool.name),
                format!("make pool {}", pool.name),
                Action::CreatePool(plan.clone()),
            );
        }
        if self.existing.pool(&pool.name).is_some() {
            self.load_key(&pool.name, pool.root.key.as_ref());
            self.root_properties(pool);
        }
        // The root dataset is there already.
        let mut made: BTreeSet<String> = BTreeSet::from([pool.name.clone()]);
        for dataset in &pool.datasets {
            let name = pool.full_name(dataset.name());
            if !self.context.mode.formats() {
                match dataset {
                    Dataset::Fs(fs) => self.load_key(&name, fs.key.as_ref()),
                    Dataset::Volume(volume) => {
                        self.load_key(&name, volume.key.as_ref());
                        let device = DeviceRef::Volume { dataset: name };
                        self.content(&device, volume.content.as_ref());
                    }
                }
                continue;
            }
            self.hook(dataset.hooks(), HookKind::PreCreate, "");
            self.parents(&name, &mut made);
            match dataset {
                Dataset::Fs(fs) => {
                    self.dataset(&name, fs);
                    self.snapshots(&fs.snapshots);
                }
                Dataset::Volume(volume) => {
                    self.volume(&name, volume);
                    self.snapshots(&volume.snapshots);
                }
            }
            self.hook(dataset.hooks(), HookKind::PostCreate, "");
            made.insert(name);
        }
        if self.context.mode.formats() {
            self.snapshots(&pool.snapshots);
        }
        self.hook(&pool.hooks, HookKind::PostCreate, "");
    }

    /// Gives the root dataset of a pool that is there the layout's properties.
    fn root_properties(&mut self, pool: &Zpool) {
        let properties = pool.root.properties();
        if !self.context.mode.formats() || properties.is_empty() {
            return;
        }
        self.push(
            format!("dataset:{}", pool.name),
            format!("set the properties of {}", pool.name),
            // A key it has was loaded by the step before.
            Action::CreateDataset { dataset: pool.name.clone(), properties, key: None },
        );
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
        if let Some(ZfsKey::Credstore(key)) = &fs.key {
            self.push(
                format!("key:{name}"),
                format!("make the key of {name} in container {}", key.container),
                Action::CreateKey {
                    device: DeviceRef::Mapper { name: key.container.clone() },
                    file: key.file.clone(),
                    bytes: key.bytes,
                },
            );
            self.remarks.notes.push(format!(
                "{}: the hooks that make the key of {name} are not run; it is made natively in \
                 container {}, once, readable by root alone, synced and read back",
                fs.path, key.container
            ));
        }
        self.push(
            format!("dataset:{name}"),
            format!("make {}dataset {name}", encrypted(fs.key.as_ref())),
            Action::CreateDataset {
                dataset: name.to_owned(),
                properties: fs.properties(),
                key: fs.key.as_ref().map(dataset_key),
            },
        );
    }

    /// Loads the key of an encryption root that is there.
    fn load_key(&mut self, name: &str, key: Option<&ZfsKey>) {
        let key = match key {
            Some(ZfsKey::Credstore(key)) => key,
            Some(other) => {
                self.push(
                    format!("key:{name}"),
                    format!("load the key of {name}"),
                    Action::UnlockDataset { dataset: name.to_owned(), key: dataset_key(other) },
                );
                return;
            }
            None => return,
        };
        self.push(
            format!("key:{name}"),
            format!("load the key of {name} from container {}", key.container),
            Action::LoadKey {
                dataset: name.to_owned(),
                device: DeviceRef::Mapper { name: key.container.clone() },
                file: key.file.clone(),
                bytes: key.bytes,
            },
        );
    }

    fn volume(&mut self, name: &str, volume: &ZfsVolume) {
        let encrypted = encrypted(volume.key.as_ref());
        self.push(
            format!("volume:{name}"),
            format!("make {encrypted}volume {name} of {}", words::human(volume.size)),
            Action::CreateVolume {
                dataset: name.to_owned(),
                size: volume.size,
                properties: volume.options.clone(),
                sparse: volume.sparse,
                key: volume.key.as_ref().map(dataset_key),
            },
        );
        let device = DeviceRef::Volume { dataset: name.to_owned() };
        self.content(&device, volume.content.as_ref());
    }

    fn snapshots(&mut self, names: &[String]) {
        for name in names {
            self.push(
                format!("snapshot:{name}"),
                format!("make snapshot {name}"),
                Action::CreateSnapshot { snapshot: name.clone() },
            );
        }
    }
}

fn encrypted(key: Option<&ZfsKey>) -> &'static str {
    if key.is_some() { "encrypted " } else { "" }
}
