//! What the machine is. Reads only: nothing is opened for writing, imported, mounted or loaded,
//! but for the ZFS module, which the kernel loads when `/dev/zfs` is opened.
//!
//! Parsers are pure functions of text or bytes; what they are fed is read below [`Roots`].
//!
//! | module | job |
//! |---|---|
//! | [`system`] | host name, kernel, os-release, host id |
//! | [`firmware`] | UEFI, Secure Boot |
//! | [`hardware`] | processor, memory |
//! | [`network`] | interfaces and addresses |
//! | [`disk`] | disks and their identity |
//! | [`contents`] | what is on a disk and who uses it |
//! | [`nixos`] | an installed NixOS, as its boot entries say it |
//! | [`boot`] | which disks the running system was booted from |
//! | [`mapper`] | open device-mapper devices |
//! | [`array`] | running software RAIDs |
//! | [`pool`] | ZFS: labels, imported pools, the module |

pub mod array;
pub mod boot;
pub mod contents;
pub mod disk;
pub mod firmware;
pub mod hardware;
pub mod mapper;
pub mod network;
pub mod nixos;
pub mod pool;
pub mod system;

pub use system::boot_id;

use crate::block::{DevNo, Roots, holders, sysfs};
use crate::mount::table;
use crate::tool;
use crate::tpm2;
use contents::Surroundings;
use keystone_protocol::inventory::{INVENTORY_VERSION, Inventory, Tpm};
use pool::{Pools, ZfsView};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// The machine can't be described.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// procfs is missing or unreadable.
    #[error("reading the mount table: is /proc mounted, and is this root?")]
    Mounts(#[source] std::io::Error),
    /// Addresses can't be listed.
    #[error("listing the network interfaces")]
    Network(#[source] nix::errno::Errno),
}

/// The inventory of the running machine.
pub fn collect() -> Result<Inventory, InventoryError> {
    collect_at(&Roots::default(), &pool::running(), tpm())
}

/// The inventory of the machine below `roots`, with ZFS as `zfs` sees it.
pub fn collect_at(
    roots: &Roots,
    zfs: &dyn ZfsView,
    tpm: Option<Tpm>,
) -> Result<Inventory, InventoryError> {
    let mounts = table::read(roots).map_err(InventoryError::Mounts)?;
    let pools = Pools::find(roots, zfs, &mounts);
    let surroundings = Surroundings { roots, mounts: &mounts, pools: &pools };
    let boot = boot::disks(roots, &mounts, &pools);
    let disks = disk::names(roots)
        .into_iter()
        .map(|name| {
            let contents = contents::of(&surroundings, &name);
            let boot_medium =
                boot.contains(&name) || boot::is_hidden_medium(roots, &mounts, &name, &contents);
            disk::describe(roots, &name, contents, boot_medium)
        })
        .collect();
    Ok(Inventory {
        version: INVENTORY_VERSION,
        system: system::read(roots),
        firmware: firmware::read(roots),
        tpm,
        cpu: hardware::cpu(roots),
        memory: hardware::memory(roots),
        network: network::interfaces(roots).map_err(InventoryError::Network)?,
        zfs: zfs.module(),
        tools: tools(),
        disks,
        pools: pools.into_imported(),
        mappers: mapper::all(roots, &mounts),
        arrays: array::all(roots, &mounts),
        swaps: swaps(roots),
        target_mounts: target_mounts(&mounts),
    })
}

fn tools() -> BTreeMap<String, String> {
    let path =
        |name: &str| Some((name.to_owned(), tool::find(name)?.to_string_lossy().into_owned()));
    keystone_planner::programs::KNOWN.into_iter().filter_map(path).collect()
}

/// Files that are swapped to lie in file systems, whose mounts tell enough.
fn swaps(roots: &Roots) -> Vec<String> {
    let paths = holders::swaps(roots).into_iter();
    paths
        .filter_map(|path| {
            let devno = DevNo::of_node(Path::new(&path))?;
            sysfs::name_of(roots, devno)
        })
        .collect()
}

/// A TPM that is there but does not answer is told in the log and counts as none.
fn tpm() -> Option<Tpm> {
    let mut tpm = match tpm2::Tpm::open() {
        Ok(tpm) => tpm?,
        Err(error) => {
            tracing::warn!(%error, "the TPM can't be used");
            return None;
        }
    };
    tpm.inventory()
        .inspect_err(|error| tracing::warn!(%error, "the TPM does not describe itself"))
        .ok()
}

fn target_mounts(mounts: &[table::MountPoint]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.is_below(Path::new("/mnt"))) {
        if !found.contains(&mount.target) {
            found.push(mount.target.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests;
