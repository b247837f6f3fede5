//! Whether the parts of a layout fit together.

use super::{Content, Dataset, Layout, LayoutError, PoolMode, Root, ZfsKey, Zpool};
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
    for (_, partition) in layout.partitions() {
        labels.add(&partition.label, format!("{}.label", partition.path))?;
    }
    let mut groups = Unique::new("volume group's name");
    let mut volumes = Unique::new("logical volume's name");
    for group in &layout.groups {
        groups.add(&group.name, format!("{}.name", group.path))?;
        for volume in &group.volumes {
            let name = format!("{}/{}", group.name, volume.name);
            volumes.add(&name, format!("{}.name", volume.path))?;
        }
    }
    let mut arrays = Unique::new("RAID's name");
    for array in &layout.arrays {
        arrays.add(&array.name, format!("{}.name", array.path))?;
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
        targets.add(mount.target, format!("{}.mountpoint", mount.path()))?;
    }
    Ok(())
}

/// Members belong to something of the layout, which has enough of them.
fn members(layout: &Layout) -> Result<(), LayoutError> {
    for (device, content) in layout.contents() {
        let (attribute, kind, name, there) = match content {
            Content::Zfs(member) => {
                let there = layout.zpools.iter().any(|pool| pool.name == member.pool);
                ("pool", "pool", &member.pool, there.then_some("zpool"))
            }
            Content::PhysicalVolume(volume) => {
                let there = layout.groups.iter().any(|group| group.name == volume.group);
                ("vg", "volume group", &volume.group, there.then_some("lvm_vg"))
            }
            Content::ArrayMember(member) => {
                let there = layout.arrays.iter().any(|array| array.name == member.array);
                ("name", "RAID", &member.array, there.then_some("mdadm"))
            }
            _ => continue,
        };
        if there.is_none() {
            let set = match attribute {
                "pool" => "zpool",
                "vg" => "lvm_vg",
                _ => "mdadm",
            };
            return Err(LayoutError::invalid(
                format!("{}.{attribute}", content.path()),
                format!("there is no {kind} `{name}` in the layout's {set}"),
            ));
        }
        let on_pool = matches!(device, DeviceRef::Volume { .. });
        if on_pool && matches!(content, Content::Zfs(_)) {
            let problem = "a volume can't be a member of a pool";
            return Err(LayoutError::invalid(content.path(), problem));
        }
    }
    for pool in &layout.zpools {
        pool_members(layout, pool)?;
    }
    for group in &layout.groups {
        enough(&group.path, "volume group", layout.physical_volumes(&group.name).len(), 1)?;
        thin_pools(group)?;
    }
    for array in &layout.arrays {
        // Source: mdadm(8), "--level" and "--raid-devices".
        let least = match array.level {
            0 | 1 | 4 | 5 | 10 => 2,
            _ => 4,
        };
        enough(&array.path, "RAID", layout.array_members(&array.name).len(), least)?;
    }
    Ok(())
}

fn enough(path: &str, what: &str, count: usize, least: usize) -> Result<(), LayoutError> {
    if count >= least {
        return Ok(());
    }
    let problem =
        format!("the {what} has {count} members in the layout and needs at least {least}");
    Err(LayoutError::invalid(path, problem))
}

fn pool_members(layout: &Layout, pool: &Zpool) -> Result<(), LayoutError> {
    let members = layout.members(&pool.name);
    let topology = match &pool.mode {
        PoolMode::One(mode) => {
            return enough(&pool.path, "pool", members.len(), mode.least_members());
        }
        PoolMode::Topology(topology) => topology,
    };
    let path = format!("{}.mode.topology", pool.path);
    let mut used = BTreeSet::new();
    for word in topology.members() {
        let Some(member) = layout.member(&pool.name, word) else {
            return Err(LayoutError::invalid(
                path,
                format!("`{word}` is no member of the pool `{}` in the layout", pool.name),
            ));
        };
        if !used.insert(member) {
            return Err(LayoutError::invalid(path, format!("`{word}` is a member twice")));
        }
    }
    match members.iter().find(|member| !used.contains(member)) {
        None => Ok(()),
        Some(member) => Err(LayoutError::invalid(
            path,
            format!("{member:?} is a member of the pool and has no place in its topology"),
        )),
    }
}

/// A thin volume's pool is made before it.
fn thin_pools(group: &super::VolumeGroup) -> Result<(), LayoutError> {
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for volume in &group.volumes {
        match &volume.thin_pool {
            Some(pool) if !made.contains(pool.as_str()) => {
                return Err(LayoutError::invalid(
                    format!("{}.pool", volume.path),
                    format!("there is no thin pool `{pool}` that is made before this volume"),
                ));
            }
            _ => {}
        }
        if volume.kind.as_deref() == Some("thin-pool") {
            made.insert(&volume.name);
        }
    }
    Ok(())
}

/// The file system that keeps a key is made before the dataset that needs it.
fn keys(layout: &Layout) -> Result<(), LayoutError> {
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for root in layout.order() {
        let Root::Pool(index) = *root else {
            let contents = layout.contents_of(*root);
            made.extend(contents.into_iter().filter_map(|p| container_with_files(p.content)));
            continue;
        };
        for dataset in &layout.zpools[index].datasets {
            match dataset {
                Dataset::Volume(volume) => {
                    made.extend(volume.content.as_ref().and_then(container_with_files));
                }
                Dataset::Fs(fs) => {
                    if let Some(ZfsKey::Credstore(key)) = &fs.key
                        && !made.contains(key.container.as_str())
                    {
                        return Err(LayoutError::invalid(
                            format!("{}.preCreateHook", fs.path),
                            format!(
                                "the key is kept in /dev/mapper/{}, which is no container with a \
                                 file system that is made before this dataset",
                                key.container
                            ),
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The name of the container, if it is one and has a file system in it.
fn container_with_files(content: &Content) -> Option<&str> {
    match content {
        Content::Luks(luks) if matches!(luks.content, Some(Content::Filesystem(_))) => {
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
