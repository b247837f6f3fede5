//! Brings the agent to the machine, sees that it is the right one, and removes it.
//!
//! | module | job |
//! |---|---|
//! | [`local`] | finds the agent that this controller ships |
//! | [`place`] | a fresh directory on the machine from which programs may run |
//! | [`transfer`] | SFTP, or `cat` where the server has none; reads back and compares |
//!
//! Nothing but POSIX sh and its utilities is used on the machine, and `b2sum` or `sha256sum` where
//! it is. The shell that starts the agent removes the directory when the agent ends, however it
//! ends, also when the connection is gone. Where another connection is to follow one that did not
//! end well, it waits for that before: what was sent, also a part, is not sent again. A directory in which no agent is ever
//! started is removed by the machine after some minutes.

pub mod local;
pub mod place;
pub mod transfer;

pub use local::LocalAgent;

use crate::ssh::exec::Running;
use crate::ssh::{Session, SshError};
use place::{Found, Place};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Bringing the agent to the machine failed.
#[derive(Debug, Error)]
pub enum UploadError {
    /// This controller's agent is nowhere.
    #[error(
        "the agent that belongs to this keystone is not found (looked at {}): give it with \
         --agent PATH", places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoAgent {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// The agent can't be read.
    #[error("can't read the agent {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a program for Linux.
    #[error("{} is not an agent: it is not an ELF executable for Linux", path.display())]
    NotAnAgent {
        /// The file.
        path: PathBuf,
    },
    /// The machine does not run Linux.
    #[error("the machine runs {found}, not Linux: boot an installer ISO on it")]
    NotLinux {
        /// What `uname -s` says.
        found: String,
    },
    /// The agent is for another processor.
    #[error(
        "the machine's processor is {machine}, this keystone's agent is for {agent}: give one for {machine} with --agent"
    )]
    OtherMachine {
        /// What `uname -m` says.
        machine: String,
        /// What the agent is for.
        agent: String,
    },
    /// No directory will do.
    #[error("no directory of the machine can hold a program and run it; tried {tried}")]
    NoPlace {
        /// The directories, each with what is wrong with it.
        tried: String,
    },
    /// What was read back differs from what was sent.
    #[error("the agent on the machine is not the one that was sent ({path}): it was not started")]
    Altered {
        /// The file on the machine.
        path: String,
    },
    /// The connection or a command failed.
    #[error(transparent)]
    Ssh(#[from] SshError),
}

/// The agent on the machine.
#[derive(Debug)]
pub struct RemoteAgent {
    session: Session,
    place: Place,
    /// Whether its bytes had to be sent, or were found on the machine.
    pub sent: bool,
}

/// What connections to one machine leave for the next one.
#[derive(Debug, Default)]
pub struct Trail {
    /// The last directory with the agent, or a part of it.
    dir: Option<String>,
    /// How much of the agent was found by the last connection, in bytes.
    found: u64,
    /// Whether the last connection found more of the agent than the one before: it gets on.
    pub gets_on: bool,
    /// Whether what the live system has as the agent turned out to be something else.
    pub misled: bool,
}

/// Bound of removing the directory.
const REMOVE: Duration = Duration::from_secs(15);

impl RemoteAgent {
    /// Puts `agent` into a fresh directory of the machine, root's alone, and verifies it there, unless
    /// it [is the live system's own](Self::is_installed). Who is not root becomes root first, by `sudo` or
    /// `doas`.
    ///
    /// What `trail` leads to is used and removed; it leads to the new directory then, also if the
    /// connection breaks while the agent is sent.
    pub async fn place(
        session: &Session,
        agent: &LocalAgent,
        trail: &mut Trail,
    ) -> Result<Self, UploadError> {
        trail.gets_on = false;
        let session = &session.as_root().await?;
        let mut tried = Vec::new();
        for dir in place::CANDIDATES {
            let place = match Place::make(session, dir, agent, trail).await {
                Ok(place) => place,
                Err(place::NotHere::Unfit(why)) => {
                    tried.push(format!("{dir} ({why})"));
                    continue;
                }
                Err(place::NotHere::Nowhere(error)) => return Err(error),
            };
            trail.dir = Some(place.dir().to_owned());
            let found = place.found.bytes(agent.bytes.len() as u64);
            trail.gets_on |= found > trail.found;
            trail.found = found;
            match transfer::ensure(session, &place, agent).await {
                Ok(sent) => return Ok(RemoteAgent { session: session.clone(), place, sent }),
                Err(transfer::TransferError::NotWritten(why)) => {
                    place.remove(session, REMOVE).await;
                    tried.push(format!("{dir} ({why})"));
                }
                Err(transfer::TransferError::Other(error)) => {
                    if !session.is_closed() {
                        place.remove(session, REMOVE).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(UploadError::NoPlace { tried: tried.join(", ") })
    }

    /// Whether this is what the live system has as the agent: it was not compared, and says itself
    /// what it is.
    pub fn is_installed(&self) -> bool {
        self.place.found == Found::Installed
    }

    /// The file on the machine.
    pub fn path(&self) -> &str {
        self.place.program()
    }

    /// Starts it. The directory is removed by the machine when the agent has ended well, or `keep` is
    /// over, unless a connection that has its [`Trail`] took it over.
    ///
    /// `log` is the agent's log level (`info`, `debug`, …).
    pub async fn start(&mut self, log: &str, keep: Duration) -> Result<Running, UploadError> {
        let word =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"=,_:".contains(&b));
        let log = if word(log) { log } else { "info" };
        let script = self.place.running(&format!("KEYSTONE_LOG={log}"), keep);
        let Some(shell) = self.place.shell.take() else {
            return Ok(self.session.start(&format!("/bin/sh -c '{script}'")).await?);
        };
        // Where that fails, the agent's end of the conversation is gone too.
        let _ = shell.stdin.send(format!("{script}\n")).await;
        Ok(shell)
    }

    /// Removes the directory, if it is still there.
    pub async fn remove(&self) {
        self.place.remove(&self.session, REMOVE).await;
    }
}
