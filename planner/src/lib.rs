//! Inventory + layout + options → plan. Pure: no clock, no device, no random value.
//!
//! [`plan`] either returns every step of the installation with its exact parameters, or refuses
//! with a sentence that says what stands in the way and what to do. Nothing about the machine is
//! decided later: the executor runs the steps and nothing else.
//!
//! | module | job |
//! |---|---|
//! | [`resolve`] | which disk of the machine each disk of the layout is |
//! | [`matching`] | which disks a word stands for: `serial:…`, `size:largest`, a link |
//! | [`policy`] | TPM2 or password? |
//! | [`features`] | which features a pool gets |
//! | [`vfat`] | how small FAT32 can be |
//! | [`fit`] | whether machine, closure and layout fit each other |
//! | [`conflicts`] | other disks with names that the installed system would confuse |
//! | [`existing`] | what of the layout is on the disks already, for plans that keep it |
//! | [`occupancy`] | what is on the disks, who uses it, and how that ends |
//! | [`programs`] | programs that steps may need |
//! | [`lvm`] | names of LVM's volumes in the device mapper |
//! | [`hooks`] | what hooks are told of this machine's disks; those around unmounting |
//! | [`geometry`] | where partitions lie, as sgdisk would put them |
//! | [`parted`] | where the partitions of a `table` lie, near what parted makes |
//! | [`mirror`] | copies of the ESP on the other disks, if asked for |
//! | [`tables`] | partition tables, and a disk that is too small for them |
//! | [`unlock`] | what will open each container |
//! | [`pools`] | vdevs, properties, features |
//! | [`sizes`] | how large everything will be |
//! | [`capacity`] | whether there is room for the closure and for everything else |
//! | [`storage`] | steps from the wiped disk to the mounted target |
//! | [`system`] | steps from the closure to the seal |
//! | `refuse` | refusals |
//! | [`words`] | sizes, lists and names in sentences |
//!
//! What is done with the disks is the [mode](DiskoMode)'s matter: [`plan`] with a closure installs,
//! [`plan_disks`] deals with the disks alone.
//!
//! A disk that is not blank is refused last, when nothing else stands in the way, so that nobody
//! agrees to lose data for nothing.

mod capacity;
mod conflicts;
mod existing;
pub mod features;
mod fit;
pub mod geometry;
mod hooks;
pub mod lvm;
mod matching;
mod mirror;
mod occupancy;
mod parted;
pub mod policy;
mod pools;
pub mod programs;
mod refuse;
mod resolve;
mod sizes;
mod storage;
mod system;
mod tables;
mod unlock;
pub mod vfat;
mod words;

use existing::Existing;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::inventory::{Disk, DiskIdentity, Inventory};
use keystone_protocol::layout::{self, Layout, agrees_with_fstab};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::{ClosureFacts, InstallOptions};
use keystone_protocol::plan::{Basis, ContainerPlan, DeviceRef, Plan, Step, basis_hash};
use refuse::{caused, refuse};
use sizes::Sizes;
use std::collections::BTreeMap;
use tables::Tables;

/// Where the system is mounted while it is installed.
pub(crate) const TARGET: &str = "/mnt";

/// What the planner's parts share.
struct Context<'a> {
    inventory: &'a Inventory,
    layout: &'a Layout,
    options: &'a InstallOptions,
    /// What is installed, unless only the disks are dealt with.
    closure: Option<&'a ClosureFacts>,
    /// What is done with the disks.
    mode: DiskoMode,
    /// Disks by the layout's name.
    disks: BTreeMap<&'a str, &'a Disk>,
}

impl Context<'_> {
    /// Whether what is on a disk of the layout is destroyed.
    fn wipes(&self, disk: &layout::Disk) -> bool {
        self.mode.destroys() && disk.destroy
    }
}

/// What the operator should know.
#[derive(Debug, Default)]
struct Remarks {
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// What was decided before the steps are written down.
struct Decisions {
    tables: Tables,
    pools: Vec<keystone_protocol::plan::PoolPlan>,
    containers: Vec<ContainerPlan>,
    /// Partitions for copies of the ESP.
    esp_copies: Vec<DeviceRef>,
}

/// Plans an installation, or refuses it. `layout` is `disko.devices` as JSON.
pub fn plan(
    inventory: &Inventory,
    layout: &str,
    options: &InstallOptions,
    closure: &ClosureFacts,
) -> Result<Plan, Refusal> {
    plan_with(inventory, layout, options, Some(closure))
}

/// Plans what is done with the disks alone, or refuses it.
pub fn plan_disks(
    inventory: &Inventory,
    layout: &str,
    options: &InstallOptions,
) -> Result<Plan, Refusal> {
    plan_with(inventory, layout, options, None)
}

/// [`plan`] with a closure, [`plan_disks`] without.
pub fn plan_with(
    inventory: &Inventory,
    layout: &str,
    options: &InstallOptions,
    closure: Option<&ClosureFacts>,
) -> Result<Plan, Refusal> {
    let layout = Layout::parse(layout).map_err(|error| caused(RefusalKind::Layout, &error))?;
    let mut remarks = Remarks::default();
    let mode = mode(options, closure)?;
    let disks = resolve::disks(inventory, &layout, options, &mut remarks)?;
    let context = Context { inventory, layout: &layout, options, closure, mode, disks };

    fit::check(&context, &mut remarks)?;
    if let Some(closure) = closure {
        closure_agrees(&context, closure)?;
    }
    if closure.is_some() || mode.formats() {
        conflicts::pools(&context)?;
    }
    let existing = match mode.formats() || mode.mounts() {
        true => existing::find(&context, &mut remarks)?,
        false => Existing::default(),
    };
    let mut occupancy = occupancy::find(&context, &mut remarks)?;
    if mode == DiskoMode::Unmount {
        occupancy.steps = hooks::around_unmounting(&context, occupancy.steps);
    }
    let (steps, containers) = if mode.formats() || mode.mounts() {
        to_be_made(&context, &existing, &mut remarks)?
    } else {
        (storage::wipes(&context, &mut remarks), Vec::new())
    };
    let all = [occupancy.steps.as_slice(), &steps, &occupancy.proof].concat();
    let all = hooks::for_this_machine(&context, all)?;
    fit::tools(&context, &all)?;
    if mode.formats() || mode.mounts() {
        occupancy.require_consent(&context)?;
    }

    let basis = Basis {
        layout: layout.canonical().to_owned(),
        options: options.clone(),
        toplevel: closure.map(|closure| closure.toplevel.clone()).unwrap_or_default(),
        disks: identities(&context.disks),
        destroys: occupancy.destroys,
        steps: all.iter().map(as_json).collect(),
    };
    Ok(Plan {
        hash: basis_hash(&basis),
        basis,
        steps: all,
        containers,
        notes: remarks.notes,
        warnings: remarks.warnings,
    })
}

/// The mode, which for an installation must end with everything mounted.
fn mode(options: &InstallOptions, closure: Option<&ClosureFacts>) -> Result<DiskoMode, Refusal> {
    match options.disko_mode {
        mode if closure.is_none() => Ok(mode),
        // What is only formatted can't be installed into.
        DiskoMode::Format => Ok(DiskoMode::FormatMount),
        mode if mode.mounts() => Ok(mode),
        mode => Err(refuse(
            RefusalKind::TargetUnfit,
            format!("nothing can be installed with --disko-mode {mode}"),
            format!("keystone disko --disko-mode {mode} does it without installing"),
        )),
    }
}

/// What is made, found and mounted, and the system in it; with how its containers are opened.
fn to_be_made(
    context: &Context<'_>,
    existing: &Existing,
    remarks: &mut Remarks,
) -> Result<(Vec<Step>, Vec<ContainerPlan>), Refusal> {
    let decisions = Decisions {
        tables: tables::tables(context, existing)?,
        pools: pools::pools(context, existing, remarks)?,
        containers: unlock::containers(context, existing, remarks)?,
        esp_copies: mirror::copies(context)?,
    };
    if context.closure.is_some() || context.mode.formats() {
        conflicts::labels(context, &decisions.tables)?;
    }
    let sizes = Sizes::new(context, &decisions.tables);
    if context.mode.formats() {
        capacity::devices(context, &sizes)?;
    }
    let esp = match context.closure {
        Some(closure) => {
            let esp = capacity::esp(context, closure, &sizes)?;
            capacity::store(context, closure, &sizes)?;
            Some((closure, esp))
        }
        None => None,
    };
    let mut steps = storage::steps(context, &decisions, existing, remarks);
    match esp {
        Some((closure, esp)) => {
            steps.extend(system::steps(context, closure, &esp, &decisions.esp_copies, remarks))
        }
        None if !context.mode.mounts() => steps.extend(system::closing_again(context, existing)),
        None => {}
    }
    Ok((steps, decisions.containers))
}

/// The controller compares before it connects; here it is part of the plan being right.
fn closure_agrees(context: &Context<'_>, closure: &ClosureFacts) -> Result<(), Refusal> {
    let disagreements = agrees_with_fstab(context.layout, &closure.fstab);
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
