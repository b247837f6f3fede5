//! The system that is to end: whether it still runs, and the image taken away from it again.

use super::look::Machine;
use super::wait::is_about_login;
use super::{BOUND, command};
use crate::ssh::{ConnectOptions, Session, SshError};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// Bound of one question.
const LOOK: Duration = Duration::from_secs(20);

/// The system that is to end, with the image that was put there.
pub struct Old {
    /// The connection to it, as root.
    pub session: Session,
    /// How it is reached anew where that broke: with this host key, and nobody asked.
    pub connect: ConnectOptions,
    /// What it was.
    pub machine: Machine,
    /// The image's directory.
    pub dir: String,
}

/// Whether the old system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does: it answers with its boot id.
    Runs,
    /// It does not: with its host key another system answers, or one that its user can't log in to.
    Gone,
    /// Nothing of it answers.
    Silent,
}

/// What is left of the image on a machine that did not boot it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    fate: Fate,
    system: String,
    dir: String,
    cleared: bool,
}

impl Left {
    /// Whether the old system was seen running.
    pub fn runs(&self) -> bool {
        self.fate == Fate::Runs
    }

    /// Whether the image was seen gone.
    pub fn is_cleared(&self) -> bool {
        self.cleared
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left { fate, system, dir, cleared } = self;
        let by_hand = format!("as root: {dir}/kexec/kexec --unload; rm -rf {dir}");
        match (fate, cleared) {
            (_, true) => write!(
                f,
                "the machine still runs {system}, and the image is removed from its disk and its kernel"
            ),
            (Fate::Runs, false) => write!(
                f,
                "the machine still runs {system}, and the image could not be removed: a restart may \
                 boot it. There, {by_hand}"
            ),
            (Fate::Gone, false) => write!(f, "the machine does not run {system} any more"),
            (Fate::Silent, false) => write!(
                f,
                "whether the machine still runs {system} or boots the image is not known: it does \
                 not answer. If it still runs, a restart may boot the image; there, {by_hand}"
            ),
        }
    }
}

impl Old {
    /// Whether it still runs, by the connection that was made to it, or else by another.
    pub async fn fate(&self) -> Fate {
        match self.reach().await {
            Ok(_) => Fate::Runs,
            Err(fate) => fate,
        }
    }

    /// Takes the image off the machine and out of its kernel, if the old system still runs.
    pub async fn clear(&self) -> Left {
        let left = |fate, cleared| Left {
            fate,
            system: self.machine.system(),
            dir: self.dir.clone(),
            cleared,
        };
        let session = match self.reach().await {
            Ok(session) => session,
            Err(fate) => return left(fate, false),
        };
        let script = command::clear(&self.dir);
        let removed =
            async { session.as_root().await?.script("removing the image", &script, BOUND).await };
        let removed = removed.await;
        session.disconnect().await;
        if let Err(error) = &removed {
            tracing::warn!("{} may still be on the machine: {}", self.dir, crate::chain(error));
        }
        left(Fate::Runs, removed.is_ok())
    }

    async fn reach(&self) -> Result<Session, Fate> {
        if !self.session.is_closed() && self.is_of(&self.session).await == Ok(true) {
            return Ok(self.session.clone());
        }
        let at = self.session.destination();
        let mut options = self.connect.clone();
        options.timeout = LOOK;
        let session = match timeout(LOOK, Session::connect(at, &options)).await {
            Ok(Ok(session)) => session,
            // It let this user in, with the same keys, a moment ago.
            Ok(Err(error)) if is_about_login(&error, at) => return Err(Fate::Gone),
            Ok(Err(_)) | Err(_) => return Err(Fate::Silent),
        };
        match self.is_of(&session).await {
            Ok(true) => Ok(session),
            Ok(false) => Err(Fate::Gone),
            Err(()) => Err(Fate::Silent),
        }
    }

    /// Whether this leads to the old system.
    async fn is_of(&self, session: &Session) -> Result<bool, ()> {
        let boot = "cat /proc/sys/kernel/random/boot_id";
        let said: Result<Vec<u8>, SshError> =
            session.script("asking the old system", boot, LOOK).await;
        let said = said.map_err(drop)?;
        Ok(String::from_utf8_lossy(&said).trim() == self.machine.boot)
    }
}
