//! An execution: events, recovery keys, the closure's blocks, stopping.

use super::ConversationError;
use super::client::{Conversation, out_of_place};
use super::lanes::Attendant;
use super::stream::{Credit, Sending, Stream};
use crate::additions::Archive;
use crate::closure::ClosureSource;
use crate::nar::delta::Ask;
use crate::nar::{Item, Known};
use crate::operator::{Notice, Operator, OperatorError};
use crate::stop::Stop;
use bytes::Bytes;
use keystone_protocol::chunks::from_text;
use keystone_protocol::event::{Event, EventKind, Failure, Unit};
use keystone_protocol::fetch::NotFetched;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::{
    Copied, CopyRequest, EXTRA_FILES, ExecuteRequest, Refusal, ToAgent, ToController, Wanted,
    encode,
};
use keystone_protocol::report::Report;
use std::sync::{Arc, Weak};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

/// Bound of stopping: the step that runs may be a boot loader's installer, and pools are
/// exported.
pub const STOPPING: Duration = Duration::from_secs(180);

/// Windows of compressed streams, whatever the agent says, as powers of two.
const MIN_WINDOW_LOG: u32 = 20;
const MAX_WINDOW_LOG: u32 = 27;

/// What is executed.
#[derive(Clone)]
pub struct Execution {
    /// The confirmed plan, the closure and the secrets.
    pub request: ExecuteRequest,
    /// Where the closure's contents come from.
    pub source: Arc<dyn ClosureSource>,
    /// Whether the machine is to fetch itself what it can.
    pub on_target: bool,
    /// The operator's files, if the plan has some.
    pub extra_files: Option<Arc<Archive>>,
}

/// An execution did not end well.
#[derive(Debug, Error)]
pub enum ExecuteError {
    /// Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It failed after the first write.
    #[error("{}", failure.message)]
    Failed {
        /// The step that failed, if one did.
        step: Option<String>,
        /// Why, what is left, and what to do.
        failure: Box<Failure>,
        /// Whether the operator asked to stop.
        stopped: bool,
        /// What the operator could not do, if that was the reason.
        cause: Option<OperatorError>,
    },
    /// The operator left without waiting.
    #[error(
        "left while the agent was still stopping: it goes on undoing what it opened; what is on \
         the disks is not known here"
    )]
    Left,
    /// The conversation went wrong: the agent stops by itself when it notices.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
}

impl Conversation {
    /// Executes a confirmed plan to its end.
    ///
    /// `stop` asked once makes the agent stop between two writes and undo what it opened; asked
    /// twice ends the conversation at once.
    pub async fn execute(
        &mut self,
        execution: Execution,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Report, ExecuteError> {
        let Execution { request, source, on_target, extra_files } = execution;
        let contents = Contents {
            paths: Arc::new(Manifest::clone(&request.manifest)),
            source,
            on_target,
            extra_files,
        };
        let message = ToAgent::Execute(Box::new(request));
        match self.run(message, contents, operator, stop).await? {
            Outcome::Installed(report) => Ok(*report),
            Outcome::Copied(_) => {
                Err(ConversationError::OutOfPlace { said: "that the copy is done", doing: DOING }
                    .into())
            }
        }
    }

    /// Copies a closure into a store below a directory; with `on_target` the machine fetches itself
    /// what it can. `stop` as for an execution.
    pub async fn copy(
        &mut self,
        request: CopyRequest,
        source: Arc<dyn ClosureSource>,
        on_target: bool,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Copied, ExecuteError> {
        let paths = Arc::new(Manifest::clone(&request.manifest));
        let contents = Contents { paths, source, on_target, extra_files: None };
        let message = ToAgent::Copy(Box::new(request));
        match self.run(message, contents, operator, stop).await? {
            Outcome::Copied(copied) => Ok(copied),
            Outcome::Installed(_) => Err(ConversationError::OutOfPlace {
                said: "that it is installed",
                doing: "copying",
            }
            .into()),
        }
    }

    async fn run(
        &mut self,
        message: ToAgent,
        contents: Contents,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Outcome, ExecuteError> {
        self.say(&message)?;
        // It may hold secrets, which end with it, and a manifest.
        drop(message);
        let (stream, attendant, step) = (None, None, None);
        let (at_ms, stopping, cause) = (0, None, None);
        let mut run = Run { contents, stream, attendant, step, at_ms, stopping, cause };
        let outcome = run.run_through(self, operator, stop).await;
        if let Err(ExecuteError::Conversation(error)) = &outcome
            && !error.is_loss()
        {
            // It must not take this for a connection that broke. It may be one all the same.
            let _ = self.say(&ToAgent::Abort);
        }
        outcome
    }
}

/// How a run ended well.
enum Outcome {
    Installed(Box<Report>),
    Copied(Copied),
}

/// What is sent.
struct Contents {
    paths: Arc<Manifest>,
    source: Arc<dyn ClosureSource>,
    /// Whether the machine is to be told where it can fetch it: once.
    on_target: bool,
    extra_files: Option<Arc<Archive>>,
}

struct Run {
    contents: Contents,
    stream: Option<Stream>,
    /// Sees to it that there are connections enough.
    attendant: Option<Attendant>,
    step: Option<String>,
    /// When the last event was.
    at_ms: u64,
    /// When patience ends, once stopping was asked for.
    stopping: Option<Instant>,
    cause: Option<OperatorError>,
}

const DOING: &str = "installing";
/// Of how many paths that could not be fetched the reason is told.
const TOLD: usize = 3;

impl Run {
    async fn run_through(
        &mut self,
        agent: &mut Conversation,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Outcome, ExecuteError> {
        loop {
            let deadline = self.stopping;
            let message = tokio::select! {
                message = agent.next(DOING, operator) => message?,
                () = stop.asked(1), if deadline.is_none() => {
                    operator.notice(Notice::Stopping);
                    self.abort(agent)?;
                    continue;
                }
                () = stop.asked(2) => return Err(ExecuteError::Left),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    let doing = "stopping";
                    return Err(ConversationError::TimedOut { doing, bound: STOPPING }.into());
                }
            };
            match message {
                ToController::Event(event) => {
                    self.at_ms = event.at_ms;
                    match &event.kind {
                        EventKind::StepStarted { step } => {
                            self.step = Some(step.clone());
                            agent.step = Some(step.clone());
                        }
                        EventKind::StepFinished { .. } => {
                            (self.step, self.attendant) = (None, None)
                        }
                        EventKind::Progress { done, unit: Unit::Bytes, .. } => {
                            agent.received = *done;
                        }
                        _ => {}
                    }
                    operator.notice(Notice::Event(&event));
                }
                ToController::WantPaths { paths, credit, window_log, alike } => {
                    self.stream(agent, &paths, &alike, credit, window_log)?;
                }
                ToController::Chunks { path, first, hashes } => {
                    if let Some(stream) = &self.stream {
                        let hashes = from_text(&hashes).ok_or("chunks that can't be read");
                        let added = hashes.and_then(|h| stream.known().add(path, first, &h));
                        added.map_err(|why| {
                            ConversationError::Inconsistent(format!("it offers {why}"))
                        })?;
                    }
                }
                ToController::NotFetched { paths } => {
                    let warning = self.not_fetched(&paths);
                    operator.notice(Notice::Event(&warning));
                }
                ToController::WantExtraFiles { credit, window_log } => {
                    self.stream_extra_files(agent, credit, window_log)?;
                }
                ToController::Credit { whole, bytes } => {
                    if let Some(stream) = &self.stream {
                        stream.credit(Credit { whole, bytes });
                    }
                }
                ToController::SendAgain { number } => {
                    if let Some(stream) = &self.stream {
                        stream.send_again(number);
                    }
                }
                ToController::RecoveryKey { container, key } => {
                    let kept = tokio::select! {
                        kept = operator.keep_recovery_key(&container, &key) => Some(kept),
                        () = stop.asked(1) => None,
                    };
                    match kept {
                        Some(Ok(())) => agent.say(&ToAgent::RecoveryKeyStored { container })?,
                        // A machine without its recovery key is not installed.
                        Some(Err(error)) => {
                            self.cause = Some(error);
                            self.abort(agent)?;
                        }
                        None => {}
                    }
                }
                ToController::WantUnlockKey { container, tried } => {
                    let given = tokio::select! {
                        given = operator.unlock_key(&container, &tried) => Some(given),
                        () = stop.asked(1) => None,
                    };
                    match given {
                        Some(Ok(key)) => {
                            agent.say(&ToAgent::UnlockKey { container, key: Some(key) })?;
                        }
                        Some(Err(error)) => {
                            self.cause = Some(error);
                            agent.say(&ToAgent::UnlockKey { container, key: None })?;
                        }
                        None => {}
                    }
                }
                ToController::Done(report) => return Ok(Outcome::Installed(report)),
                ToController::Copied(copied) => return Ok(Outcome::Copied(copied)),
                ToController::Refused(refusal) => return Err(refusal.into()),
                ToController::Failed(failure) => {
                    return Err(ExecuteError::Failed {
                        step: self.step.take(),
                        failure: Box::new(failure),
                        stopped: self.stopping.is_some() && self.cause.is_none(),
                        cause: self.cause.take(),
                    });
                }
                other => return Err(out_of_place(&other, DOING).into()),
            }
        }
    }

    fn abort(&mut self, agent: &Conversation) -> Result<(), ConversationError> {
        self.stopping.get_or_insert_with(|| Instant::now() + STOPPING);
        self.stream = None;
        agent.say(&ToAgent::Abort)
    }

    /// Starts to send what the agent wants, in its order.
    fn stream(
        &mut self,
        agent: &mut Conversation,
        wanted: &[Wanted],
        alike: &[u32],
        credit: u64,
        window_log: u32,
    ) -> Result<(), ExecuteError> {
        let mut items = Vec::with_capacity(wanted.len());
        for &Wanted { path, from } in wanted {
            let info =
                self.contents.paths.paths.get(path as usize).filter(|info| from < info.nar_size);
            let info = info.ok_or_else(|| {
                let has = self.contents.paths.paths.len();
                ConversationError::Inconsistent(format!(
                    "it wants path {path} from byte {from}, the closure has {has}"
                ))
            })?;
            items.push(Item { index: path, info: info.clone(), from });
        }
        if std::mem::take(&mut self.contents.on_target) && self.stopping.is_none() {
            let paths: Vec<_> = items.iter().map(|item| (item.index, &item.info)).collect();
            let fetch = self.contents.source.elsewhere(&paths);
            if let Some(fetch) = fetch.filter(|fetch| !fetch.nars.is_empty()) {
                self.stream = None;
                return Ok(agent.say(&ToAgent::Fetch(Box::new(fetch)))?);
            }
        }
        let control = agent.wire.control.clone();
        let ask: Ask = Box::new(move |paths| {
            let asked = encode(&ToAgent::WantChunks { paths: paths.to_vec() });
            asked.is_ok_and(|bytes| control.send(Bytes::copy_from_slice(&bytes.0)).is_ok())
        });
        let known = Known::new(agent.delta, alike, ask);
        // While these are sent it shows what the line is like.
        items.sort_by_key(|item| known.is_alike(item.index));
        self.send_all(agent, Arc::clone(&self.contents.source), items, known, credit, window_log);
        Ok(())
    }

    /// That the machine could not fetch some paths, which are sent from here next.
    fn not_fetched(&self, paths: &[NotFetched]) -> Event {
        let name = |path: u32| {
            let info = self.contents.paths.paths.get(path as usize);
            info.map_or_else(|| format!("path {path}"), |info| info.path.clone())
        };
        let mut message = format!(
            "the machine could not fetch {} of the paths itself, they are sent from here:",
            paths.len()
        );
        for NotFetched { path, why } in paths.iter().take(TOLD) {
            message.push_str(&format!(" {}: {why};", name(*path)));
        }
        match paths.len().saturating_sub(TOLD) {
            0 => drop(message.pop()),
            more => message.push_str(&format!(" and {more} more")),
        }
        let step = self.step.clone().unwrap_or_default();
        Event { at_ms: self.at_ms, kind: EventKind::Warning { step, message } }
    }

    /// Starts to send the operator's files.
    fn stream_extra_files(
        &mut self,
        agent: &mut Conversation,
        credit: u64,
        window_log: u32,
    ) -> Result<(), ExecuteError> {
        let Some(archive) = self.contents.extra_files.clone() else {
            let why = "it wants files of the operator's, and there are none".to_owned();
            return Err(ConversationError::Inconsistent(why).into());
        };
        let items = vec![Item { index: EXTRA_FILES, info: archive.path_info(), from: 0 }];
        self.send_all(agent, archive, items, Known::nothing(), credit, window_log);
        Ok(())
    }

    fn send_all(
        &mut self,
        agent: &mut Conversation,
        source: Arc<dyn ClosureSource>,
        items: Vec<Item>,
        known: Known,
        credit: u64,
        window_log: u32,
    ) {
        self.stream = None;
        if self.stopping.is_none() {
            let (blocks, control) = (agent.wire.blocks.clone(), agent.wire.control.clone());
            let window_log = window_log.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG);
            let known = Arc::new(known);
            let (line, memory) = (Weak::clone(&agent.wire.line), Arc::clone(&agent.memory));
            let sending =
                Sending { source, items, credit, window_log, known, blocks, control, line };
            self.stream = Some(Stream::start(sending, memory));
            agent.carrying = Some(agent.step.clone());
            if let Some(lanes) = agent.lanes.take() {
                self.attendant = Some(lanes.attend(agent.wire.beside(), Arc::clone(&agent.memory)));
            }
        }
    }
}
