//! Report, unmounting, export, proof.

use super::StepError;
use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::{mount, seal};
use keystone_protocol::report::EndsAt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Where the machine keeps its copy of the report.
const REPORT: &str = "var/lib/keystone/install.json";

/// Writes the machine's copy of the report, durably.
pub(super) fn write_report(run: &mut Execution<'_>) -> StepResult {
    let path = Path::new(TARGET).join(REPORT);
    let fail = |source| StepError::Report { path: path.display().to_string(), source };
    let report = serde_json::to_vec_pretty(&run.report(EndsAt::BeforeSeal))
        .expect("a report has no type that JSON can't hold");
    fs::create_dir_all(path.parent().expect("the path has a directory")).map_err(fail)?;
    let mut file = File::create(&path).map_err(fail)?;
    file.write_all(&report).and_then(|()| file.sync_all()).map_err(fail)?;
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
