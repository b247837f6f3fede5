//! Report, unmounting, export, proof.

use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::store::fs::OpenDir;
use crate::{mount, seal};
use keystone_protocol::report::EndsAt;
use std::path::Path;

/// Writes the machine's copy of the report to `/var/lib/keystone/install.json`, durably.
pub(super) fn write_report(run: &mut Execution<'_>) -> StepResult {
    let report = serde_json::to_vec_pretty(&run.report(EndsAt::BeforeSeal))
        .expect("a report has no type that JSON can't hold");
    // Step by step: the target's own code ran, and no link may lead out of the target.
    let (var, _) = OpenDir::open(Path::new(TARGET))?.ensure("var", 0o755)?;
    let (lib, _) = var.ensure("lib", 0o755)?;
    let (directory, _) = lib.ensure("keystone", 0o755)?;
    directory.write_file("install.json", 0o644, &report)?;
    Ok(Ensured::Created)
}

/// Unmounts everything below the target's root, deepest first.
pub(super) fn unmount(run: &mut Execution<'_>) -> StepResult {
    Ok(mount::unmount_all_below(run.machine.roots(), Path::new(TARGET))?)
}

/// Exports a pool.
pub(super) fn export_pool(run: &mut Execution<'_>, pool: &str) -> StepResult {
    Ok(seal::export(run.machine.zfs()?, pool)?)
}

/// Proves that nothing is open and that the labels say so.
pub(super) fn prove(run: &mut Execution<'_>) -> StepResult {
    seal::prove(run.machine.roots(), Path::new(TARGET), run.machine.opened())?;
    Ok(Ensured::AlreadySo)
}
