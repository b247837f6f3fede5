//! A closure into a store below a directory, without an installation.

use super::remote::{Remote, RemoteSink, Secrets};
use super::wire::{Wire, WireError};
use crate::ensure::Ensured;
use crate::execute::cancel::Cancel;
use crate::execute::failure::causes;
use crate::execute::progress::ClosureProgress;
use crate::execute::supplies::EventSink;
use crate::mount::writable_here;
use crate::store::{Progress, ReceiveError, Received, Store};
use keystone_protocol::event::{Event, EventKind, Failure, Outcome, StepSummary};
use keystone_protocol::message::{Copied, CopyRequest, ToController};
use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

/// The only step's id.
const STEP: &str = "receive-closure";

/// Receives a closure and registers it.
///
/// # Errors
/// The channel to the controller broke; everything else it was told.
pub fn copy(wire: &RefCell<Wire>, cancel: &Cancel, request: &CopyRequest) -> Result<(), WireError> {
    let began = Instant::now();
    let event = |kind| {
        let at_ms = began.elapsed().as_millis() as u64;
        RemoteSink(wire).emit(Event { at_ms, kind });
    };
    let step = STEP.to_owned();
    let title = format!("Receive {} paths into {}", request.manifest.paths.len(), request.root);
    let steps = vec![StepSummary { id: step.clone(), title }];
    event(EventKind::Started { plan: String::new(), steps });
    event(EventKind::StepStarted { step: step.clone() });
    let mut said = ClosureProgress::default();
    let mut progress =
        |at: Progress| said.events(&step, &at).into_iter().for_each(|kind| event(kind));
    match receive(wire, cancel, request, &mut progress) {
        Ok(received) => {
            let outcome = match received.ensured {
                Ensured::Created => Outcome::Created,
                Ensured::AlreadySo => Outcome::AlreadySo,
            };
            let elapsed_ms = began.elapsed().as_millis() as u64;
            event(EventKind::StepFinished { step: STEP.to_owned(), outcome, elapsed_ms });
            event(EventKind::Finished);
            let Progress { bytes, paths, .. } = received.progress;
            let Received { present, kept, copied: local, .. } = received;
            let copied = Copied { paths, bytes, present, kept, local };
            wire.borrow_mut().send(&ToController::Copied(copied))
        }
        Err(error) => {
            let failure = Failure {
                message: error.to_string(),
                causes: causes(&error),
                left: vec![format!(
                    "what was received of the closure stays in {}, unregistered",
                    request.root
                )],
                next:
                    "mend the cause and run the same command again: what is there is not sent again"
                        .to_owned(),
            };
            event(EventKind::StepFailed { step: STEP.to_owned(), failure: failure.clone() });
            wire.borrow_mut().send(&ToController::Failed(failure))?;
            Err(WireError::Ended)
        }
    }
}

fn receive(
    wire: &RefCell<Wire>,
    cancel: &Cancel,
    request: &CopyRequest,
    progress: &mut dyn FnMut(Progress),
) -> Result<Received, ReceiveError> {
    let root = Path::new(&request.root);
    let _ = writable_here(&root.join("nix/store"))?;
    let (store, _) = Store::prepare(root)?;
    let mut remote = Remote::new(wire, Secrets::default());
    store.receive(&request.manifest, &mut remote, progress, cancel.flag())
}
