//! Who uses the disks now, and the steps that end it.
//!
//! The dependencies are followed across what the kernel does not connect: a volume depends on the
//! disks of its pool, though neither sysfs nor lsblk shows it. So a container on a volume is
//! closed before its pool is destroyed, and the pool before its disk is wiped.

use super::{Disks, End};
use crate::refuse::refuse;
use crate::words::{self, list};
use crate::{Context, TARGET, lvm};
use keystone_protocol::inventory::{Disk, Holder, ImportedPool, Mapper, RunningArray};
use keystone_protocol::layout::Content;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, Release};
use std::collections::BTreeSet;

/// Where an interrupted installation may have left mounts, beside the target's root.
const OWN_DIRECTORY: &str = "/run/keystone";

/// Everything that ends all uses of the disks, leaf first: mounts, swap, containers and pools.
pub(super) fn releases(
    context: &Context<'_>,
    disks: &Disks<'_>,
    end: End,
) -> Result<Vec<Release>, Refusal> {
    let uses = Uses::find(context, disks, end);
    uses.refuse_shared()?;
    uses.refuse_unknown_holders()?;
    uses.refuse_foreign_pools()?;
    let mut releases = uses.unmounts()?;
    if context.mode.formats() || context.mode.mounts() {
        let all = Uses::find(context, &context.disks, end);
        all.refuse_taken_names()?;
        all.refuse_taken_target()?;
    }
    releases.extend(uses.swapoffs()?);
    uses.close_all(&mut releases);
    Ok(releases)
}

/// What depends on the disks, directly or not.
struct Uses<'a> {
    context: &'a Context<'a>,
    /// The disks whose uses end.
    disks: &'a Disks<'a>,
    end: End,
    /// Kernel names of everything that is made of the disks, the disks among them.
    devices: BTreeSet<&'a str>,
    mappers: Vec<&'a Mapper>,
    arrays: Vec<&'a RunningArray>,
    pools: Vec<&'a ImportedPool>,
}

impl<'a> Uses<'a> {
    fn find(context: &'a Context<'a>, disks: &'a Disks<'a>, end: End) -> Self {
        let mut devices: BTreeSet<&str> = BTreeSet::new();
        for disk in disks.values() {
            devices.insert(&disk.kernel_name);
            devices.extend(disk.contents.partitions.iter().map(|p| p.kernel_name.as_str()));
        }
        let inventory = context.inventory;
        let (mappers, arrays, pools) = (Vec::new(), Vec::new(), Vec::new());
        let mut uses = Uses { context, disks, end, devices, mappers, arrays, pools };
        // Each turn follows the dependencies by one level; the last finds nothing.
        loop {
            let before = uses.devices.len() + uses.pools.len();
            uses.mappers =
                inventory.mappers.iter().filter(|mapper| uses.any(&mapper.slaves)).collect();
            uses.arrays = inventory.arrays.iter().filter(|array| uses.any(&array.slaves)).collect();
            uses.pools = inventory.pools.iter().filter(|pool| uses.any(&pool.devices)).collect();
            uses.devices.extend(uses.arrays.iter().map(|array| array.kernel_name.as_str()));
            uses.devices.extend(uses.mappers.iter().map(|mapper| mapper.kernel_name.as_str()));
            let volumes = uses.pools.iter().flat_map(|pool| pool.volumes.keys());
            uses.devices.extend(volumes.map(String::as_str));
            if uses.devices.len() + uses.pools.len() == before {
                return uses;
            }
        }
    }

    /// Whether a device is made of the disks. Partitions of volumes and of RAIDs count as what
    /// they are on.
    fn has(&self, name: &str) -> bool {
        self.devices.contains(name) || self.devices.contains(whole(name))
    }

    fn any(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    fn disks(&self) -> impl Iterator<Item = (&'a str, &'a Disk)> {
        self.disks.iter().map(|(name, disk)| (*name, *disk))
    }

    /// What lives on other disks too is not ours to close.
    fn refuse_shared(&self) -> Result<(), Refusal> {
        for pool in &self.pools {
            if let Some(others) = self.elsewhere(&pool.devices) {
                return Err(refuse(
                    RefusalKind::TargetUnfit,
                    format!(
                        "the pool {:?} is imported and lives on {others} too, besides a disk of \
                         the layout",
                        pool.name
                    ),
                    format!(
                        "export it (zpool export {}) and detach its other disks, or destroy it",
                        pool.name
                    ),
                ));
            }
        }
        for mapper in &self.mappers {
            if let Some(others) = self.elsewhere(&mapper.slaves) {
                return Err(refuse(
                    RefusalKind::TargetUnfit,
                    format!(
                        "/dev/mapper/{} is made of a disk of the layout and of {others} too",
                        mapper.name
                    ),
                    format!("close it (dmsetup remove {}) if nothing needs it", mapper.name),
                ));
            }
        }
        for group in self.mappers.iter().filter_map(|mapper| group_of(mapper)) {
            let volumes = self.context.inventory.mappers.iter();
            let mut volumes = volumes.filter(|mapper| group_of(mapper).as_deref() == Some(&group));
            let elsewhere = volumes.find(|mapper| !self.has(&mapper.kernel_name));
            if let Some(mapper) = elsewhere {
                return Err(refuse(
                    RefusalKind::TargetUnfit,
                    format!(
                        "the volume group {group} is on a disk of the layout, and its volume \
                         /dev/mapper/{} on {}",
                        mapper.name,
                        list(&self.where_is(&mapper.slaves.iter().collect::<Vec<_>>()))
                    ),
                    format!("deactivate it (vgchange -an {group}) if nothing needs it"),
                ));
            }
        }
        for array in &self.arrays {
            if let Some(others) = self.elsewhere(&array.slaves) {
                return Err(refuse(
                    RefusalKind::TargetUnfit,
                    format!(
                        "the RAID {} (/dev/{}) is made of a disk of the layout and of {others} too",
                        array.name, array.kernel_name
                    ),
                    format!(
                        "stop it (mdadm --stop /dev/{}) if nothing needs it",
                        array.kernel_name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Those of the parts that are not on our disks, in words.
    fn elsewhere(&self, parts: &[String]) -> Option<String> {
        let others: Vec<&String> = parts.iter().filter(|name| !self.has(name)).collect();
        (!others.is_empty()).then(|| list(&self.where_is(&others)))
    }

    /// Only pools of the layout are exported; what else was imported has its reasons.
    fn refuse_foreign_pools(&self) -> Result<(), Refusal> {
        let of_layout = |name: &str| self.context.layout.zpools.iter().any(|p| p.name == name);
        let foreign = self.pools.iter().find(|pool| !of_layout(&pool.name));
        match foreign.filter(|_| self.end == End::Exported) {
            None => Ok(()),
            Some(pool) => Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "the pool {:?} is imported from a disk of the layout, which does not have it",
                    pool.name
                ),
                format!("export it: zpool export {}", pool.name),
            )),
        }
    }

    /// Names that the layout needs and something else has.
    fn refuse_taken_names(&self) -> Result<(), Refusal> {
        let inventory = self.context.inventory;
        let ours = |guid: &str| self.pools.iter().any(|pool| pool.guid == guid);
        for wanted in &self.context.layout.zpools {
            let taken = inventory.pools.iter().find(|p| p.name == wanted.name && !ours(&p.guid));
            if let Some(pool) = taken {
                return Err(self.taken(
                    format!("a pool {:?} (guid {}) is imported from", pool.name, pool.guid),
                    &pool.devices,
                    format!("export it (zpool export {}) and detach its disks", pool.name),
                ));
            }
        }
        for (_, content) in self.context.layout.contents() {
            let keystone_protocol::layout::Content::Luks(luks) = content else { continue };
            let taken = inventory
                .mappers
                .iter()
                .find(|mapper| mapper.name == luks.name && !self.has(&mapper.kernel_name));
            if let Some(mapper) = taken {
                return Err(self.taken(
                    format!(
                        "/dev/mapper/{}, a name that the layout needs, is open on",
                        mapper.name
                    ),
                    &mapper.slaves,
                    format!("close it: cryptsetup close {}", mapper.name),
                ));
            }
        }
        self.refuse_taken_groups()?;
        self.refuse_taken_arrays()
    }

    /// Volume groups of the same name can't both be active.
    fn refuse_taken_groups(&self) -> Result<(), Refusal> {
        for wanted in &self.context.layout.groups {
            let of_group = |mapper: &&Mapper| {
                group_of(mapper).as_ref() == Some(&wanted.name) && !self.has(&mapper.kernel_name)
            };
            if let Some(mapper) = self.context.inventory.mappers.iter().find(of_group) {
                return Err(self.taken(
                    format!("a volume group {:?} is active on", wanted.name),
                    &mapper.slaves,
                    format!("deactivate it: vgchange -an {}", wanted.name),
                ));
            }
        }
        Ok(())
    }

    /// Nor can RAIDs of the same name run.
    fn refuse_taken_arrays(&self) -> Result<(), Refusal> {
        for wanted in &self.context.layout.arrays {
            let running =
                |array: &&RunningArray| array.name == wanted.name && !self.has(&array.kernel_name);
            if let Some(array) = self.context.inventory.arrays.iter().find(running) {
                return Err(self.taken(
                    format!("a RAID {:?} runs on", wanted.name),
                    &array.slaves,
                    format!("stop it: mdadm --stop /dev/{}", array.kernel_name),
                ));
            }
        }
        Ok(())
    }

    /// A name of the layout's is that of something on other disks.
    fn taken(&self, what_on: String, devices: &[String], hint: String) -> Refusal {
        let disks = list(&self.where_is(&devices.iter().collect::<Vec<_>>()));
        let sentence = format!("{what_on} {disks}, which is not to be installed on");
        refuse(RefusalKind::TargetUnfit, sentence, hint)
    }

    /// Kernel names as the disks they are on.
    fn where_is(&self, names: &[&String]) -> Vec<String> {
        let on = |name: &str| {
            self.context.inventory.disks.iter().find(|disk| {
                disk.kernel_name == name
                    || disk.contents.partitions.iter().any(|p| p.kernel_name == name)
            })
        };
        let mut found: Vec<String> = names
            .iter()
            .map(|name| {
                on(name).map_or_else(|| format!("/dev/{name}"), |d| words::disk(&d.identity))
            })
            .collect();
        found.dedup();
        found
    }

    /// Every holder must be something that can be ended here.
    fn refuse_unknown_holders(&self) -> Result<(), Refusal> {
        for (name, disk) in self.disks() {
            for holder in holders(disk) {
                let problem = match holder {
                    Holder::Device { kernel_name, name: mapper } if !self.has(kernel_name) => {
                        let shown = mapper.as_ref().unwrap_or(kernel_name);
                        Some((
                            format!("{shown} (/dev/{kernel_name}) is made of it"),
                            "stop it: mdadm --stop, vgchange -an, dmsetup remove, as it may be",
                        ))
                    }
                    Holder::Pool { name: pool, guid }
                        if !self.pools.iter().any(|known| known.guid == *guid) =>
                    {
                        Some((
                            format!("the imported pool {pool:?} has it, but can't be read"),
                            "export it, or reboot the installer",
                        ))
                    }
                    _ => None,
                };
                if let Some((problem, hint)) = problem {
                    return Err(refuse(
                        RefusalKind::TargetUnfit,
                        format!(
                            "disk {name:?}, {}, is in use: {problem}",
                            words::disk(&disk.identity)
                        ),
                        hint,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Where something of the disks is mounted.
    fn mounts(&self) -> BTreeSet<&'a str> {
        let mut mounts: BTreeSet<&str> = BTreeSet::new();
        for (_, disk) in self.disks() {
            mounts.extend(holders(disk).filter_map(|holder| match holder {
                Holder::Mount { target } => Some(target.as_str()),
                _ => None,
            }));
        }
        mounts.extend(self.mappers.iter().flat_map(|mapper| &mapper.mounts).map(String::as_str));
        mounts.extend(self.arrays.iter().flat_map(|array| &array.mounts).map(String::as_str));
        mounts.extend(self.pools.iter().flat_map(|pool| &pool.mounts).map(String::as_str));
        mounts
    }

    /// What is mounted below the target's root must be of the layout's disks.
    fn refuse_taken_target(&self) -> Result<(), Refusal> {
        let mounts = self.mounts();
        let mut targets = self.context.inventory.target_mounts.iter();
        // What was mounted into a target of ours goes with it.
        match targets.find(|target| !mounts.iter().any(|ours| is_below(target, ours))) {
            None => Ok(()),
            Some(target) => Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "something is mounted at {target} that is not on the disks of the layout, \
                     and the installation needs {TARGET}"
                ),
                format!("unmount it: umount --recursive {target}"),
            )),
        }
    }

    /// Unmounts what is mounted of the disks, deepest first; only below the target's root.
    fn unmounts(&self) -> Result<Vec<Release>, Refusal> {
        let mut mounts = self.mounts();
        let own = |target: &str| is_below(target, TARGET) || is_below(target, OWN_DIRECTORY);
        if let Some(foreign) = mounts.iter().find(|target| !own(target)) {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!("a file system on the disks of the layout is mounted at {foreign}"),
                format!("unmount it: umount {foreign}"),
            ));
        }
        for target in self.context.inventory.target_mounts.iter().map(String::as_str) {
            if mounts.iter().any(|ours| is_below(target, ours)) {
                mounts.insert(target);
            }
        }
        let mut mounts: Vec<&str> = mounts.into_iter().collect();
        mounts.sort_by_key(|target| std::cmp::Reverse((depth(target), *target)));
        Ok(mounts
            .into_iter()
            .map(|target| Release::Unmount { target: target.to_owned() })
            .collect())
    }

    /// Ends swapping to what is swap in the layout. Other swap is somebody's.
    fn swapoffs(&self) -> Result<Vec<Release>, Refusal> {
        let mut releases = Vec::new();
        for (name, disk) in self.disks() {
            let swapped = |holders: &[Holder]| holders.contains(&Holder::Swap);
            if swapped(&disk.contents.holders) {
                return Err(swap(words::disk(&disk.identity), &disk.kernel_name));
            }
            for partition in disk.contents.partitions.iter().filter(|p| swapped(&p.holders)) {
                let layout = self.context.layout.disks.iter().find(|disk| disk.name == name);
                let number = partition.number;
                let label = partition.label.as_deref();
                let own = layout.is_some_and(|disk| match &disk.content {
                    // Its partitions have no names.
                    Some(Content::Table(table)) => table
                        .partitions
                        .iter()
                        .any(|p| p.number == number && matches!(p.content, Some(Content::Swap(_)))),
                    _ => disk.partitions().iter().any(|p| Some(p.label.as_str()) == label),
                });
                if !own {
                    let shown = words::disk(&disk.identity);
                    return Err(swap(
                        format!("partition {number} of {shown}"),
                        &partition.kernel_name,
                    ));
                }
                releases.push(Release::Swapoff {
                    device: DeviceRef::Partition {
                        disk: name.to_owned(),
                        number: partition.number,
                    },
                });
            }
        }
        for name in self.context.inventory.swaps.iter().filter(|name| self.has(name)) {
            let Some(shown) = self.above(name) else { continue };
            let mut contents = self.context.layout.contents().into_iter();
            let own = contents.find(|(device, content)| {
                matches!(content, Content::Swap(_)) && self.is(name, device)
            });
            match own {
                Some((device, _)) => releases.push(Release::Swapoff { device }),
                None => return Err(swap(shown, name)),
            }
        }
        Ok(releases)
    }

    /// What a device is called that is made of the disks; `None` for the disks themselves and
    /// their partitions.
    fn above(&self, name: &str) -> Option<String> {
        if let Some(mapper) = self.mapper(name) {
            return Some(format!("/dev/mapper/{}", mapper.name));
        }
        if let Some(array) = self.array(whole(name)) {
            return Some(format!("/dev/{name} of the RAID {}", array.name));
        }
        let dataset = self.pools.iter().find_map(|pool| pool.volumes.get(whole(name)))?;
        Some(format!("the volume {dataset}"))
    }

    fn mapper(&self, name: &str) -> Option<&'a Mapper> {
        self.mappers.iter().copied().find(|mapper| mapper.kernel_name == name)
    }

    fn array(&self, name: &str) -> Option<&'a RunningArray> {
        self.arrays.iter().copied().find(|array| array.kernel_name == name)
    }

    /// Whether a device that is made of the disks is that one of the layout.
    fn is(&self, name: &str, device: &DeviceRef) -> bool {
        match device {
            DeviceRef::LogicalVolume { group, name: volume } => {
                self.mapper(name).is_some_and(|mapper| {
                    mapper.uuid.starts_with(lvm::UUID_PREFIX)
                        && mapper.name == lvm::mapper_name(group, volume)
                })
            }
            DeviceRef::Mapper { name: wanted } => self
                .mapper(name)
                .is_some_and(|mapper| mapper.name == *wanted && group_of(mapper).is_none()),
            DeviceRef::Array { name: wanted } => {
                self.array(name).is_some_and(|array| array.name == *wanted)
            }
            DeviceRef::Volume { dataset } => {
                self.pools.iter().any(|pool| pool.volumes.get(name) == Some(dataset))
            }
            DeviceRef::Inner { on, number } => {
                let partition = name.strip_prefix(whole(name)).and_then(|p| p.strip_prefix('p'));
                partition.is_some_and(|found| found == number.to_string())
                    && self.is(whole(name), on)
            }
            DeviceRef::Disk { .. } | DeviceRef::Partition { .. } => false,
        }
    }

    /// Closes mappers, RAIDs and pools, each after everything that is made of it.
    fn close_all(&self, releases: &mut Vec<Release>) {
        let mut done = BTreeSet::new();
        for (_, disk) in self.disks() {
            self.close_above(&disk.kernel_name, releases, &mut done);
            for partition in &disk.contents.partitions {
                self.close_above(&partition.kernel_name, releases, &mut done);
            }
        }
    }

    /// Closes what is made of the device `name`.
    fn close_above(&self, name: &str, releases: &mut Vec<Release>, done: &mut BTreeSet<&'a str>) {
        let made_of =
            |parts: &[String]| parts.iter().any(|part| part == name || whole(part) == name);
        for mapper in self.mappers.iter().filter(|mapper| made_of(&mapper.slaves)) {
            if !done.insert(&mapper.kernel_name) {
                continue;
            }
            let Some(group) = group_of(mapper) else {
                self.close_above(&mapper.kernel_name, releases, done);
                releases.push(Release::CloseMapper {
                    name: mapper.name.clone(),
                    uuid: mapper.uuid.clone(),
                });
                continue;
            };
            // The group's volumes end together, after what is made of any of them.
            let volumes =
                self.mappers.iter().filter(|other| group_of(other).as_ref() == Some(&group));
            let volumes: Vec<_> = volumes.collect();
            done.extend(volumes.iter().map(|volume| volume.kernel_name.as_str()));
            for volume in volumes {
                self.close_above(&volume.kernel_name, releases, done);
            }
            releases.push(Release::DeactivateGroup { name: group });
        }
        for array in self.arrays.iter().filter(|array| made_of(&array.slaves)) {
            if done.insert(&array.kernel_name) {
                self.close_above(&array.kernel_name, releases, done);
                releases.push(Release::StopArray { name: array.name.clone() });
            }
        }
        for pool in self.pools.iter().filter(|pool| made_of(&pool.devices)) {
            if done.insert(&pool.guid) {
                for volume in pool.volumes.keys() {
                    self.close_above(volume, releases, done);
                }
                let (name, guid) = (pool.name.clone(), pool.guid.clone());
                releases.push(match self.end {
                    End::Destroyed => Release::DestroyPool { name, guid },
                    End::Exported => {
                        let members = self.context.layout.data_members(&name);
                        Release::ExportPool { name, guid, members }
                    }
                });
            }
        }
    }
}

fn swap(what: String, kernel_name: &str) -> Refusal {
    refuse(
        RefusalKind::TargetUnfit,
        format!("{what}, on a disk of the layout, is active swap"),
        format!("stop swapping to it: swapoff /dev/{kernel_name}"),
    )
}

/// Holders of a disk and its partitions.
fn holders(disk: &Disk) -> impl Iterator<Item = &Holder> {
    let partitions = disk.contents.partitions.iter().flat_map(|partition| &partition.holders);
    disk.contents.holders.iter().chain(partitions)
}

/// The volume group of a mapper that is LVM's.
pub(crate) fn group_of(mapper: &Mapper) -> Option<String> {
    lvm::group_of(&mapper.name, &mapper.uuid)
}

/// The volume or RAID that `zd16p1` or `md127p1` is a partition of.
fn whole(name: &str) -> &str {
    match name.rsplit_once('p') {
        Some((whole, number))
            if (whole.starts_with("zd") || whole.starts_with("md"))
                && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            whole
        }
        _ => name,
    }
}

fn is_below(path: &str, root: &str) -> bool {
    path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}
