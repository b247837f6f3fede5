//! Connection, agent, conversation: what every command that looks at a machine needs.

use super::error::InstallError;
use super::line::{Contact, is_of_the_line};
use crate::conversation::{Connections, Conversation, Lanes};
use crate::nar::Delta;
use crate::operator::{Notice, Operator};
use crate::ssh::host_key::fingerprint;
use crate::ssh::{ConnectOptions, Destination, Session, SshError};
use crate::upload::place::INSTALLED;
use crate::upload::{LocalAgent, RemoteAgent};
use std::sync::Arc;
use std::time::Duration;

/// The machine and how to reach it.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Which machine.
    pub destination: Destination,
    /// How to connect.
    pub connect: ConnectOptions,
    /// The agent to bring.
    pub agent: LocalAgent,
    /// The agent's log level (`info`, `debug`, …).
    pub agent_log: String,
    /// After a broken connection, how long to go on connecting without one that gets on.
    pub patience: Duration,
    /// Whether chunks of a closure that the machine holds already are not sent.
    pub delta: Delta,
    /// How many connections carry the closure.
    pub connections: Connections,
}

/// A machine whose agent has said hello.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub session: Session,
    /// The conversation.
    pub conversation: Conversation,
    remote: RemoteAgent,
}

impl Link {
    /// Connects, brings the agent, starts it. No connection is to follow if this one breaks.
    pub async fn open<O: Operator>(
        options: &LinkOptions,
        operator: &mut O,
    ) -> Result<Self, InstallError> {
        let options = LinkOptions { patience: Duration::ZERO, ..options.clone() };
        Self::open_on(&options, &mut Contact::default(), operator).await
    }

    /// The same, after connections that left `contact`.
    pub(super) async fn open_on<O: Operator>(
        options: &LinkOptions,
        contact: &mut Contact,
        operator: &mut O,
    ) -> Result<Self, InstallError> {
        let destination = options.destination.to_string();
        operator.notice(Notice::Connecting { destination: &destination });
        let session = connect(&options.destination, &options.connect, operator).await?;
        contact.reached = true;
        operator.notice(Notice::Connected { host_key: &fingerprint(session.host_key()) });
        // Whatever runs on the machine from here on runs as root.
        let session = session.as_root().await?;
        operator.notice(Notice::Uploading { agent: &options.agent });
        let trail = &mut contact.trail;
        let mut remote = RemoteAgent::place(&session, &options.agent, trail).await?;
        let mut begun = begin(&mut remote, options, operator).await;
        if let Err(error) = &begun
            && remote.is_installed()
            && matches!(error, InstallError::Conversation(_))
            && !session.has_ended().await
        {
            let why = crate::chain(error);
            tracing::warn!("what the machine has as the agent ({INSTALLED}) is not used: {why}");
            trail.misled = true;
            remote = RemoteAgent::place(&session, &options.agent, trail).await?;
            begun = begin(&mut remote, options, operator).await;
        }
        match begun {
            Ok(mut conversation) => {
                conversation.set_delta(options.delta);
                let lanes = Lanes {
                    destination: options.destination.clone(),
                    connect: options.connect.clone(),
                    program: remote.path().to_owned(),
                    connections: match options.connections {
                        // Nobody would go on after one of several broke.
                        Connections::Auto if options.patience.is_zero() => Connections::Exactly(1),
                        connections => connections,
                    },
                };
                conversation.set_lanes(lanes, Arc::clone(&contact.memory));
                operator.notice(Notice::AgentStarted {
                    version: &conversation.hello().version,
                    path: remote.path(),
                    sent: remote.sent,
                });
                Ok(Link { session, conversation, remote })
            }
            Err(error) => {
                remote.remove().await;
                session.disconnect().await;
                Err(error)
            }
        }
    }

    /// Where the agent's program lies on the machine, until the link is closed.
    pub fn program(&self) -> &str {
        self.remote.path()
    }

    /// Ends the conversation, and sees to it that nothing is left on the machine.
    pub async fn close(self) {
        let Link { session, conversation, remote } = self;
        // The machine's shell removes the directory when the agent has ended well.
        if !conversation.goodbye().await {
            remote.remove().await;
        }
        session.disconnect().await;
    }

    /// Ends it after an error: an agent that failed has ended, and one that is busy is not waited for.
    /// Nothing is left on the machine.
    pub async fn give_up(self) {
        let Link { session, conversation, remote } = self;
        drop(conversation);
        remote.remove().await;
        session.disconnect().await;
    }

    /// Ends it after `error`, if there was one: a link that broke leaves the agent where it is, for
    /// the next one.
    pub async fn end(self, error: Option<&InstallError>) {
        match error {
            None => self.close().await,
            Some(error) if is_of_the_line(error) => self.leave().await,
            Some(_) => self.give_up().await,
        }
    }

    /// Ends everything at once: the machine goes down, and what is on it with it, or sees to it.
    pub async fn leave(self) {
        let Link { session, conversation, .. } = self;
        drop(conversation);
        session.disconnect().await;
    }
}

/// Starts the agent, up to its hello, in which it says that it is that very one.
async fn begin<O: Operator>(
    remote: &mut RemoteAgent,
    options: &LinkOptions,
    operator: &mut O,
) -> Result<Conversation, InstallError> {
    let running = remote.start(&options.agent_log, options.patience).await?;
    Ok(Conversation::with_program(running, &options.agent.hash, operator).await?)
}

/// Connects; an unknown host key is asked about, of the machine or of one on the way to it, and
/// then that very key is expected.
///
/// # Errors
/// The machine can't be reached, is another one, or lets nobody in.
pub async fn connect<O: Operator>(
    destination: &Destination,
    connect: &ConnectOptions,
    operator: &mut O,
) -> Result<Session, InstallError> {
    // Each machine is asked about once.
    for _ in 0..=connect.hops() {
        match Session::connect(destination, connect).await {
            Err(SshError::UnknownHostKey { host, key }) => {
                if !operator.accept_host_key(&host, &key).await? {
                    return Err(SshError::UnknownHostKey { host, key }.into());
                }
                connect.accept(destination, &host, &key);
            }
            other => return Ok(other?),
        }
    }
    Ok(Session::connect(destination, connect).await?)
}
