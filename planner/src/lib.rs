//! Inventory + layout + options → plan. Pure: no clock, no device, no random value.
//!
//! [`plan`] either returns every step of the installation with its exact parameters, or refuses
//! with a sentence that says what stands in the way and what to do. Nothing about the machine is
//! decided later: the executor runs the steps and nothing else.
//!
//! | module | job |
//! |---|---|
//! | [`resolve`] | which disk of the machine each disk of the layout is |
//! | [`policy`] | TPM2 or password? |
//! | [`features`] | which features a pool gets |
//! | [`vfat`] | how small FAT32 can be |
//! | [`fit`] | whether machine, closure and layout fit each other |
//! | [`conflicts`] | other disks with names that the installed system would confuse |
//! | [`occupancy`] | what is on the disks, who uses it, and how that ends |
//! | [`geometry`] | where partitions lie, as sgdisk would put them |
//! | [`tables`] | partition tables, and a disk that is too small for them |
//! | [`unlock`] | what will open each container |
//! | [`pools`] | vdevs, properties, features |
//! | [`sizes`] | how large everything will be |
//! | [`capacity`] | whether there is room for the closure and for everything else |
//! | [`storage`] | steps from the wiped disk to the mounted target |
//! | [`system`] | steps from the closure to the seal |
//! | [`words`] | sizes, lists and names in sentences |
//!
//! A disk that is not blank is refused last, when nothing else stands in the way, so that nobody
//! agrees to lose data for nothing.

mod capacity;
mod conflicts;
pub mod features;
mod fit;
pub mod geometry;
mod occupancy;
pub mod policy;
mod pools;
mod refuse;
mod resolve;
mod sizes;
mod storage;
mod system;
mod tables;
mod unlock;
pub mod vfat;
mod words;

use keystone_protocol::inventory::{Disk, DiskIdentity, Inventory};
use keystone_protocol::layout::{Layout, agrees_with_fstab};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::{ClosureFacts, InstallOptions};
use keystone_protocol::plan::{Basis, ContainerPlan, PartitionTable, Plan, Step, basis_hash};
use refuse::{caused, refuse};
use sizes::Sizes;
use std::collections::BTreeMap;

/// Where the system is mounted while it is installed.
pub(crate) const TARGET: &str = "/mnt";

/// What the planner's parts share.
struct Context<'a> {
    inventory: &'a Inventory,
    layout: &'a Layout,
    options: &'a InstallOptions,
    closure: &'a ClosureFacts,
    /// Disks by the layout's name.
    disks: BTreeMap<&'a str, &'a Disk>,
}

/// What the operator should know.
#[derive(Debug, Default)]
struct Remarks {
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// What was decided before the steps are written down.
struct Decisions {
    tables: Vec<PartitionTable>,
    pools: Vec<keystone_protocol::plan::PoolPlan>,
    containers: Vec<ContainerPlan>,
}

/// Plans an installation, or refuses it. `layout` is `disko.devices` as JSON.
pub fn plan(
    inventory: &Inventory,
    layout: &str,
    options: &InstallOptions,
    closure: &ClosureFacts,
) -> Result<Plan, Refusal> {
    let layout = Layout::parse(layout).map_err(|error| caused(RefusalKind::Layout, &error))?;
    let mut remarks = Remarks::default();
    let disks = resolve::disks(inventory, &layout, options, &mut remarks)?;
    let context = Context { inventory, layout: &layout, options, closure, disks };

    fit::check(&context, &mut remarks)?;
    closure_agrees(&context)?;
    conflicts::check(&context)?;
    let occupancy = occupancy::find(&context, &mut remarks)?;
    let decisions = Decisions {
        tables: tables::tables(&context)?,
        pools: pools::pools(&context, &mut remarks)?,
        containers: unlock::containers(&context, &mut remarks)?,
    };
    let sizes = Sizes::new(&context, &decisions.tables);
    capacity::devices(&context, &sizes)?;
    let esp = capacity::esp(&context, &sizes, &decisions.tables)?;
    capacity::store(&context, &sizes)?;
    occupancy.require_consent(&context)?;

    let mut steps = occupancy.steps;
    steps.extend(storage::steps(&context, &decisions, &mut remarks));
    steps.extend(system::steps(&context, &esp, &mut remarks));

    let basis = Basis {
        layout: layout.canonical().to_owned(),
        options: options.clone(),
        toplevel: closure.toplevel.clone(),
        disks: identities(&context.disks),
        destroys: occupancy.destroys,
        steps: steps.iter().map(as_json).collect(),
    };
    Ok(Plan {
        hash: basis_hash(&basis),
        basis,
        steps,
        containers: decisions.containers,
        notes: remarks.notes,
        warnings: remarks.warnings,
    })
}

/// The controller compares before it connects; here it is part of the plan being right.
fn closure_agrees(context: &Context<'_>) -> Result<(), Refusal> {
    let disagreements = agrees_with_fstab(context.layout, &context.closure.fstab);
    if disagreements.is_empty() {
        return Ok(());
    }
    let sentences: Vec<String> = disagreements.iter().map(ToString::to_string).collect();
    Err(refuse(
        RefusalKind::Closure,
        format!("the system and the layout disagree: {}", sentences.join("; ")),
        "export the layout from the configuration that the system was built from",
    ))
}

fn identities(disks: &BTreeMap<&str, &Disk>) -> BTreeMap<String, DiskIdentity> {
    disks.iter().map(|(name, disk)| ((*name).to_owned(), disk.identity.clone())).collect()
}

fn as_json(step: &Step) -> String {
    serde_json::to_string(step).expect("a step has no type that JSON can't hold")
}

#[cfg(test)]
mod tests;
