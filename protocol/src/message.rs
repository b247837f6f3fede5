//! The conversation.
//!
//! ```text
//! controller                          agent
//! Hello                         ->
//!                               <-    Hello
//! Inventory                     ->
//!                               <-    Inventory
//! Plan                          ->
//!                               <-    Plan | Refused
//! Execute                       ->
//!                               <-    Refused, if the plan's hash is another one now
//!                               <-    Event…
//!                               <-    WantUnlockKey        (containers that are there already)
//! UnlockKey                     ->
//!                               <-    RecoveryKey          (before the closure)
//! RecoveryKeyStored             ->
//!                               <-    WantPaths
//! Fetch                         ->                          (if it is to fetch them itself)
//!                               <-    Event…, NotFetched, WantPaths, if it lacks some
//! blocks…                       ->
//!                               <-    Event…, Credit…, SendAgain
//! OpenLanes                     ->                          (on a line that one connection can't fill)
//! WantChunks                    ->                          (on a slow line)
//!                               <-    Chunks…
//!                               <-    WantExtraFiles       (if there are any)
//! blocks…                       ->
//!                               <-    Event…, Credit…, SendAgain
//!                               <-    Done | Failed
//! Copy                          ->                          (instead of Plan and Execute)
//!                               <-    Event…, WantPaths
//! blocks…                       ->
//!                               <-    Copied | Failed
//! Reboot                        ->
//!                               <-    Rebooting
//! Goodbye                       ->                          (nothing more is asked)
//! ```
//!
//! `Abort` may be sent at any time; the agent stops between two writes, undoes what it opened
//! and answers `Failed`. The end of the stream means the same, unless patience was given: then the
//! agent waits with everything open for another one to go on.

use crate::event::{Event, Failure};
use crate::fetch::{Fetch, NotFetched};
use crate::frame::{ControlBytes, Frame, FrameError, encode_control};
use crate::inventory::Inventory;
use crate::manifest::Manifest;
use crate::options::{ClosureFacts, InstallOptions};
use crate::phase::Phases;
use crate::plan::Plan;
use crate::report::Report;
use crate::secret::Secret;
use crate::version::{self, End, VersionMismatch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// The index that stands in blocks of the operator's files where a path's index stands in those
/// of the closure.
pub const EXTRA_FILES: u32 = u32::MAX;

/// The agent's first argument that makes it a lane; the second is the agent's socket. It passes on what
/// comes over its standard input, and writes [`LANE_IS_OPEN`] once it can.
pub const LANE: &str = "lane";
/// The one byte on a lane's standard output.
pub const LANE_IS_OPEN: u8 = b'+';

/// A message to the agent. Its tag comes first and apart from its body: with the tag inside,
/// serde would buffer the body, secrets included, where nothing wipes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", content = "what", rename_all = "kebab-case")]
pub enum ToAgent {
    /// First of all.
    Hello {
        /// [`crate::version::PROTOCOL_VERSION`].
        protocol: u32,
        /// The controller's version.
        version: String,
    },
    /// Asks what the machine is.
    Inventory,
    /// Asks for a plan.
    Plan(Box<PlanRequest>),
    /// Confirms a plan and starts it.
    Execute(Box<ExecuteRequest>),
    /// Asks for a closure in a store below a directory, and nothing else.
    Copy(Box<CopyRequest>),
    /// The recovery key was shown to the operator or is in its file, synced.
    RecoveryKeyStored {
        /// Which container's.
        container: String,
    },
    /// What opens a container that was asked about; none if there is nothing (more) to try.
    UnlockKey {
        /// Which container.
        container: String,
        /// A password or recovery key.
        key: Option<Secret>,
    },
    /// The first answer to the first `WantPaths`, instead of blocks: the agent fetches these itself,
    /// and asks once more for what it still lacks then.
    Fetch(Box<Fetch>),
    /// Asks for the chunks of what is like these paths: for each of them
    /// [`ToController::Chunks`] follows, in this order, while blocks go on to come.
    WantChunks {
        /// Indices in the manifest, of those in [`ToController::WantPaths::alike`].
        paths: Vec<u32>,
    },
    /// Further connections follow, which carry blocks alone: each to a [`LANE`] that is started
    /// beside the agent. One connection may carry less than the line does.
    OpenLanes {
        /// Where the agent is to listen for them: a Unix socket in a directory that is root's alone.
        socket: String,
    },
    /// The source of the closure failed; the agent fails the step with these words.
    SourceFailed {
        /// Why.
        message: String,
    },
    /// Stop between two writes.
    Abort,
    /// Restart the machine. Only after `Done`.
    Reboot,
    /// Nothing more is asked. An agent that is told so ends with status 0, and whoever started it
    /// removes it at once; one whose stream merely ends is kept for the next connection.
    Goodbye,
}

/// Asks for a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanRequest {
    /// `disko.devices`, JSON as given.
    pub layout: String,
    /// The operator's options.
    pub options: InstallOptions,
    /// What is to be installed; without it only the disks are dealt with.
    pub closure: Option<ClosureFacts>,
    /// Which phases are to run. Not part of the plan: one that was begun is gone on with.
    pub phases: Phases,
}

/// Confirms a plan and starts it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecuteRequest {
    /// What the plan is made from, again: the agent plans anew and compares.
    pub request: PlanRequest,
    /// The hash that was confirmed.
    pub plan: String,
    /// The closure.
    pub manifest: Manifest,
    /// The password for containers opened by one.
    pub password: Option<Secret>,
    /// The PIN for containers opened by TPM and PIN.
    pub pin: Option<Secret>,
    /// Key files that the layout names, by their path in it. Those that are not here are read
    /// from the machine.
    pub key_files: BTreeMap<String, Secret>,
    /// SSH host keys given by the operator, in OpenSSH's format, in the order of the plan's
    /// public halves.
    pub host_keys: Vec<Secret>,
    /// Whether an earlier connection confirmed and began it, and broke. The phase `install` that it
    /// left is gone on with; if it ended meanwhile, its report is the answer.
    pub goes_on: bool,
    /// If this connection breaks once the target is mounted, everything stays open for another one
    /// that goes on, for so many seconds; then it is closed.
    pub patience_s: u64,
}

/// Asks for a closure in a store below a directory. Answered like an execution: events, with
/// [`ToController::WantPaths`] among them, and [`ToController::Copied`] in the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyRequest {
    /// The directory that is the root of the store's system: the store is `nix/store` in it.
    pub root: String,
    /// The closure.
    pub manifest: Manifest,
}

/// A path to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its index in the manifest.
    pub path: u32,
    /// The first byte of its NAR that is missing; what comes before is there.
    pub from: u64,
}

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Paths that were received.
    pub paths: u64,
    /// Their NARs' lengths together, in bytes.
    pub bytes: u64,
    /// Paths that were there already, whole and verified.
    pub present: u64,
    /// Bytes of NARs that an earlier run had begun and that did not have to come again.
    pub kept: u64,
    /// Bytes of NARs that were taken from the running system's own store.
    pub local: u64,
}

/// A message to the controller; its form as [`ToAgent`]'s.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", content = "what", rename_all = "kebab-case")]
pub enum ToController {
    /// First of all.
    Hello {
        /// [`crate::version::PROTOCOL_VERSION`].
        protocol: u32,
        /// The agent's version.
        version: String,
        /// Blake3 of `/proc/self/exe`, 64 hex digits.
        exe: String,
    },
    /// What the machine is.
    Inventory(Box<Inventory>),
    /// What would be done.
    Plan(Box<Plan>),
    /// Not done, and nothing was written.
    Refused(Refusal),
    /// Something happened.
    Event(Event),
    /// A recovery key, to be shown once or stored. The agent waits for `RecoveryKeyStored`.
    RecoveryKey {
        /// Which container's.
        container: String,
        /// The key, in systemd's format.
        key: Secret,
    },
    /// Asks for what opens an existing container. The agent waits for [`ToAgent::UnlockKey`].
    WantUnlockKey {
        /// Which container.
        container: String,
        /// What was tried and why it failed, a sentence each.
        tried: Vec<String>,
    },
    /// What to stream, in the order wanted, and how much of it before the first [`Credit`].
    ///
    /// [`Credit`]: ToController::Credit
    WantPaths {
        /// The paths.
        paths: Vec<Wanted>,
        /// Bytes of block payloads that may be sent.
        credit: u64,
        /// The largest window of a zstd frame that goes on over blocks, as a power of two.
        window_log: u32,
        /// Indices in the manifest of those of the paths that something on the machine is like.
        alike: Vec<u32>,
    },
    /// Chunks that are on the machine ([`crate::chunks`]), which blocks may name instead of having
    /// their bytes.
    Chunks {
        /// Of what is like this path.
        path: u32,
        /// The first one's number; the others' follow.
        first: u32,
        /// Their hashes, as [`crate::chunks::to_text`] makes them.
        hashes: String,
    },
    /// Paths that could not be fetched; they are asked for next.
    NotFetched {
        /// Which, and why.
        paths: Vec<NotFetched>,
    },
    /// Blocks arrived whole and were taken: more may be sent.
    Credit {
        /// All blocks with lower numbers arrived whole: nobody asks for them again.
        whole: u64,
        /// Bytes of block payloads that may be sent, counted from the stream's beginning; a block
        /// of chunks counts as what it becomes.
        bytes: u64,
    },
    /// A block arrived damaged, or the chunks that it names are not there any more.
    SendAgain {
        /// Its number.
        number: u64,
    },
    /// The operator's files are wanted now: their archive, in blocks of the path
    /// [`EXTRA_FILES`], which are numbered anew.
    WantExtraFiles {
        /// Bytes of block payloads that may be sent.
        credit: u64,
        /// The largest window of a zstd frame that goes on over blocks, as a power of two.
        window_log: u32,
    },
    /// The copy is done: everything is on the disk and registered.
    Copied(Copied),
    /// Done and, unless the plan leaves it out, sealed.
    Done(Box<Report>),
    /// Stopped after the first write.
    Failed(Failure),
    /// The machine goes down in a moment; the channel ends.
    Rebooting {
        /// The boot id that must be gone afterwards.
        boot_id: String,
    },
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which kind, for the exit code.
    pub kind: RefusalKind,
    /// Why, a sentence.
    pub message: String,
    /// What to do, a sentence or a command.
    pub hint: Option<String>,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The layout can't be read or is not supported.
    Layout,
    /// The machine can't be installed so: firmware, disks, kernel modules.
    TargetUnfit,
    /// What is on the disks would be lost and the operator did not agree.
    NotConfirmed,
    /// The closure does not fit the machine or the layout.
    Closure,
    /// The plan is not the one that was confirmed.
    PlanChanged,
    /// The conversation went wrong.
    Protocol,
}

/// A message that can't be written or read.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Over the limits, or not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A control frame whose JSON is not a message of this version.
    #[error("message that this version does not know")]
    Unknown(#[source] serde_json::Error),
    /// A hello of another version.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// A block came where a message was expected.
    #[error("closure data came where a message was expected")]
    UnexpectedBlock,
}

/// A message of one of the two ends.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// Whose.
    const OF: End;
}

impl Message for ToAgent {
    const OF: End = End::Controller;
}

impl Message for ToController {
    const OF: End = End::Agent;
}

/// Counts what is written.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A message as a frame.
pub fn encode<M: Message>(message: &M) -> Result<ControlBytes, MessageError> {
    // Measured first: a buffer that grows leaves copies behind, and there may be secrets in it.
    let mut length = Counter(0);
    serde_json::to_writer(&mut length, message).map_err(MessageError::Unknown)?;
    let mut json = ControlBytes(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut json.0, message).map_err(MessageError::Unknown)?;
    Ok(encode_control(&json.0)?)
}

/// A frame as a message. A hello's version is looked at before anything else of it: whatever
/// else another version has in its hello, what is wrong is the version.
pub fn decode<M: Message>(frame: &Frame) -> Result<M, MessageError> {
    match frame {
        Frame::Control(json) => {
            if let Some(theirs) = hello_version(&json.0) {
                version::check(M::OF, theirs)?;
            }
            serde_json::from_slice(&json.0).map_err(MessageError::Unknown)
        }
        Frame::Block(..) => Err(MessageError::UnexpectedBlock),
    }
}

/// How every hello begins, in every version.
const HELLO: &[u8] = br#"{"say":"hello","#;

/// The version in a hello. That a hello begins so, and that it has `what.protocol`, a number,
/// holds for every version; anything else in it may change.
fn hello_version(json: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Hello {
        what: Spoken,
    }
    #[derive(Deserialize)]
    struct Spoken {
        protocol: u32,
    }
    let hello: Hello = json.starts_with(HELLO).then(|| serde_json::from_slice(json).ok())??;
    Some(hello.what.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::DiskIdentity;
    use crate::report::{ContainerReport, DiskReport, EndsAt, PoolReport, StepReport};

    fn control(json: &str) -> Frame {
        Frame::Control(ControlBytes(json.as_bytes().to_vec()))
    }

    /// Whatever else changes, either end can tell from a hello which of the two is older.
    #[test]
    fn hellos_of_other_versions_are_told_by_their_version() {
        let hello = |protocol: u32| {
            control(&format!(
                r#"{{"say":"hello","what":{{"protocol":{protocol},"news":[1],"version":7}}}}"#
            ))
        };
        let ours = version::PROTOCOL_VERSION;
        let said = |result: Result<(), MessageError>| match result.unwrap_err() {
            MessageError::Version(mismatch) => mismatch.to_string(),
            other => panic!("{other}"),
        };
        for (theirs, agent, controller) in [
            (ours + 1, "update keystone", "update keystone-agent"),
            (ours - 1, "update keystone-agent", "update keystone"),
        ] {
            let from_agent = said(decode::<ToController>(&hello(theirs)).map(drop));
            assert!(from_agent.ends_with(agent), "{from_agent}");
            let from_controller = said(decode::<ToAgent>(&hello(theirs)).map(drop));
            assert!(from_controller.ends_with(controller), "{from_controller}");
        }
        let own = decode::<ToController>(&hello(ours));
        assert!(matches!(own, Err(MessageError::Unknown(_))), "{own:?}");
    }

    /// The form that [`hello_version`] relies on is the one that is written.
    #[test]
    fn a_hello_has_the_form_that_stays() {
        let agent = ToController::Hello { protocol: 2, version: "1".into(), exe: "e".into() };
        let controller = ToAgent::Hello { protocol: 2, version: "1".into() };
        for framed in [encode(&agent).unwrap(), encode(&controller).unwrap()] {
            assert_eq!(hello_version(&framed.0[crate::frame::HEADER..]), Some(2));
        }
    }

    /// What serde buffers (as tagged types in it) has no numbers for map keys.
    #[test]
    fn a_report_survives_the_journey() {
        let identity = DiskIdentity {
            name: "virtio-target".to_owned(),
            serial: Some("target".to_owned()),
            wwn: None,
            model: None,
            size: 24 << 30,
            sector_size: 512,
        };
        let report = Report {
            version: crate::report::REPORT_VERSION,
            agent_version: "1".to_owned(),
            plan: "ab".to_owned(),
            toplevel: "/nix/store/x".to_owned(),
            disks: [(
                "root".to_owned(),
                DiskReport {
                    identity,
                    guid: "g".to_owned(),
                    partitions: [("ESP".to_owned(), "p".to_owned())].into(),
                },
            )]
            .into(),
            pools: [(
                "rpool".to_owned(),
                PoolReport { guid: "1".to_owned(), features: vec!["encryption".to_owned()] },
            )]
            .into(),
            containers: [(
                "credstore".to_owned(),
                ContainerReport {
                    uuid: "u".to_owned(),
                    keyslots: [("0".to_owned(), "tpm2".to_owned())].into(),
                },
            )]
            .into(),
            ssh_host_key: Some("ssh-ed25519 AAAA".to_owned()),
            steps: vec![StepReport {
                id: "seal".to_owned(),
                elapsed_ms: 1,
                outcome: crate::event::Outcome::Created,
            }],
            warnings: vec!["w".to_owned()],
            ends_at: EndsAt::Sealed,
            started_at: 1,
        };
        let framed = encode(&ToController::Done(Box::new(report.clone()))).unwrap();
        let header = framed.0[..crate::frame::HEADER].try_into().unwrap();
        let header = crate::frame::parse_header(header).unwrap();
        let payload = framed.0[crate::frame::HEADER..].to_vec();
        let frame = crate::frame::parse_payload(&header, payload).unwrap();
        match decode(&frame).unwrap() {
            ToController::Done(read) => assert_eq!(*read, report),
            other => panic!("{other:?}"),
        }
    }
}
