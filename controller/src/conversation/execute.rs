//! An execution: events, recovery keys, the closure's blocks, stopping.

use super::ConversationError;
use super::client::{Conversation, out_of_place};
use crate::closure::ClosureSource;
use crate::nar::{Block, BlockError, Blocks};
use crate::operator::{Notice, Operator, OperatorError};
use crate::stop::Stop;
use bytes::Bytes;
use keystone_protocol::event::{EventKind, Failure};
use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::message::{Copied, CopyRequest, ExecuteRequest, Refusal, ToAgent, ToController, encode};
use keystone_protocol::report::Report;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bound of stopping: the step that runs may be a boot loader's installer, and pools are
/// exported.
pub const STOPPING: Duration = Duration::from_secs(180);

/// What is executed.
pub struct Execution {
    /// The confirmed plan, the closure and the secrets.
    pub request: ExecuteRequest,
    /// Where the closure's contents come from.
    pub source: Arc<dyn ClosureSource>,
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
        let Execution { request, source } = execution;
        let paths = Arc::new(Manifest::clone(&request.manifest));
        let message = ToAgent::Execute(Box::new(request));
        match self.run(message, paths, source, operator, stop).await? {
            Outcome::Installed(report) => Ok(*report),
            Outcome::Copied(_) => Err(ConversationError::OutOfPlace { said: "that the copy is done", doing: DOING }.into()),
        }
    }

    /// Copies a closure into a store below a directory. `stop` as for an execution.
    pub async fn copy(
        &mut self,
        request: CopyRequest,
        source: Arc<dyn ClosureSource>,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Copied, ExecuteError> {
        let paths = Arc::new(Manifest::clone(&request.manifest));
        let message = ToAgent::Copy(Box::new(request));
        match self.run(message, paths, source, operator, stop).await? {
            Outcome::Copied(copied) => Ok(copied),
            Outcome::Installed(_) => Err(ConversationError::OutOfPlace { said: "that it is installed", doing: "copying" }.into()),
        }
    }

    async fn run(
        &mut self,
        message: ToAgent,
        paths: Arc<Manifest>,
        source: Arc<dyn ClosureSource>,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<Outcome, ExecuteError> {
        self.say(&message)?;
        // It may hold secrets, which end with it, and a manifest.
        drop(message);
        let mut run = Run { paths, source, stream: None, step: None, stopping: None, cause: None };
        let outcome = run.run_through(self, operator, stop).await;
        run.end_stream();
        outcome
    }
}

/// How a run ended well.
enum Outcome {
    Installed(Box<Report>),
    Copied(Copied),
}

struct Run {
    paths: Arc<Manifest>,
    source: Arc<dyn ClosureSource>,
    stream: Option<JoinHandle<()>>,
    step: Option<String>,
    /// When patience ends, once stopping was asked for.
    stopping: Option<Instant>,
    cause: Option<OperatorError>,
}

const DOING: &str = "installing";

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
                    match &event.kind {
                        EventKind::StepStarted { step } => self.step = Some(step.clone()),
                        EventKind::StepFinished { .. } => self.step = None,
                        _ => {}
                    }
                    operator.notice(Notice::Event(&event));
                }
                ToController::WantPaths { paths } => self.stream(agent, &paths)?,
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
        self.end_stream();
        agent.say(&ToAgent::Abort)
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }

    /// Starts to send the paths that the agent wants, in its order.
    fn stream(&mut self, agent: &Conversation, wanted: &[u32]) -> Result<(), ExecuteError> {
        let inconsistent = |why: String| ConversationError::Inconsistent(why);
        let mut list: Vec<(u32, PathInfo)> = Vec::with_capacity(wanted.len());
        for &index in wanted {
            let info = self.paths.paths.get(index as usize).ok_or_else(|| {
                inconsistent(format!(
                    "it wants path {index}, the closure has {}",
                    self.paths.paths.len()
                ))
            })?;
            list.push((index, info.clone()));
        }
        self.end_stream();
        if self.stopping.is_some() {
            return Ok(());
        }
        let source = Arc::clone(&self.source);
        let blocks = agent.wire.blocks.clone();
        let control = agent.wire.control.clone();
        self.stream = Some(tokio::spawn(async move {
            let failed = match Blocks::start(source, list) {
                Ok(stream) => send(stream, &blocks).await,
                Err(error) => Err(error),
            };
            let Err(error) = failed else { return };
            let message = crate::chain(&error);
            match encode(&ToAgent::SourceFailed { message }) {
                Ok(bytes) => drop(control.send(Bytes::copy_from_slice(&bytes.0))),
                Err(e) => tracing::error!("{e}"),
            }
        }));
        Ok(())
    }
}

async fn send(mut stream: Blocks, blocks: &mpsc::Sender<Block>) -> Result<(), BlockError> {
    while let Some(block) = stream.next().await {
        if blocks.send(block?).await.is_err() {
            break;
        }
    }
    Ok(())
}
