//! Closure, profile, bootloader.

use super::StepError;
use crate::activation::Phase;
use crate::bootloader::{BootNext, Installed, Variables, copy};
use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::progress::ClosureProgress;
use crate::execute::{Execution, StepResult};
use crate::store::{Progress, Store};
use crate::{activation, bootloader, mount};
use keystone_protocol::event::Event;
use keystone_protocol::plan::DeviceRef;
use std::path::Path;

/// Receives the closure, verifies every NAR, writes the database.
pub(super) fn receive_closure(run: &mut Execution<'_>, step: &str) -> StepResult {
    let (store, prepared) = Store::prepare(Path::new(TARGET))?;
    let manifest = run.manifest;
    let cancel = run.cancel;
    let mut said = ClosureProgress::default();
    let Execution { supplies, sink, began, .. } = run;
    let mut progress = |at: Progress| {
        for kind in said.events(step, &at) {
            sink.emit(Event { at_ms: began.elapsed().as_millis() as u64, kind });
        }
    };
    let received = store.receive(manifest, *supplies, &mut progress, cancel.flag())?;
    Ok(received.ensured.and(prepared))
}

/// Sets the profile, garbage collector roots and `/etc/NIXOS`.
pub(super) fn set_profile(_run: &mut Execution<'_>, toplevel: &str) -> StepResult {
    let (store, _) = Store::prepare(Path::new(TARGET))?;
    Ok(store.set_profile(toplevel)?.ensured)
}

/// Runs the system's own programs in a chroot: what activation complains of is a warning, what
/// the bootloader complains of a failure.
pub(super) fn install_bootloader(
    run: &mut Execution<'_>,
    step: &str,
    toplevel: &str,
) -> StepResult {
    run.machine.boot_loader_begins();
    let cancel = run.cancel.clone();
    let system = activation::System::new(TARGET, toplevel);
    let mut line = |phase: Phase, line: &str| run.output(step, &format!("{phase}: {line}"));
    let activated = activation::run(&system, &mut line, cancel.flag())?;
    for warning in activated.warnings {
        run.warn(step, warning);
    }
    Ok(Ensured::Created)
}

/// Copies the ESP to another one, and adds a boot entry for it after all others.
pub(super) fn copy_esp(
    run: &mut Execution<'_>,
    step: &str,
    mountpoint: &str,
    to: &DeviceRef,
) -> StepResult {
    let node = run.machine.node(to)?;
    let esp = Path::new(TARGET).join(mountpoint.trim_start_matches('/'));
    let (mut ensured, loader) = copy::ensure(run.machine.roots(), &esp, &node)?;
    let partition = run.machine.partition(to)?;
    if let Some(variables) = variables(run)? {
        match copy::ensure_entry(&variables, &partition, loader) {
            Ok(entry) => ensured = ensured.and(entry),
            Err(error) => {
                let source = &error.source;
                run.warn(
                    step,
                    format!("{error}: {source}; the firmware finds the copy by its fallback path"),
                );
            }
        }
    }
    Ok(ensured)
}

/// Checks the ESP independently of what filled it, and boots from it next.
pub(super) fn verify_bootloader(
    run: &mut Execution<'_>,
    step: &str,
    toplevel: &str,
    esp: &DeviceRef,
    mountpoint: &str,
) -> StepResult {
    let installed = Installed {
        root: TARGET.into(),
        esp: mountpoint.to_owned(),
        esp_partition: run.machine.partition(esp)?,
        toplevel: toplevel.to_owned(),
        variables: variables(run)?,
    };
    let mut checked = bootloader::check(&installed)?;
    run.output(step, &format!("{} boots {}", checked.entry, checked.init));
    let mut ensured = Ensured::AlreadySo;
    match bootloader::ensure_boot_entry(&installed, &mut checked) {
        Ok(entry) => ensured = ensured.and(entry),
        Err(error) => {
            let source = &error.source;
            run.warn(
                step,
                format!("{error}: {source}; the firmware finds the disk by its fallback path"),
            );
        }
    }
    match bootloader::set_boot_next(&installed, &checked) {
        BootNext::Set { ensured: next, .. } => ensured = ensured.and(next),
        BootNext::NotSet { reason } => run.warn(step, format!("BootNext was not set: {reason}")),
    }
    Ok(ensured)
}

/// The firmware's variables, where there are any.
fn variables(run: &Execution<'_>) -> Result<Option<Variables>, StepError> {
    let roots = run.machine.roots();
    let _ = mount::ensure_efivarfs(roots)?;
    let dir = roots.sys.join("firmware/efi/efivars");
    Ok(dir.exists().then(|| Variables::new(dir)))
}
