//! Hello, inventory, plan.

use super::ConversationError;
use super::lanes::{Lanes, Memory};
use super::log::LogTail;
use super::transport::{Incoming, Outgoing, Wire};
use crate::nar::Delta;
use crate::operator::{Notice, Operator};
use crate::ssh::exec::{Exit, Running};
use keystone_protocol::inventory::Inventory;
use keystone_protocol::message::{MessageError, PlanRequest, ToAgent, ToController};
use keystone_protocol::plan::Plan;
use keystone_protocol::version::PROTOCOL_VERSION;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout, timeout_at};

/// Bound of the hello: the program has only to start.
const HELLO: Duration = Duration::from_secs(30);
/// Bound of the inventory: slow disks, a TPM, pools to look at.
const INVENTORY: Duration = Duration::from_secs(180);
/// Bound of a plan: it takes an inventory too.
const PLAN: Duration = Duration::from_secs(240);
/// How long after one of several connections ended the agent may say why, or be found gone.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bound of the answer to `Reboot`.
const REBOOT: Duration = Duration::from_secs(60);

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentHello {
    /// Its version.
    pub version: String,
    /// Blake3 of its executable, 64 hex digits.
    pub exe: String,
}

/// A conversation whose hellos were exchanged.
#[derive(Debug)]
pub struct Conversation {
    pub(super) wire: Wire,
    pub(super) log: LogTail,
    /// NAR bytes that the agent says it has unpacked.
    pub(super) received: u64,
    /// The step that was begun last.
    pub(super) step: Option<String>,
    /// Whether what the machine holds is not sent.
    pub(super) delta: Delta,
    /// How further connections are made, until the first blocks are sent.
    pub(super) lanes: Option<Lanes>,
    /// The step for which blocks are sent.
    pub(super) carrying: Option<Option<String>>,
    /// How one of several connections ended, and until when it is waited for what the agent says of it.
    lane_lost: Option<(String, Instant)>,
    /// What is known of the way to the machine.
    pub(super) memory: Arc<Memory>,
    hello: AgentHello,
}

impl Conversation {
    /// With a program started over SSH, whose executable must have the hash `expected`.
    pub async fn with_program(
        running: Running,
        expected: &blake3::Hash,
        operator: &mut impl Operator,
    ) -> Result<Self, ConversationError> {
        Self::begin(Wire::over_program(running), Some(expected), operator).await
    }

    /// Over any streams: those of a child process, say. `expected` as above, if given.
    pub async fn over(
        out: impl Outgoing,
        stdout: impl AsyncRead + Unpin + Send + 'static,
        stderr: impl AsyncRead + Unpin + Send + 'static,
        expected: Option<&blake3::Hash>,
        operator: &mut impl Operator,
    ) -> Result<Self, ConversationError> {
        let wire = Wire::over(out, stdout, stderr, std::future::ready(None));
        Self::begin(wire, expected, operator).await
    }

    async fn begin(
        wire: Wire,
        expected: Option<&blake3::Hash>,
        operator: &mut impl Operator,
    ) -> Result<Self, ConversationError> {
        let hello = AgentHello { version: String::new(), exe: String::new() };
        let mut conversation = Conversation {
            wire,
            log: LogTail::default(),
            received: 0,
            step: None,
            delta: Delta::default(),
            lanes: None,
            carrying: None,
            lane_lost: None,
            memory: Arc::default(),
            hello,
        };
        conversation.say(&ToAgent::Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        let doing = "starting it";
        match conversation.answer(HELLO, doing, operator).await? {
            // Its protocol's version was looked at when it was decoded.
            ToController::Hello { protocol: _, version, exe } => {
                if let Some(expected) = expected
                    && exe != expected.to_hex().as_str()
                {
                    let expected = expected.to_hex().to_string();
                    return Err(ConversationError::OtherProgram { expected, found: exe });
                }
                conversation.hello = AgentHello { version, exe };
                Ok(conversation)
            }
            other => Err(out_of_place(&other, doing)),
        }
    }

    /// Who the agent is.
    pub fn hello(&self) -> &AgentHello {
        &self.hello
    }

    /// Says whether chunks that the machine holds already are not sent.
    pub fn set_delta(&mut self, delta: Delta) {
        self.delta = delta;
    }

    /// Says how further connections are made where one does not fill the line, and what is known of the
    /// way.
    pub fn set_lanes(&mut self, lanes: Lanes, memory: Arc<Memory>) {
        (self.lanes, self.memory) = (Some(lanes), memory);
    }

    /// How much of a closure the agent says it has received in this conversation, in NAR bytes.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The step of an execution that was begun last.
    pub fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// The end of the agent's log.
    pub fn log(&self) -> &LogTail {
        &self.log
    }

    /// What the machine is.
    pub async fn inventory(
        &mut self,
        operator: &mut impl Operator,
    ) -> Result<Inventory, ConversationError> {
        self.say(&ToAgent::Inventory)?;
        let doing = "looking at the machine";
        match self.answer(INVENTORY, doing, operator).await? {
            ToController::Inventory(inventory) => Ok(*inventory),
            other => Err(out_of_place(&other, doing)),
        }
    }

    /// What would be done. A refusal is [`ConversationError::Refused`].
    pub async fn plan(
        &mut self,
        request: &PlanRequest,
        operator: &mut impl Operator,
    ) -> Result<Plan, ConversationError> {
        self.say(&ToAgent::Plan(Box::new(request.clone())))?;
        let doing = "planning";
        let plan = match self.answer(PLAN, doing, operator).await? {
            ToController::Plan(plan) => *plan,
            other => return Err(out_of_place(&other, doing)),
        };
        let inconsistent = |why: &str| Err(ConversationError::Inconsistent(why.to_owned()));
        if !plan.is_consistent() {
            return inconsistent("the plan's hash is not that of the plan");
        }
        let toplevel = request.closure.as_ref().map(|closure| closure.toplevel.as_str());
        if plan.basis.toplevel != toplevel.unwrap_or_default() {
            return inconsistent("the plan installs another system");
        }
        if plan.basis.options != request.options {
            return inconsistent("the plan was made with other options");
        }
        Ok(plan)
    }

    /// Restarts the machine, after [`Conversation::execute`] has ended well; returns the boot id
    /// that has to be gone afterwards.
    pub async fn reboot(
        &mut self,
        operator: &mut impl Operator,
    ) -> Result<String, ConversationError> {
        self.say(&ToAgent::Reboot)?;
        let doing = "restarting the machine";
        match self.answer(REBOOT, doing, operator).await? {
            ToController::Rebooting { boot_id } => Ok(boot_id),
            other => Err(out_of_place(&other, doing)),
        }
    }

    /// Ends the conversation: nothing more is asked. Whether the agent ended well upon it, so that
    /// nothing of it is left on the machine.
    pub async fn goodbye(self) -> bool {
        // One that has ended already is not told, and is found ended.
        let _ = self.say(&ToAgent::Goodbye);
        matches!(self.wire.close().await, Some(Exit::Status(0)))
    }

    pub(super) fn say(&self, message: &ToAgent) -> Result<(), ConversationError> {
        self.wire.say(keystone_protocol::message::encode(message)?)
    }

    /// The next message, bounded; refusals are errors.
    async fn answer(
        &mut self,
        bound: Duration,
        doing: &'static str,
        operator: &mut impl Operator,
    ) -> Result<ToController, ConversationError> {
        let next = self.next(doing, operator);
        match timeout(bound, next).await {
            Ok(Ok(ToController::Refused(refusal))) => Err(refusal.into()),
            Ok(answer) => answer,
            Err(_) => Err(ConversationError::TimedOut { doing, bound }),
        }
    }

    /// The next message; log lines before it go to the operator.
    ///
    /// Cancel safe: nothing is lost when it is dropped.
    pub(super) async fn next(
        &mut self,
        doing: &'static str,
        operator: &mut impl Operator,
    ) -> Result<ToController, ConversationError> {
        loop {
            let next = self.wire.incoming.recv();
            let incoming = match &self.lane_lost {
                None => next.await,
                Some((why, until)) => match timeout_at(*until, next).await {
                    Ok(incoming) => incoming,
                    // The others are well, so it is not the line that broke.
                    Err(_) => {
                        self.memory.note_lost_lane();
                        return Err(ConversationError::LaneLost { doing, why: why.clone() });
                    }
                },
            };
            match incoming {
                Some(Incoming::Message(message)) => return Ok(*message),
                Some(Incoming::Broken(MessageError::Version(other))) => return Err(other.into()),
                Some(Incoming::Broken(error)) => return Err(error.into()),
                Some(Incoming::Log(line)) => {
                    self.log.push(&line);
                    operator.notice(Notice::AgentLog { line: &line });
                }
                Some(Incoming::Connections(count)) => {
                    operator.notice(Notice::Connections { count });
                }
                // What it carried is missing, unless all blocks had arrived.
                Some(Incoming::LaneLost(why)) if self.carrying.as_ref() == Some(&self.step) => {
                    // It may have ended with the agent, or with the line.
                    self.lane_lost.get_or_insert_with(|| (why, Instant::now() + LAST_WORDS));
                }
                Some(Incoming::LaneLost(why)) => tracing::debug!("{why}"),
                Some(Incoming::Ended(exit)) => return Err(self.lost(doing, exit)),
                None => return Err(self.lost(doing, None)),
            }
        }
    }

    fn lost(&self, doing: &'static str, exit: Option<Exit>) -> ConversationError {
        let mut ended = exit.map(|exit| exit.to_string()).unwrap_or_default();
        if let Some(last) = self.log.last() {
            let comma = if ended.is_empty() { "" } else { ", " };
            ended.push_str(&format!("{comma}its last words: {last}"));
        }
        ConversationError::Lost { doing, ended }
    }
}

pub(super) fn out_of_place(message: &ToController, doing: &'static str) -> ConversationError {
    let said = match message {
        ToController::Hello { .. } => "hello",
        ToController::Inventory(_) => "an inventory",
        ToController::Plan(_) => "a plan",
        ToController::Refused(_) => "a refusal",
        ToController::Event(_) => "an event",
        ToController::RecoveryKey { .. } => "a recovery key",
        ToController::WantUnlockKey { .. } => "that it wants a key",
        ToController::WantPaths { .. } => "which paths it wants",
        ToController::NotFetched { .. } => "that it could not fetch paths",
        ToController::Chunks { .. } => "what it holds",
        ToController::Credit { .. } => "how much it took",
        ToController::SendAgain { .. } => "that a block arrived damaged",
        ToController::WantExtraFiles { .. } => "that it wants the operator's files",
        ToController::Copied(_) => "that the copy is done",
        ToController::Done(_) => "that it is done",
        ToController::Failed(_) => "that it failed",
        ToController::Rebooting { .. } => "that it restarts the machine",
    };
    ConversationError::OutOfPlace { said, doing }
}
