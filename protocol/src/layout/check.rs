//! Whether the parts of a layout fit together.

use super::{Content, Dataset, Layout, LayoutError, Mounted, PoolMode, Zpool};
use crate::plan::DeviceRef;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that needs more than one attribute to be judged.
pub(super) fn check(layout: &Layout) -> Result<(), LayoutError> {
    if layout.disks.is_empty() {
        return Err(LayoutError::invalid("disk", "the layout has no disk"));
    }
    names(layout)?;
    mount_points(layout)?;
    members(layout)?;
    keys(layout)
}

/// Names by which the installed system finds things must be unique.
fn names(layout: &Layout) -> Result<(), LayoutError> {
    let mut labels = Unique::new("partition's name");
    for disk in &layout.disks {
        for partition in &disk.table.partitions {
            labels.add(&partition.label, format!("{}.label", partition.path))?;
        }
    }
    let mut containers = Unique::new("container's name");
    for (_, content) in layout.contents() {
        if let Content::Luks(luks) = content {
            containers.add(&luks.name, format!("{}.name", luks.path))?;
        }
    }
    let mut pools = Unique::new("pool's name");
    let mut datasets = Unique::new("dataset's name");
    for pool in &layout.zpools {
        pools.add(&pool.name, format!("{}.name", pool.path))?;
        for dataset in &pool.datasets {
            let path = match dataset {
                Dataset::Fs(fs) => &fs.path,
                Dataset::Volume(volume) => &volume.path,
            };
            datasets.add(&format!("{}/{}", pool.name, dataset.name()), format!("{path}.name"))?;
        }
    }
    Ok(())
}

fn mount_points(layout: &Layout) -> Result<(), LayoutError> {
    let mut targets = Unique::new("mount point");
    for mount in layout.mounts() {
        let path = match &mount.what {
            Mounted::Filesystem { filesystem, .. } => &filesystem.path,
            Mounted::Dataset { fs, .. } => &fs.path,
        };
        targets.add(mount.target, format!("{path}.mountpoint"))?;
    }
    Ok(())
}

/// Members belong to pools of the layout, and pools have enough of them.
fn members(layout: &Layout) -> Result<(), LayoutError> {
    for (device, content) in layout.contents() {
        let Content::Zfs(member) = content else { continue };
        if !layout.zpools.iter().any(|pool| pool.name == member.pool) {
            return Err(LayoutError::invalid(
                format!("{}.pool", member.path),
                format!("there is no pool `{}` in the layout's zpool", member.pool),
            ));
        }
        if matches!(device, DeviceRef::Volume { .. }) {
            return Err(LayoutError::invalid(&member.path, "a volume can't be a member of a pool"));
        }
    }
    for pool in &layout.zpools {
        let count = layout.members(&pool.name).len();
        let least = least_members(pool);
        if count < least {
            return Err(LayoutError::invalid(
                &pool.path,
                format!("the pool has {count} members in the layout and needs at least {least}"),
            ));
        }
    }
    Ok(())
}

fn least_members(pool: &Zpool) -> usize {
    match pool.mode {
        PoolMode::Stripe => 1,
        PoolMode::Mirror => 2,
        PoolMode::Raidz(parity) => usize::from(parity) + 1,
    }
}

/// The file system that keeps a key is made before the dataset that needs it.
fn keys(layout: &Layout) -> Result<(), LayoutError> {
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for partition in layout.disks.iter().flat_map(|disk| &disk.table.partitions) {
        made.extend(container_with_files(partition.content.as_ref()));
    }
    for dataset in layout.zpools.iter().flat_map(|pool| &pool.datasets) {
        match dataset {
            Dataset::Volume(volume) => {
                made.extend(container_with_files(volume.content.as_ref()));
            }
            Dataset::Fs(fs) => {
                if let Some(key) = &fs.key
                    && !made.contains(key.container.as_str())
                {
                    return Err(LayoutError::invalid(
                        format!("{}.preCreateHook", fs.path),
                        format!(
                            "the key is kept in /dev/mapper/{}, which is no container with a file \
                             system that is made before this dataset",
                            key.container
                        ),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The name of the container, if it is one and has a file system in it.
fn container_with_files(content: Option<&Content>) -> Option<&str> {
    match content {
        Some(Content::Luks(luks)) if matches!(luks.content, Some(Content::Filesystem(_))) => {
            Some(&luks.name)
        }
        _ => None,
    }
}

/// Names that must differ, and where each was seen first.
struct Unique {
    what: &'static str,
    seen: BTreeMap<String, String>,
}

impl Unique {
    fn new(what: &'static str) -> Self {
        Unique { what, seen: BTreeMap::new() }
    }

    fn add(&mut self, name: &str, path: String) -> Result<(), LayoutError> {
        if let Some(first) = self.seen.get(name) {
            let problem = format!("the {} `{name}` is taken already, at {first}", self.what);
            return Err(LayoutError::Invalid { path, problem });
        }
        self.seen.insert(name.to_owned(), path);
        Ok(())
    }
}
