//! Software RAIDs that run.

use crate::block::{Device, Roots, holders, sysfs};
use crate::md::superblock;
use crate::mount::MountPoint;
use keystone_protocol::inventory::RunningArray;

/// All whose members can be read and say what array they are of. What others are made of shows
/// as in use by something unknown.
pub fn all(roots: &Roots, mounts: &[MountPoint]) -> Vec<RunningArray> {
    let devices = sysfs::whole_devices(roots).into_iter().filter(|name| name.starts_with("md"));
    devices.filter_map(|kernel_name| array(roots, mounts, kernel_name)).collect()
}

fn array(roots: &Roots, mounts: &[MountPoint], kernel_name: String) -> Option<RunningArray> {
    let slaves = sysfs::slaves(roots, &kernel_name);
    let member = Device::open_read(roots, slaves.first()?).ok()?;
    let name = superblock::read(&member).ok()??.name;
    let partitions = sysfs::partitions(roots, &kernel_name).into_iter().map(|found| found.name);
    let mounts = partitions
        .chain([kernel_name.clone()])
        .flat_map(|device| holders::mounted_at(roots, &device, mounts))
        .collect();
    Some(RunningArray { kernel_name, name, slaves, mounts })
}
