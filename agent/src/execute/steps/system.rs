//! Closure, profile, host key, bootloader.

use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult, Throttle};
use crate::store::{Progress, Store};
use crate::{activation, bootloader};
use keystone_protocol::event::{Event, EventKind, Unit};
use keystone_protocol::plan::DeviceRef;
use std::path::Path;

/// Receives the closure, verifies every NAR, writes the database.
pub(super) fn receive_closure(run: &mut Execution<'_>, step: &str) -> StepResult {
    let (store, prepared) = Store::prepare(Path::new(TARGET))?;
    let manifest = run.manifest;
    let cancel = run.cancel;
    let mut throttle = Throttle::default();
    let Execution { supplies, sink, began, .. } = run;
    let mut progress = |at: Progress| {
        if throttle.due(at.bytes == at.bytes_total) {
            let at_ms = began.elapsed().as_millis() as u64;
            let kind = EventKind::Progress {
                step: step.to_owned(),
                done: at.bytes,
                total: Some(at.bytes_total),
                unit: Unit::Bytes,
            };
            sink.emit(Event { at_ms, kind });
        }
    };
    let received = store
        .receive(manifest, *supplies, &mut progress, cancel.flag())
        ?;
    Ok(received.ensured.and(prepared))
}

/// Sets the profile, garbage collector roots and `/etc/NIXOS`.
pub(super) fn set_profile(_run: &mut Execution<'_>, toplevel: &str) -> StepResult {
    let (store, _) = Store::prepare(Path::new(TARGET))?;
    Ok(store.set_profile(toplevel)?.ensured)
}

/// Makes the machine's SSH host key unless there is one.
pub(super) fn host_key(run: &mut Execution<'_>) -> StepResult {
    let (ensured, public) = activation::hostkey::ensure(Path::new(TARGET))?;
    run.machine.host_key_made(public);
    Ok(ensured)
}

/// Runs the system's own programs in a chroot: what activation complains of is a warning, what
/// the bootloader complains of a failure.
pub(super) fn install_bootloader(
    run: &mut Execution<'_>,
    step: &str,
    toplevel: &str,
) -> StepResult {
    let cancel = run.cancel.clone();
    let mut lines = |line: &str| run.output(step, line);
    let outcome =
        activation::install_bootloader(Path::new(TARGET), toplevel, &mut lines, cancel.flag())?;
    for warning in outcome.warnings {
        run.warn(step, warning);
    }
    Ok(Ensured::Created)
}

/// Checks the ESP independently of what filled it, and boots from it next.
pub(super) fn verify_bootloader(
    run: &mut Execution<'_>,
    step: &str,
    toplevel: &str,
    esp: &DeviceRef,
    mountpoint: &str,
) -> StepResult {
    let node = run.machine.node(esp)?;
    let checked = bootloader::verify(Path::new(TARGET), mountpoint, toplevel)?;
    match bootloader::boot_next(run.machine.roots(), &node, &checked) {
        Ok(()) => {}
        Err(error) => run.warn(step, format!("BootNext was not set: {error}")),
    }
    Ok(Ensured::AlreadySo)
}

