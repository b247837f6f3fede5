//! A closure into a store below a directory of a machine, without an installation.
//!
//! A connection that breaks is made anew, again and again with growing pauses, as long as the
//! copy gets on between two breaks; the machine says what it has, and only the rest is sent.

use crate::closure::ClosureSource;
use crate::conversation::{ConversationError, ExecuteError};
use crate::install::{InstallError, Link, LinkOptions};
use crate::operator::{Notice, Operator};
use crate::ssh::SshError;
use crate::stop::Stop;
use crate::upload::UploadError;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::{Copied, CopyRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first pause before a connection is made anew.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What to copy where.
pub struct CopyOptions {
    /// The machine and how to reach it.
    pub link: LinkOptions,
    /// The closure.
    pub manifest: Manifest,
    /// Where its contents come from.
    pub source: Arc<dyn ClosureSource>,
    /// The directory on the machine.
    pub root: String,
    /// How long to go on connecting anew without a connection that lasts.
    pub patience: Duration,
}

/// Copies.
pub async fn copy<O: Operator>(
    options: &CopyOptions,
    operator: &mut O,
    stop: &Stop,
) -> Result<Copied, InstallError> {
    let mut pause = FIRST_PAUSE;
    let mut broken: Option<Instant> = None;
    let mut was_connected = false;
    loop {
        let Broken { received, error } = match attempt(options, operator, stop).await {
            Ok(copied) => return Ok(copied),
            Err(failed) => failed,
        };
        was_connected |= received.is_some();
        // Who could not be reached at all is not called again and again.
        if !was_connected || !is_broken_line(&error) {
            return Err(error);
        }
        if received.is_some_and(|bytes| bytes > 0) {
            (pause, broken) = (FIRST_PAUSE, None);
        }
        if broken.get_or_insert_with(Instant::now).elapsed() + pause > options.patience {
            return Err(error);
        }
        operator.notice(Notice::Reconnecting { pause, why: &crate::chain(&error) });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked(1) => return Err(InstallError::Interrupted),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A connection that did not bring the copy to its end.
struct Broken {
    /// How much the agent received over it, in NAR bytes, if it was reached.
    received: Option<u64>,
    error: InstallError,
}

/// One connection.
async fn attempt<O: Operator>(
    options: &CopyOptions,
    operator: &mut O,
    stop: &Stop,
) -> Result<Copied, Broken> {
    let unreached = |error| Broken { received: None, error };
    let mut link = tokio::select! {
        link = Link::open(&options.link, operator) => link.map_err(unreached)?,
        () = stop.asked(1) => return Err(unreached(InstallError::Interrupted)),
    };
    let request = CopyRequest { root: options.root.clone(), manifest: options.manifest.clone() };
    let source = Arc::clone(&options.source);
    let done = link.conversation.copy(request, source, operator, stop).await;
    let log = link.conversation.log().lines().map(str::to_owned).collect();
    let received = Some(link.conversation.received());
    link.close().await;
    done.map_err(|error| Broken {
        received,
        error: InstallError::Copy { error: Box::new(error), log },
    })
}

/// Whether the connection is at fault, and another one may do better.
fn is_broken_line(error: &InstallError) -> bool {
    let ssh = |error: &SshError| {
        matches!(
            error,
            SshError::Resolve { .. }
                | SshError::Unreachable { .. }
                | SshError::Handshake { .. }
                | SshError::TimedOut { .. }
                | SshError::Broken { .. }
        )
    };
    let conversation = |error: &ConversationError| {
        matches!(
            error,
            ConversationError::Lost { .. }
                | ConversationError::TimedOut { .. }
                | ConversationError::Message(_)
        )
    };
    match error {
        InstallError::Ssh(error) | InstallError::Upload(UploadError::Ssh(error)) => ssh(error),
        // No directory could be made: each try ended with the connection.
        InstallError::Upload(UploadError::NoPlace { .. }) => true,
        InstallError::Conversation(error) => conversation(error),
        InstallError::Copy { error, .. } => match error.as_ref() {
            ExecuteError::Conversation(error) => conversation(error),
            _ => false,
        },
        _ => false,
    }
}
