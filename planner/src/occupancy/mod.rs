//! What is on the disks, who uses it, and how that ends.

mod contents;
mod uses;

use super::refuse::refuse;
use super::{Context, Remarks, words};
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::inventory::{Disk, Signature};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{Action, Destroyed, DeviceRef, Release, Step};
use std::collections::BTreeMap;

pub(super) use contents::signature;
pub(super) use uses::group_of;

/// What is there now and will be gone.
pub(super) struct Occupancy {
    /// One entry for each disk of the layout, blank or not.
    pub(super) destroys: Vec<Destroyed>,
    /// Steps that end all uses of the disks, leaf first.
    pub(super) steps: Vec<Step>,
    /// The last steps of a plan that only ends uses: that all of them ended.
    pub(super) proof: Vec<Step>,
}

/// Describes the disks that are wiped and finds out how to free them; refuses if somebody else
/// uses them. Disks that stay keep their uses, unless the mode is to end those.
pub(super) fn find(context: &Context<'_>, remarks: &mut Remarks) -> Result<Occupancy, Refusal> {
    let wiped: Disks<'_> = context
        .layout
        .disks
        .iter()
        .filter(|disk| context.wipes(disk))
        .map(|disk| (disk.name.as_str(), context.disks[disk.name.as_str()]))
        .collect();
    let mut proof = Vec::new();
    let releases = if context.mode == DiskoMode::Unmount {
        proof.push(crate::system::seal());
        uses::releases(context, &context.disks, End::Exported)?
    } else {
        uses::releases(context, &wiped, End::Destroyed)?
    };
    let destroys = wiped
        .iter()
        .map(|(name, disk)| Destroyed {
            disk: (*name).to_owned(),
            identity: disk.identity.clone(),
            contents: contents::phrases(disk),
        })
        .collect();
    for disk in wiped.values() {
        shared_pools(context, &wiped, disk, remarks);
    }
    Ok(Occupancy { destroys, steps: releases.into_iter().map(step).collect(), proof })
}

/// Disks by the layout's name.
type Disks<'a> = BTreeMap<&'a str, &'a Disk>;

/// How an imported pool on the disks ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Destroyed,
    Exported,
}

impl Occupancy {
    /// Refuses disks that are not blank, unless the operator agreed to lose what is on them.
    pub(super) fn require_consent(&self, context: &Context<'_>) -> Result<(), Refusal> {
        let occupied: Vec<String> = self
            .destroys
            .iter()
            .filter(|destroyed| !destroyed.contents.is_empty())
            .map(|destroyed| {
                format!(
                    "disk {:?}, {}, holds {}",
                    destroyed.disk,
                    words::disk(&destroyed.identity),
                    destroyed.contents.join("; ")
                )
            })
            .collect();
        if context.options.erase || occupied.is_empty() {
            return Ok(());
        }
        let mut sentence =
            format!("installing would destroy what is there now: {}", occupied.join(". "));
        if !self.steps.is_empty() {
            let uses: Vec<&str> = self.steps.iter().map(|step| step.title.as_str()).collect();
            sentence =
                format!("{sentence}. It is in use, and this would come first: {}", uses.join("; "));
        }
        Err(refuse(
            RefusalKind::NotConfirmed,
            sentence,
            "if all of that may be lost, run again with --erase",
        ))
    }
}

/// A pool that is not imported and has members elsewhere loses those on our disks.
fn shared_pools(context: &Context<'_>, wiped: &Disks<'_>, disk: &Disk, remarks: &mut Remarks) {
    for signature in disk.contents.all_signatures() {
        let Signature::ZfsMember { pool, guid, .. } = signature else { continue };
        for other in &context.inventory.disks {
            let ours = wiped.values().any(|target| target.devno == other.devno);
            let member = other.contents.all_signatures().any(
                |theirs| matches!(theirs, Signature::ZfsMember { guid: theirs, .. } if theirs == guid),
            );
            if !ours && member {
                remarks.warnings.push(format!(
                    "the pool {pool:?} on {} also has a member on {}: what is there may be of no \
                     use without it",
                    words::disk(&disk.identity),
                    words::disk(&other.identity)
                ));
            }
        }
    }
}

/// A device in an id and in words.
fn place(device: &DeviceRef) -> (String, String) {
    match device {
        DeviceRef::Disk { disk } => (disk.clone(), format!("disk {disk}")),
        DeviceRef::Partition { disk, number } => {
            (format!("{disk}/{number}"), format!("partition {number} of disk {disk}"))
        }
        DeviceRef::Inner { on, number } => {
            let (id, what) = place(on);
            (format!("{id}/{number}"), format!("partition {number} of {what}"))
        }
        DeviceRef::LogicalVolume { group, name } => {
            (format!("{group}/{name}"), format!("{group}/{name}"))
        }
        DeviceRef::Volume { dataset: name }
        | DeviceRef::Mapper { name }
        | DeviceRef::Array { name } => (name.clone(), name.clone()),
    }
}

fn step(release: Release) -> Step {
    let (id, title) = match &release {
        Release::Unmount { target } => {
            (format!("release:unmount:{target}"), format!("unmount {target}"))
        }
        Release::Swapoff { device } => {
            let (id, what) = place(device);
            (format!("release:swap:{id}"), format!("stop swapping to {what}"))
        }
        Release::CloseMapper { name, .. } => {
            (format!("release:mapper:{name}"), format!("close /dev/mapper/{name}"))
        }
        Release::StopArray { name } => {
            (format!("release:raid:{name}"), format!("stop RAID {name}"))
        }
        Release::DeactivateGroup { name } => {
            (format!("release:group:{name}"), format!("deactivate volume group {name}"))
        }
        Release::ExportPool { name, .. } => {
            (format!("release:pool:{name}"), format!("export pool {name}"))
        }
        Release::DestroyPool { name, .. } => {
            (format!("release:pool:{name}"), format!("destroy the imported pool {name}"))
        }
    };
    Step { id, title, action: Action::Release(release) }
}
