//! One request after another.

use super::copy;
use super::remote::{Remote, RemoteSink, Secrets};
use super::restart;
use super::wire::{Incoming, Wire, WireError};
use crate::activation::hostkey;
use crate::execute::Execution;
use crate::execute::begun::{BEGUN, Begun, nothing_begun};
use crate::execute::cancel::Cancel;
use crate::execute::failure::chain;
use crate::execute::journal::{JOURNAL, Journal};
use crate::execute::lock::{LOCK, Lock};
use crate::execute::machine::Machine;
use crate::{inventory, mount, plan};
use keystone_protocol::event::Failure;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::message::{
    ExecuteRequest, MessageError, PlanRequest, Refusal, RefusalKind, ToAgent, ToController,
};
use keystone_protocol::options::HostKeys;
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::{Action, ContainerUnlock, DatasetKey, MountPlan, MountSource, Plan};
use keystone_protocol::version::PROTOCOL_VERSION;
use nix::fcntl::{FcntlArg, fcntl};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another agent may go on with its execution: longer than one waits for a controller
/// that is silent.
const OTHER_AGENT: Duration = Duration::from_secs(150);

/// Bytes that may wait in the pipe from the controller: what pipe(7) allows to everybody.
const PIPE: i32 = 1 << 20;

/// How often it is looked whether another agent goes on.
const LOOK: Duration = Duration::from_millis(500);

/// Serves the conversation on stdin and stdout until the controller says goodbye. A stream that ends
/// before is an error: another one may follow.
pub fn serve() -> Result<(), WireError> {
    let cancel = Cancel::default();
    let output = take_stdout().map_err(WireError::Io)?;
    widen(io::stdin());
    let wire = RefCell::new(Wire::start(io::stdin(), output, cancel.clone()));
    let mut session = Session { wire: &wire, cancel: &cancel, installed: false };
    session.greet()?;
    loop {
        let incoming = wire.borrow_mut().next();
        match incoming {
            Ok(Incoming::Message(ToAgent::Goodbye)) => return Ok(()),
            Ok(Incoming::Message(message)) => session.answer(message)?,
            Ok(Incoming::Block(_) | Incoming::DamagedBlock { .. }) => {
                return Err(WireError::OutOfTurn("closure data"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Lets more wait in a pipe than 64 KiB, so that its two ends wait less for each other. What it can't
/// be done to (it is no pipe, or there are too many) stays as it is.
fn widen(pipe: impl AsFd) {
    if let Err(errno) = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE)) {
        tracing::debug!("the stream from the controller has the usual buffer: {errno}");
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
        let incoming = self.wire.borrow_mut().next();
        match incoming {
            // Its protocol's version was looked at when it was decoded.
            Ok(Incoming::Message(ToAgent::Hello { .. })) => Ok(()),
            Err(WireError::Message(MessageError::Version(mismatch))) => {
                self.send(&refused(RefusalKind::Protocol, mismatch.to_string(), None))?;
                Err(WireError::Message(mismatch.into()))
            }
            Ok(_) => Err(WireError::OutOfTurn("something before its hello")),
            Err(error) => Err(error),
        }
    }

    fn answer(&mut self, message: ToAgent) -> Result<(), WireError> {
        match message {
            ToAgent::Inventory => match inventory::collect() {
                Ok(inventory) => self.send(&ToController::Inventory(Box::new(inventory))),
                Err(error) => self.send(&ToController::Refused(unreadable(&error))),
            },
            ToAgent::Plan(request) => match inventory_and_plan(&request) {
                Ok((_, plan, _)) => self.send(&ToController::Plan(Box::new(plan))),
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
            ToAgent::RecoveryKeyStored { .. } => {
                Err(WireError::OutOfTurn("a recovery key's receipt"))
            }
            ToAgent::Fetch(_) => Err(WireError::OutOfTurn("where to fetch what nobody wants")),
            // The rest of a stream whose consumer failed.
            ToAgent::SourceFailed { .. } | ToAgent::WantChunks { .. } => Ok(()),
            // Done by who reads.
            ToAgent::OpenLanes { .. } => Ok(()),
            ToAgent::Abort => Ok(()),
            // The loop that calls this ends with it.
            ToAgent::Goodbye => Ok(()),
        }
    }

    fn execute(&mut self, request: ExecuteRequest) -> Result<(), WireError> {
        let ExecuteRequest {
            request,
            plan: confirmed,
            manifest,
            password,
            pin,
            key_files,
            host_keys,
            goes_on,
            patience_s,
        } = request;
        let secrets = Secrets { password, pin, key_files, host_keys };
        let phases = request.phases;
        let lock = match Lock::take(Path::new(LOCK), OTHER_AGENT) {
            Ok(lock) => lock,
            Err(error) => {
                return self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None));
            }
        };
        if goes_on
            && let Ok(Some(Begun { done: true, plan, report, .. })) = Begun::read(Path::new(BEGUN))
            && plan.hash == confirmed
        {
            self.installed = true;
            return self.send(&ToController::Done(Box::new(report)));
        }
        // The target is looked at again: what was confirmed must still be what is there.
        let (inventory, plan, begun) = match inventory_and_plan(&request) {
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
        if let (false, Some(begun)) = (phases.any(), &begun) {
            self.installed = true;
            return self.send(&ToController::Done(Box::new(begun.report.clone())));
        }
        if let Some(refusal) = missing_secret(&plan, phases, &secrets) {
            return self.send(&ToController::Refused(refusal));
        }
        // From here on it is not as it was left; what it is will be said at the end.
        if let Err(error) = Begun::forget(Path::new(BEGUN)) {
            return self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None));
        }
        let journal = match Journal::open(Path::new(JOURNAL), &plan.hash) {
            Ok(journal) => journal,
            Err(error) => {
                return self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None));
            }
        };
        let mut supplies = Remote::new(self.wire, secrets);
        let mut sink = RemoteSink(self.wire);
        let machine = Machine::new(&inventory, &plan);
        let mut execution = Execution::new(
            &plan,
            &manifest,
            machine,
            &mut supplies,
            &mut sink,
            self.cancel,
            journal,
        )
        .only(phases, begun.as_ref());
        let installs = !plan.basis.toplevel.is_empty();
        if installs && patience_s > 0 {
            execution = execution.leaving(Path::new(BEGUN));
        }
        match execution.run() {
            Ok(mut report) => {
                self.installed = phases.install && installs;
                if installs && let Err(error) = execution.begun(&report).write(Path::new(BEGUN)) {
                    report.warnings.push(format!(
                        "{}: a phase that is asked for later will not find what was done",
                        chain(&error)
                    ));
                }
                self.send(&ToController::Done(Box::new(report)))
            }
            Err(_) if execution.is_open() => {
                drop(lock);
                wait_for_another(&mut execution, Duration::from_secs(patience_s));
                Err(WireError::Ended)
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
                "the kernel's boot id can't be read, so the restart could not be verified"
                    .to_owned(),
                Some("restart the machine yourself: everything is written and closed".to_owned()),
            ));
        };
        match restart::restart_soon() {
            Ok(()) => self.send(&ToController::Rebooting { boot_id }),
            Err(error) => self.send(&refused(RefusalKind::TargetUnfit, chain(&error), None)),
        }
    }
}

/// Waits until another agent goes on with an execution that is open; closes it if none does.
fn wait_for_another(execution: &mut Execution<'_>, patience: Duration) {
    let (began, left) = (Instant::now(), Path::new(BEGUN));
    tracing::info!("the connection broke; waiting {} s for another one", patience.as_secs());
    while left.exists() {
        // Who has the lock looks at what was left, and may take it.
        if began.elapsed() >= patience
            && let Ok(_lock) = Lock::take(Path::new(LOCK), Duration::ZERO)
        {
            if left.exists() && Begun::forget(left).is_ok() {
                for line in execution.close() {
                    tracing::info!("{line}");
                }
            }
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Why the machine could not get all its secrets, known before the first write.
fn missing_secret(plan: &Plan, phases: Phases, secrets: &Secrets) -> Option<Refusal> {
    let of_disks = || phases.disko.then(|| missing_for_disks(plan, secrets)).flatten();
    let of_system = || phases.install.then(|| missing_for_system(plan, secrets)).flatten();
    let (message, hint) = of_disks().or_else(of_system)?;
    Some(Refusal { kind: RefusalKind::TargetUnfit, message, hint })
}

/// What is missing, and what to do.
type Missing = (String, Option<String>);

/// A secret that containers or datasets need.
fn missing_for_disks(plan: &Plan, secrets: &Secrets) -> Option<Missing> {
    let no_password =
        |name: &str| Some((format!("{name} is opened by a password, and none was given"), None));
    let containers = plan.containers.iter().find_map(|container| {
        let name = &container.name;
        match &container.unlock {
            ContainerUnlock::Password if secrets.password.is_none() => no_password(name),
            ContainerUnlock::Tpm2 { pin: true, .. } if secrets.pin.is_none() => {
                Some((format!("{name} is opened by TPM and PIN, and no PIN was given"), None))
            }
            ContainerUnlock::KeyFile(file) => missing_file(name, &file.path, secrets),
            ContainerUnlock::Password | ContainerUnlock::Tpm2 { .. } => None,
        }
    });
    let steps = || {
        plan.steps.iter().find_map(|step| match (&step.action, step.action.dataset_key()) {
            (Action::Enroll { name, additional, .. }, _) => {
                additional.iter().find_map(|file| missing_file(name, &file.path, secrets))
            }
            (_, Some((dataset, DatasetKey::Asked))) if secrets.password.is_none() => {
                no_password(dataset)
            }
            (_, Some((dataset, DatasetKey::File { path }))) => missing_file(dataset, path, secrets),
            _ => None,
        })
    };
    containers.or_else(steps)
}

/// A secret that the system gets.
fn missing_for_system(plan: &Plan, secrets: &Secrets) -> Option<Missing> {
    let keys = match &plan.basis.options.host_keys {
        HostKeys::Installer => hostkey::of_installer(Path::new("/etc")).map(drop),
        HostKeys::Given { public } => hostkey::given(&secrets.host_keys, public).map(drop),
        HostKeys::Made => Ok(()),
    };
    keys.err().map(|error| (chain(&error), None))
}

/// Why a container or dataset can't get a key file, and what to do.
fn missing_file(name: &str, path: &str, secrets: &Secrets) -> Option<Missing> {
    if secrets.key_files.contains_key(path) {
        return None;
    }
    let error = File::open(path).err()?;
    let hint = format!("give it with --disk-encryption-keys {path} FILE");
    Some((format!("{name} is opened by the key file {path}: {error}"), Some(hint)))
}

/// What the machine is, and the plan: a new one, or the one that was begun.
fn inventory_and_plan(request: &PlanRequest) -> Result<(Inventory, Plan, Option<Begun>), Refusal> {
    let inventory = inventory::collect().map_err(|error| unreadable(&error))?;
    if request.phases.disko || request.closure.is_none() {
        let closure = request.closure.as_ref();
        let plan = plan::plan_with(&inventory, &request.layout, &request.options, closure)?;
        if let Some(refusal) = unmountable(&plan) {
            return Err(refusal);
        }
        return Ok((inventory, plan, None));
    }
    let begun = Begun::read(Path::new(BEGUN)).map_err(|error| unreadable(&error))?;
    let begun = begun.ok_or_else(|| nothing_begun(request.phases))?;
    begun.goes_on_with(request)?;
    Ok((inventory, begun.plan.clone(), Some(begun)))
}

/// A file system that the plan mounts and that the running kernel does not have: found out before
/// the first step, as are missing programs.
fn unmountable(plan: &Plan) -> Option<Refusal> {
    let mut mounted = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Mount(MountPlan { source: MountSource::Filesystem { fstype, .. }, .. }) => {
            Some((step, fstype))
        }
        _ => None,
    });
    let (step, fstype) = mounted.find(|(_, fstype)| !mount::is_known(fstype))?;
    Some(Refusal {
        kind: RefusalKind::TargetUnfit,
        message: format!("the running kernel has no file system {fstype}, and: {}", step.title),
        hint: Some("boot an installer whose kernel has it".to_owned()),
    })
}

fn unreadable(error: &dyn std::error::Error) -> Refusal {
    Refusal { kind: RefusalKind::TargetUnfit, message: chain(error), hint: None }
}

fn refused(kind: RefusalKind, message: String, hint: Option<String>) -> ToController {
    ToController::Refused(Refusal { kind, message, hint })
}

/// Blake3 of the running executable: the controller compares it with what it uploaded.
fn exe_hash() -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open("/proc/self/exe")?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystone_protocol::frame::{self, ControlBytes, Frame, encode_control};
    use keystone_protocol::message::decode;
    use std::io::{Cursor, Read, pipe};

    fn answers(mut from: impl Read) -> Vec<ToController> {
        let mut answers = Vec::new();
        let mut header = [0; frame::HEADER];
        while from.read_exact(&mut header).is_ok() {
            let header = frame::parse_header(header).unwrap();
            let mut payload = vec![0; header.length];
            from.read_exact(&mut payload).unwrap();
            answers.push(decode(&Frame::Control(ControlBytes(payload))).unwrap());
        }
        answers
    }

    /// A controller of another version has other messages: which end to update is said all the
    /// same, after our hello, by which the controller can tell too.
    #[test]
    fn a_controller_of_another_version_is_told_what_to_update() {
        for (theirs, update) in [
            (PROTOCOL_VERSION - 1, "update keystone"),
            (PROTOCOL_VERSION + 1, "update keystone-agent"),
        ] {
            let hello =
                format!(r#"{{"say":"hello","what":{{"protocol":{theirs},"language":"fr"}}}}"#);
            let input = Cursor::new(encode_control(hello.as_bytes()).unwrap().0.clone());
            let (from_agent, output) = pipe().unwrap();
            let cancel = Cancel::default();
            let wire = RefCell::new(Wire::start(input, output, cancel.clone()));
            let mut session = Session { wire: &wire, cancel: &cancel, installed: false };
            let error = session.greet().unwrap_err();
            assert!(error.to_string().ends_with(update), "{error}");
            drop(wire);
            match answers(from_agent).as_slice() {
                [ToController::Hello { .. }, ToController::Refused(refusal)] => {
                    assert!(refusal.message.ends_with(update), "{refusal}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
