//! One request after another.

use super::copy;
use super::remote::{Remote, RemoteSink};
use super::restart;
use super::wire::{Incoming, Wire, WireError};
use crate::execute::Execution;
use crate::execute::cancel::Cancel;
use crate::execute::failure::causes;
use crate::execute::journal::{JOURNAL, Journal};
use crate::execute::machine::Machine;
use crate::{inventory, plan};
use keystone_protocol::event::Failure;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::message::{
    ExecuteRequest, PlanRequest, Refusal, RefusalKind, ToAgent, ToController,
};
use keystone_protocol::plan::{ContainerUnlock, Plan};
use keystone_protocol::version::{self, End, PROTOCOL_VERSION};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Serves the conversation on stdin and stdout until the stream ends.
pub fn serve() -> Result<(), WireError> {
    let cancel = Cancel::default();
    let output = take_stdout().map_err(WireError::Io)?;
    let wire = RefCell::new(Wire::start(io::stdin(), output, cancel.clone()));
    let mut session = Session { wire: &wire, cancel: &cancel, installed: false };
    session.greet()?;
    loop {
        let incoming = wire.borrow_mut().next();
        match incoming {
            Ok(Incoming::Message(message)) => session.answer(message)?,
            Ok(Incoming::Block(_) | Incoming::DamagedBlock { .. }) => return Err(WireError::OutOfTurn("closure data")),
            Err(WireError::Ended) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Moves the stream to the controller away from descriptor 1, which becomes stderr: C libraries
/// (libzfs does) and children may print, and must not print into the conversation.
fn take_stdout() -> io::Result<File> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(File::from(output))
}

struct Session<'w> {
    wire: &'w RefCell<Wire>,
    cancel: &'w Cancel,
    installed: bool,
}

impl Session<'_> {
    fn send(&self, message: &ToController) -> Result<(), WireError> {
        self.wire.borrow_mut().send(message)
    }

    /// Says hello first, so that a controller of another version can tell which end to update.
    fn greet(&mut self) -> Result<(), WireError> {
        self.send(&ToController::Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exe: exe_hash().map_err(WireError::Io)?,
        })?;
        let incoming = self.wire.borrow_mut().next()?;
        match incoming {
            Incoming::Message(ToAgent::Hello { protocol, .. }) => {
                if let Err(mismatch) = version::check(End::Controller, protocol) {
                    self.send(&refused(RefusalKind::Protocol, mismatch.to_string(), None))?;
                    return Err(WireError::OutOfTurn("another protocol version"));
                }
                Ok(())
            }
            _ => Err(WireError::OutOfTurn("something before its hello")),
        }
    }

    fn answer(&mut self, message: ToAgent) -> Result<(), WireError> {
        match message {
            ToAgent::Inventory => match inventory::collect() {
                Ok(inventory) => self.send(&ToController::Inventory(Box::new(inventory))),
                Err(error) => self.send(&ToController::Refused(unreadable(&error))),
            },
            ToAgent::Plan(request) => match inventory_and_plan(&request) {
                Ok((_, plan)) => self.send(&ToController::Plan(Box::new(plan))),
                Err(refusal) => self.send(&ToController::Refused(refusal)),
            },
            ToAgent::Execute(request) => self.execute(*request),
            ToAgent::Copy(request) => copy::copy(self.wire, self.cancel, &request),
            ToAgent::Reboot if self.installed => self.reboot(),
            ToAgent::Reboot => self.send(&refused(
                RefusalKind::Protocol,
                "nothing was installed, so the machine is not restarted".to_owned(),
                None,
            )),
            ToAgent::Hello { .. } => Err(WireError::OutOfTurn("a second hello")),
            ToAgent::UnlockKey { .. } => Err(WireError::OutOfTurn("a key that nobody asked for")),
            ToAgent::RecoveryKeyStored { .. } => Err(WireError::OutOfTurn("a recovery key's receipt")),
            // The rest of a stream whose consumer failed.
            ToAgent::SourceFailed { .. } => Ok(()),
            ToAgent::Abort => Ok(()),
        }
    }

    fn execute(&mut self, request: ExecuteRequest) -> Result<(), WireError> {
        let ExecuteRequest { request, plan: confirmed, manifest, password, pin } = request;
        // The target is looked at again: what was confirmed must still be what is there.
        let (inventory, plan) = match inventory_and_plan(&request) {
            Ok(found) => found,
            Err(refusal) => return self.send(&ToController::Refused(refusal)),
        };
        if plan.hash != confirmed || !plan.is_consistent() {
            return self.send(&refused(
                RefusalKind::PlanChanged,
                format!(
                    "the plan confirmed has the hash {confirmed}, the plan for the machine as it is now {}",
                    plan.hash
                ),
                Some("look at the new plan (`keystone plan`) and confirm that one".to_owned()),
            ));
        }
        let closure = request.closure.as_ref();
        let told = closure.map_or((0, 0), |closure| (closure.paths, closure.nar_bytes));
        let sent = (manifest.paths.len() as u64, manifest.nar_bytes());
        if told != sent {
            return self.send(&refused(
                RefusalKind::PlanChanged,
                format!(
                    "the closure sent has {} paths of {} bytes, the one planned for {} of {}",
                    sent.0, sent.1, told.0, told.1
                ),
                Some("something changed the store meanwhile: plan again".to_owned()),
            ));
        }
        if manifest.toplevel != plan.basis.toplevel {
            return self.send(&refused(
                RefusalKind::PlanChanged,
                format!(
                    "the closure sent is of {}, the plan of {}",
                    manifest.toplevel, plan.basis.toplevel
                ),
                None,
            ));
        }
        if let Some(refusal) = missing_secret(&plan, password.is_some(), pin.is_some()) {
            return self.send(&ToController::Refused(refusal));
        }
        let journal = match Journal::open(Path::new(JOURNAL), &plan.hash) {
            Ok(journal) => journal,
            Err(error) => {
                return self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None));
            }
        };
        let mut supplies = Remote::new(self.wire, password, pin);
        let mut sink = RemoteSink(self.wire);
        let machine = Machine::new(&inventory, &plan);
        let execution = Execution::new(
            &plan,
            &manifest,
            machine,
            &mut supplies,
            &mut sink,
            self.cancel,
            journal,
        );
        match execution.run() {
            Ok(report) => {
                self.installed = !plan.basis.toplevel.is_empty();
                self.send(&ToController::Done(Box::new(report)))
            }
            Err(failure) => self.failed(failure),
        }
    }

    /// A failure ends the session: what came of the closure meanwhile has no reader.
    fn failed(&mut self, failure: Failure) -> Result<(), WireError> {
        self.send(&ToController::Failed(failure))?;
        Err(WireError::Ended)
    }

    fn reboot(&mut self) -> Result<(), WireError> {
        // Without it nobody could tell the new system from this one.
        let Some(boot_id) = inventory::boot_id().filter(|id| !id.is_empty()) else {
            return self.send(&refused(
                RefusalKind::TargetUnfit,
                "the kernel's boot id can't be read, so the restart could not be verified".to_owned(),
                Some("restart the machine yourself: everything is written and closed".to_owned()),
            ));
        };
        match restart::restart_soon() {
            Ok(()) => self.send(&ToController::Rebooting { boot_id }),
            Err(error) => self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None)),
        }
    }
}

/// Why the containers could not all be enrolled, known before the first write.
fn missing_secret(plan: &Plan, password: bool, pin: bool) -> Option<Refusal> {
    let problem = plan.containers.iter().find_map(|container| {
        let name = &container.name;
        match &container.unlock {
            ContainerUnlock::Password if !password => {
                Some(format!("{name} is opened by a password, and none was given"))
            }
            ContainerUnlock::Tpm2 { pin: true, .. } if !pin => {
                Some(format!("{name} is opened by TPM and PIN, and no PIN was given"))
            }
            ContainerUnlock::KeyFile(file) => File::open(&file.path)
                .err()
                .map(|error| format!("{name} is opened by the key file {}: {error}", file.path)),
            ContainerUnlock::Password | ContainerUnlock::Tpm2 { .. } => None,
        }
    });
    problem.map(|message| Refusal { kind: RefusalKind::TargetUnfit, message, hint: None })
}

fn inventory_and_plan(request: &PlanRequest) -> Result<(Inventory, Plan), Refusal> {
    let inventory = inventory::collect().map_err(|error| unreadable(&error))?;
    let closure = request.closure.as_ref();
    let plan = plan::plan_with(&inventory, &request.layout, &request.options, closure)?;
    Ok((inventory, plan))
}

fn unreadable(error: &dyn std::error::Error) -> Refusal {
    Refusal { kind: RefusalKind::TargetUnfit, message: chain(error), hint: None }
}

fn refused(kind: RefusalKind, message: String, hint: Option<String>) -> ToController {
    ToController::Refused(Refusal { kind, message, hint })
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}

/// Blake3 of the running executable: the controller compares it with what it uploaded.
fn exe_hash() -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open("/proc/self/exe")?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
