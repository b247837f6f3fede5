//! The phase kexec: from whatever Linux runs on a machine into an installer, without its firmware.
//!
//! | module | job |
//! |---|---|
//! | [`look`] | what runs there, and whether an installer may be booted in its place |
//! | [`keys`] | the keys that the image takes along |
//! | [`tarball`] | the image: a file or a URL, read through before anything is sent |
//! | [`command`] | what is typed on the machine |
//! | [`place`] | a directory with room for the image, and whether there is memory for it |
//! | [`send`](mod@send) | the image's way there, checked at its end |
//! | [`old`] | the system that ends: whether it still runs, and the image taken away from it |
//! | [`start`](mod@start) | runs the image's `kexec/run` and judges what it says |
//! | [`wait`](mod@wait) | waits for the installer and proves that it is the same machine |
//! | [`error`] | what can go wrong |
//!
//! The image has the form of nixos-images' kexec tarballs: `kexec/run` loads `kexec/bzImage` and
//! `kexec/initrd`, to which it appends the machine's SSH host keys, root's authorized keys,
//! addresses, routes and machine id; says [`start::MAGIC`]; and jumps some seconds after it ended.
//! Source: <https://github.com/nix-community/nixos-images>, `nix/kexec-installer/`.
//!
//! Nothing of it is believed but what is seen: a boot id that is another one, `VARIANT_ID=installer`,
//! and a host key of before.

pub mod command;
pub mod error;
pub mod keys;
pub mod look;
pub mod old;
pub mod place;
pub mod send;
pub mod start;
pub mod tarball;
pub mod wait;

pub use error::KexecError;
pub use tarball::Source;

use crate::install::{InstallError, connect};
use crate::operator::{Notice, Operator};
use crate::ssh::host_key::fingerprint;
use crate::ssh::{ConnectOptions, Destination, Pin, PublicKey};
use crate::stop::Stop;
use keys::Kept;
use keystone_protocol::message::{Refusal, RefusalKind};
use look::{Machine, Verdict};
use old::Old;
use start::Said;
use std::sync::Arc;
use std::time::Duration;
use tarball::{Contents, Tarball};
use tokio::time::Instant;

/// What is to be done, and where.
#[derive(Debug, Clone)]
pub struct KexecRequest {
    /// The machine as it is reached now.
    pub destination: Destination,
    /// How.
    pub connect: ConnectOptions,
    /// Where the installer will answer, as root.
    pub then: Destination,
    /// How it is reached there; the host keys are those of now.
    pub then_connect: ConnectOptions,
    /// The image; needed only if there is something to do.
    pub image: Option<Source>,
    /// Its SHA-256, if it is to be compared.
    pub sha256: Option<[u8; 32]>,
    /// Words for the image's `kexec`.
    pub flags: Option<String>,
    /// Whether an installer is to be replaced too.
    pub force: bool,
    /// Whether to stop before anything is changed.
    pub dry_run: bool,
    /// Words for the disks that phases after this one would wipe, and refuse to where they are not
    /// blank, for want of `--erase`.
    pub wipes: Vec<String>,
    /// How long the installer may take.
    pub bound: Duration,
}

/// What came of it, with the host key that the machine proved to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was in an installer.
    NothingToDo(PublicKey),
    /// An installer would be booted.
    Planned,
    /// An installer was booted.
    Booted(PublicKey),
}

/// Something to tell while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// The image is being fetched or read through.
    Reading {
        /// Which.
        image: &'a str,
    },
    /// The image is being sent.
    Sending {
        /// Bytes that were.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// The image's `kexec/run` said something.
    Said {
        /// A line, fit for a terminal.
        line: &'a str,
    },
    /// The installer is waited for.
    Waiting {
        /// Where.
        at: &'a str,
        /// At most this long.
        bound: Duration,
        /// What was seen there last, a phrase.
        seen: &'a str,
    },
    /// The installer was seen running.
    Booted {
        /// Where.
        at: &'a str,
        /// From the image's end until then.
        elapsed: Duration,
    },
}

/// What ends when the machine boots the image.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The host as the operator gave it.
    pub host: &'a str,
    /// What the machine calls itself.
    pub name: &'a str,
    /// What runs there.
    pub system: &'a str,
    /// The image.
    pub image: &'a str,
}

/// Bound of one question to the machine.
const BOUND: Duration = Duration::from_secs(60);

/// Boots the image on the machine, unless an installer runs there, and waits until it answers.
///
/// # Errors
/// [`KexecError`] says what is known: while the old system runs, what was put there is removed.
/// Afterwards only the machine's console can help.
pub async fn kexec<O: Operator>(
    request: &KexecRequest,
    operator: &mut O,
    stop: &Stop,
) -> Result<Outcome, InstallError> {
    let prepared = tokio::select! {
        prepared = prepare(request, operator) => prepared?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    let ready = match prepared {
        Prepared::Ready(ready) => ready,
        Prepared::Over(outcome) => return Ok(outcome),
    };
    let Ready { old, kept, tarball, contents } = *ready;
    let sent = tokio::select! {
        sent = send::send(&old.session, &old.dir, &tarball, &contents, operator) => Some(sent),
        () = stop.asked(1) => None,
    };
    match sent {
        Some(Ok(())) => {}
        Some(Err(failed)) => return Err(failed.leaving(old.clear().await).into()),
        None => {
            let left = old.clear().await;
            operator.notice(Notice::Remark(&left.to_string()));
            return Err(InstallError::Interrupted);
        }
    }
    // What it does is undone once it has ended, if the machine did not jump by then: see `wait`.
    let flags = request.flags.as_deref();
    let setsid = old.machine.has_setsid;
    let ran = start::start(&old.session, &old.dir, flags, setsid, operator, stop).await;
    let said = match ran {
        Ok(said) => said,
        Err(start::Failed { why, said }) => {
            let left = old.clear().await;
            return Err(KexecError::Run { why, left, said: said.lines() }.into());
        }
    };
    let key = wait(request, &old, &kept, &said, operator, stop).await?;
    Ok(Outcome::Booted(key))
}

/// Everything up to the operator's agreement and a place for the image.
struct Ready {
    old: Old,
    kept: Kept,
    tarball: Arc<Tarball>,
    contents: Contents,
}

enum Prepared {
    Over(Outcome),
    Ready(Box<Ready>),
}

async fn prepare<O: Operator>(
    request: &KexecRequest,
    operator: &mut O,
) -> Result<Prepared, InstallError> {
    let destination = request.destination.to_string();
    operator.notice(Notice::Connecting { destination: &destination });
    let session = connect(&request.destination, &request.connect, operator).await?;
    let key = session.host_key().clone();
    operator.notice(Notice::Connected { host_key: &fingerprint(&key) });
    let out = session.script("asking what runs there", look::SCRIPT, BOUND).await?;
    let machine = Machine::parse(&String::from_utf8_lossy(&out));
    match machine.judge(request.force) {
        Verdict::NothingToDo => {
            session.disconnect().await;
            return Ok(Prepared::Over(Outcome::NothingToDo(key)));
        }
        Verdict::Refused(why) => return Err(KexecError::Unfit(why).into()),
        Verdict::Boot => {}
    }
    if let Some((word, disk)) = machine.holds(&request.wipes) {
        let at = if word == disk { String::new() } else { format!(" ({disk} now)") };
        return Err(InstallError::Refused(Refusal {
            kind: RefusalKind::NotConfirmed,
            message: format!(
                "{word}{at} is not blank, and nothing says that what is on it may be lost: this would be \
                 refused once {} has ended, so it goes on running",
                machine.system()
            ),
            hint: Some("if all of that may be lost, run again with --erase".into()),
        }));
    }
    let Some(source) = request.image.clone() else {
        return Err(KexecError::NoImage { system: machine.system() }.into());
    };
    let name = source.to_string();
    operator.notice(Notice::Kexec(Progress::Reading { image: &name }));
    let (tarball, contents) = read(source, request.sha256).await?;
    machine.has_memory_for(contents.room).map_err(KexecError::Unfit)?;
    let session = session.as_root().await?;
    let kept = keys::kept(request, &session, &machine).await?;
    if request.dry_run {
        session.disconnect().await;
        let text = format!(
            "{} would be ended, and {name} booted in its place; nothing was done",
            machine.system()
        );
        operator.notice(Notice::Remark(&text));
        return Ok(Prepared::Over(Outcome::Planned));
    }
    let ending = Ending {
        host: &request.destination.host,
        name: &machine.host,
        system: &machine.system(),
        image: &name,
    };
    operator.confirm_end(&ending).await?;
    let dir = place::find(&session, contents.room).await?;
    let connect = pinned(&request.connect, session.host_key());
    let old = Old { session, connect, machine, dir };
    Ok(Prepared::Ready(Box::new(Ready { old, kept, tarball, contents })))
}

/// The image, opened and read through, away from the runtime.
async fn read(
    source: Source,
    sha256: Option<[u8; 32]>,
) -> Result<(Arc<Tarball>, Contents), KexecError> {
    let reading = tokio::task::spawn_blocking(move || {
        let tarball = source.open(sha256)?;
        let contents = tarball.contents()?;
        Ok((Arc::new(tarball), contents))
    });
    match reading.await {
        Ok(read) => read,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The same way, with this host key, and nobody asked.
fn pinned(options: &ConnectOptions, host_key: &PublicKey) -> ConnectOptions {
    let mut options = options.without_prompt();
    options.host_key.pinned = Some(Pin::Key(Box::new(host_key.clone())));
    options
}

async fn wait<O: Operator>(
    request: &KexecRequest,
    old: &Old,
    kept: &Kept,
    said: &Said,
    operator: &mut O,
    stop: &Stop,
) -> Result<PublicKey, KexecError> {
    let began = Instant::now();
    let waiting = wait::Waiting {
        at: &request.then,
        connect: kept.afterwards(&request.then_connect),
        old,
        bound: request.bound,
        said,
    };
    let waited = waiting.wait(operator, stop).await;
    // Where the machine is gone, this says goodbye to nobody, and not for long.
    old.session.disconnect().await;
    let key = waited?;
    let at = request.then.to_string();
    operator.notice(Notice::Kexec(Progress::Booted { at: &at, elapsed: began.elapsed() }));
    Ok(key)
}
