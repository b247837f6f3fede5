//! Whether the machine can run the installation and the system.

use super::refuse::refuse;
use super::words::human;
use super::{Context, Remarks, programs, words};
use keystone_protocol::layout::Mounted;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::ClosureFacts;
use keystone_protocol::plan::{Action, Release, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Least memory, in bytes: ZFS, the argon2id of LUKS2 (which takes up to half of it) and the
/// installer's own system beside them. A machine sold with 1 GiB shows a little less.
const LEAST_MEMORY: u64 = 900 << 20;

/// Clocks before this are not set: 2025-01-01, in Unix seconds.
const EARLIEST_CLOCK: u64 = 1_735_689_600;
/// Clocks after this are not set either: 2100-01-01.
const LATEST_CLOCK: u64 = 4_102_444_800;

/// Refuses a machine, or a closure, that can't be installed so.
pub(super) fn check(context: &Context<'_>, remarks: &mut Remarks) -> Result<(), Refusal> {
    if let Some(closure) = context.closure {
        firmware(context, remarks)?;
        platform(context, closure)?;
        root(context)?;
    }
    let mode = context.mode;
    if mode.formats() {
        memory(context)?;
    }
    if mode.formats() || mode.mounts() {
        zfs(context)?;
    }
    if let Some(closure) = context.closure {
        hostid(context, closure, remarks)?;
        clock(context, remarks);
    }
    Ok(())
}

fn firmware(context: &Context<'_>, remarks: &mut Remarks) -> Result<(), Refusal> {
    let firmware = &context.inventory.firmware;
    if !firmware.uefi {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            "the machine was not booted by UEFI, and only that is supported",
            "boot the installer in UEFI mode: switch the legacy BIOS or CSM off in the \
             firmware's setup, or choose the medium's UEFI entry",
        ));
    }
    if !firmware.efi_variables {
        remarks.warnings.push(
            "EFI variables can't be read here: no boot entry can be made or checked, and the \
             machine boots by the fallback path \\EFI\\BOOT"
                .to_owned(),
        );
    }
    Ok(())
}

fn platform(context: &Context<'_>, closure: &ClosureFacts) -> Result<(), Refusal> {
    let (wanted, found) = (&closure.system, &context.inventory.system.platform);
    if wanted == found {
        return Ok(());
    }
    Err(refuse(
        RefusalKind::Closure,
        format!("the system is built for {wanted}, and this machine is {found}"),
        format!("build the system with nixpkgs.hostPlatform = \"{found}\""),
    ))
}

fn memory(context: &Context<'_>) -> Result<(), Refusal> {
    let total = context.inventory.memory.total;
    if total >= LEAST_MEMORY {
        return Ok(());
    }
    Err(refuse(
        RefusalKind::TargetUnfit,
        format!("the machine has {} of memory, too little to install with", human(total)),
        "give it at least 1 GiB",
    ))
}

fn zfs(context: &Context<'_>) -> Result<(), Refusal> {
    if context.layout.zpools.is_empty() {
        return Ok(());
    }
    let zfs = &context.inventory.zfs;
    if zfs.module.is_none() {
        let problem = zfs.problem.as_deref().unwrap_or("the module could not be loaded");
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!("the layout has a ZFS pool, and ZFS does not run here: {problem}"),
            format!(
                "boot an installer with the ZFS module for its kernel ({})",
                context.inventory.system.kernel
            ),
        ));
    }
    Ok(())
}

/// By its host id the installed system tells its own pools from others'.
fn hostid(
    context: &Context<'_>,
    closure: &ClosureFacts,
    remarks: &mut Remarks,
) -> Result<(), Refusal> {
    if context.layout.zpools.is_empty() {
        return Ok(());
    }
    let root_on_zfs = context
        .layout
        .mounts()
        .iter()
        .any(|mount| mount.target == "/" && matches!(mount.what, Mounted::Dataset { .. }));
    match closure.hostid {
        None | Some(0) if root_on_zfs => Err(refuse(
            RefusalKind::Closure,
            "the system has no host id (etc/hostid), and its root is on ZFS: it could not import \
             its own pool",
            "set networking.hostId in its configuration",
        )),
        Some(hostid) if hostid == context.inventory.system.hostid => {
            remarks.warnings.push(format!(
                "the system has the same host id as this installer ({hostid:08x}): ZFS can't \
                 tell the two apart"
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The program of the running system that a step needs, if it needs one.
fn needed_tool(action: &Action) -> Option<String> {
    Some(match action {
        Action::MakeFilesystem { fstype, .. } => format!("mkfs.{fstype}"),
        Action::CreateSubvolume { extra_args, .. } if !extra_args.is_empty() => "btrfs".to_owned(),
        Action::CreateArray(_) | Action::AssembleArray(_) => "mdadm".to_owned(),
        Action::CreatePhysicalVolume { .. }
        | Action::CreateVolumeGroup { .. }
        | Action::CreateLogicalVolume(_)
        | Action::ActivateGroup { .. }
        | Action::DeactivateGroup { .. }
        | Action::Release(Release::DeactivateGroup { .. }) => "lvm".to_owned(),
        Action::Hook(_) => "bash".to_owned(),
        _ => return None,
    })
}

/// Refuses a plan whose steps need programs that the running system lacks.
pub(super) fn tools(context: &Context<'_>, steps: &[Step]) -> Result<(), Refusal> {
    let mut missing: BTreeMap<String, &str> = BTreeMap::new();
    for step in steps {
        match needed_tool(&step.action) {
            Some(tool) if !context.inventory.tools.contains_key(&tool) => {
                missing.entry(tool).or_insert(&step.title);
            }
            _ => {}
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> =
        missing.keys().filter_map(|tool| programs::package(tool)).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let missing: Vec<String> =
        missing.iter().map(|(tool, step)| format!("{tool} (to {step})")).collect();
    Err(refuse(
        RefusalKind::TargetUnfit,
        format!("the running system lacks what the plan needs: {}", words::list(&missing)),
        format!(
            "boot an installer with {}; programs are looked for in PATH, {}",
            words::list(&packages),
            words::list(&programs::DIRECTORIES)
        ),
    ))
}

/// Without a root there is nothing to install into.
fn root(context: &Context<'_>) -> Result<(), Refusal> {
    if context.layout.mounts().iter().any(|mount| mount.target == "/") {
        return Ok(());
    }
    Err(refuse(
        RefusalKind::Layout,
        "the layout mounts nothing at /",
        "give one of its file systems or datasets the mountpoint \"/\"",
    ))
}

fn clock(context: &Context<'_>, remarks: &mut Remarks) {
    let clock = context.inventory.system.clock;
    if !(EARLIEST_CLOCK..LATEST_CLOCK).contains(&clock) {
        remarks.warnings.push(format!(
            "this machine's clock is wrong ({clock} seconds since 1970): times in the report and \
             on files will be too, and the system's certificates may not be valid until it is set"
        ));
    }
}
