//! In which order disko makes devices.
//!
//! disko takes the devices by kind and name, and moves each that others need before those (nixpkgs,
//! `lib.toposort`): a RAID follows the disks of its members. The same is done here, so that what
//! draws numbers from the order (names of md devices) draws the same.

use super::{Content, Layout, LayoutError};
use crate::plan::DeviceRef;

/// Something at the layout's top that devices are made of, as kind and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A disk.
    Disk(usize),
    /// A volume group.
    Group(usize),
    /// A RAID.
    Array(usize),
    /// A file system without a device.
    Nodev(usize),
    /// A pool.
    Pool(usize),
}

/// The order, or what depends on itself.
pub(super) fn order(layout: &Layout) -> Result<Vec<Root>, LayoutError> {
    let mut rest: Vec<Root> = (0..layout.disks.len()).map(Root::Disk).collect();
    rest.extend((0..layout.groups.len()).map(Root::Group));
    rest.extend((0..layout.arrays.len()).map(Root::Array));
    rest.extend((0..layout.nodevs.len()).map(Root::Nodev));
    rest.extend((0..layout.zpools.len()).map(Root::Pool));
    let needs: Vec<(Root, Root)> = rest
        .iter()
        .flat_map(|root| {
            let needed_by = |content: &Content| needed_by(layout, content);
            layout
                .contents_of(*root)
                .into_iter()
                .filter_map(move |placed| Some((*root, needed_by(placed.content)?)))
        })
        .collect();
    let before = |a: Root, b: Root| needs.contains(&(a, b));
    let mut order = Vec::new();
    while !rest.is_empty() {
        // Depth first: from the head of the list to the first one before it, and so on.
        let mut visited: Vec<Root> = Vec::new();
        let mut current = rest.remove(0);
        loop {
            if visited.iter().any(|seen| before(*seen, current)) || before(current, current) {
                return Err(LayoutError::invalid(
                    path(layout, current),
                    "depends on itself: it is made of something that is made of it",
                ));
            }
            let (mut earlier, others): (Vec<Root>, Vec<Root>) =
                rest.iter().partition(|root| before(**root, current));
            if earlier.is_empty() {
                break;
            }
            visited.insert(0, current);
            current = earlier.remove(0);
            rest = earlier.into_iter().chain(others).collect();
        }
        order.push(current);
        rest = visited.into_iter().chain(rest).collect();
    }
    Ok(order)
}

/// What a member belongs to.
fn needed_by(layout: &Layout, content: &Content) -> Option<Root> {
    match content {
        Content::Zfs(member) => {
            layout.zpools.iter().position(|pool| pool.name == member.pool).map(Root::Pool)
        }
        Content::PhysicalVolume(volume) => {
            layout.groups.iter().position(|group| group.name == volume.group).map(Root::Group)
        }
        Content::ArrayMember(member) => {
            layout.arrays.iter().position(|array| array.name == member.array).map(Root::Array)
        }
        _ => None,
    }
}

fn path(layout: &Layout, root: Root) -> String {
    match root {
        Root::Disk(index) => layout.disks[index].path.clone(),
        Root::Group(index) => layout.groups[index].path.clone(),
        Root::Array(index) => layout.arrays[index].path.clone(),
        Root::Nodev(index) => layout.nodevs[index].path.clone(),
        Root::Pool(index) => layout.zpools[index].path.clone(),
    }
}

/// A content in its place.
#[derive(Debug, Clone)]
pub struct Placed<'a> {
    /// What it is put onto.
    pub device: DeviceRef,
    /// What is put there.
    pub content: &'a Content,
    /// The hooks of all that it is in, outermost first, its own last.
    pub hooks: Vec<&'a super::Hooks>,
}
