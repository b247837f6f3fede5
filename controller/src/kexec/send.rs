//! The image's way to the machine, and the proof that it arrived.

use super::old::Left;
use super::tarball::{Contents, Tarball};
use super::{KexecError, Progress, command};
use crate::conversation::log::clean;
use crate::operator::{Notice, Operator};
use crate::ssh::exec::{Exit, Running, collect};
use crate::ssh::{Session, SshError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// A piece that does not get through for so long never will.
const STALL: Duration = Duration::from_secs(120);
/// Bound of what is left to do when everything was sent: a slow disk's writing.
const REST: Duration = Duration::from_secs(300);
/// Bound of reading everything again on the machine.
const VERIFY: Duration = Duration::from_secs(600);
/// How far it is, is said this often.
const EVERY: Duration = Duration::from_secs(2);
/// Pieces that are read ahead.
const AHEAD: usize = 4;
/// Bytes kept of what tar says.
const SAID: usize = 16 << 10;

/// The image is not on the machine.
#[derive(Debug)]
pub enum Failed {
    /// It did not get there: a phrase.
    NotSent(String),
    /// Something else did: which files.
    Altered(String),
}

impl Failed {
    /// With what is left of it there.
    pub fn leaving(self, left: Left) -> KexecError {
        match self {
            Failed::NotSent(why) => KexecError::NotSent { why, left },
            Failed::Altered(which) => KexecError::Altered { which, left },
        }
    }
}

impl From<SshError> for Failed {
    fn from(error: SshError) -> Self {
        Failed::NotSent(crate::chain(&error))
    }
}

/// Unpacks the image into `dir` of the machine, and compares every file there.
///
/// # Errors
/// It did not get there, or something else did.
pub async fn send<O: Operator>(
    session: &Session,
    dir: &str,
    tarball: &Arc<Tarball>,
    contents: &Contents,
    operator: &mut O,
) -> Result<(), Failed> {
    let Running { stdin, stdout, stderr, exit, .. } = session.start(&command::unpack(dir)).await?;
    let (pieces, mut next) = mpsc::channel(AHEAD);
    let image = Arc::clone(tarball);
    let reading = tokio::task::spawn_blocking(move || {
        image.pieces(|piece| pieces.blocking_send(piece).is_ok())
    });
    let stalled = |bound: Duration| {
        Failed::NotSent(format!("nothing went through for {} s", bound.as_secs()))
    };
    // At its end nobody takes pieces any more, and who reads them ahead ends too.
    let (_, stderr, exit) = {
        let feed = async move {
            let (mut done, mut said) = (0, Instant::now());
            let mut say = |done| {
                let sending = Progress::Sending { done, total: contents.bytes };
                operator.notice(Notice::Kexec(sending));
            };
            say(0);
            while let Some(piece) = next.recv().await {
                done += piece.len() as u64;
                // Who takes no more has ended: how, is asked below.
                if timeout(STALL, stdin.send(piece)).await.map_err(|_| stalled(STALL))?.is_err() {
                    return Ok(());
                }
                if said.elapsed() >= EVERY {
                    said = Instant::now();
                    say(done);
                }
            }
            say(done);
            let _ = stdin.eof().await;
            Ok::<_, Failed>(())
        };
        let ended = async {
            let exit = async { exit.await.unwrap_or(Exit::Lost) };
            tokio::join!(collect(stdout, SAID), collect(stderr, SAID), exit)
        };
        tokio::pin!(feed, ended);
        tokio::select! {
            ended = &mut ended => ended,
            fed = &mut feed => {
                fed?;
                timeout(REST, ended).await.map_err(|_| stalled(REST))?
            }
        }
    };
    if exit != Exit::Status(0) {
        let last = String::from_utf8_lossy(&stderr);
        let last = last.lines().next_back().map(|line| clean(line.as_bytes())).unwrap_or_default();
        return Err(Failed::NotSent(format!("tar ended there with {exit}: {last}")));
    }
    match reading.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Failed::NotSent(format!("it can't be read: {error}"))),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
    verify(session, dir, contents).await
}

async fn verify(session: &Session, dir: &str, contents: &Contents) -> Result<(), Failed> {
    let script = command::verify(dir, contents);
    let what = "reading the image again";
    let input = format!("{{\n{script}\n}}\n");
    let output = session.output(what, "/bin/sh -s", input, SAID, VERIFY).await?;
    match output.exit {
        Exit::Status(0) => Ok(()),
        _ => {
            let said = String::from_utf8_lossy(&output.stdout);
            let said: Vec<String> = said.lines().map(|line| clean(line.as_bytes())).collect();
            Err(Failed::Altered(said.join(", ")))
        }
    }
}
