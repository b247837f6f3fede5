//! Writes the agent's file, or what is missing of it, and compares.

use super::UploadError;
use super::local::LocalAgent;
use super::place::{Found, Place, TELL};
use crate::ssh::exec::Exit;
use crate::ssh::{Session, SshError};
use russh_sftp::client::SftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Bound of sending or reading the file: 14 MiB at 40 kB/s.
pub(super) const FILE: Duration = Duration::from_secs(370);
/// Bound of finding out whether the server speaks SFTP.
const GREETING: Duration = Duration::from_secs(20);

/// The file is not there as it should be.
#[derive(Debug)]
pub enum TransferError {
    /// It can't be written here; elsewhere it may.
    NotWritten(String),
    /// It is no use to go on.
    Other(UploadError),
}

impl From<SshError> for TransferError {
    fn from(error: SshError) -> Self {
        TransferError::Other(error.into())
    }
}

/// Makes the file at `place` the agent: `false` if a copy of it was already right.
pub async fn ensure(
    session: &Session,
    place: &Place,
    agent: &LocalAgent,
) -> Result<bool, TransferError> {
    match place.found {
        Found::Installed | Found::Whole => return Ok(false),
        Found::Part(bytes) if bytes < agent.bytes.len() as u64 => {
            by_cat(session, place, agent, bytes as usize).await?;
            if is_equal(session, place, agent).await? {
                return Ok(true);
            }
        }
        _ => {}
    }
    let script = format!("rm -f {}", place.program());
    session.script("making room for the agent", &script, GREETING).await?;
    if let Err(why) = by_sftp(session, place, agent).await {
        tracing::debug!("no SFTP, sending through cat: {why}");
        by_cat(session, place, agent, 0).await?;
    }
    if is_equal(session, place, agent).await? {
        return Ok(true);
    }
    Err(TransferError::Other(UploadError::Altered { path: place.program().to_owned() }))
}

/// By the server's SFTP subsystem; an error is a reason to take the other way.
async fn by_sftp(session: &Session, place: &Place, agent: &LocalAgent) -> Result<(), String> {
    let stream = timeout(GREETING, session.subsystem("sftp"))
        .await
        .map_err(|_| "the SFTP subsystem does not answer".to_owned())?
        .map_err(|e| e.to_string())?;
    let send = async {
        let sftp = SftpSession::new(stream).await.map_err(|e| e.to_string())?;
        // A reply comes only after what was sent before it, on a slow link long after.
        sftp.set_timeout(FILE.as_secs());
        let mut attributes = FileAttributes::empty();
        attributes.permissions = Some(0o700);
        let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
        let mut file = sftp
            .open_with_flags_and_attributes(place.program(), flags, attributes)
            .await
            .map_err(|e| e.to_string())?;
        file.write_all(&agent.bytes).await.map_err(|e| e.to_string())?;
        file.close().await.map_err(|e| e.to_string())?;
        sftp.close().await.map_err(|e| e.to_string())
    };
    timeout(FILE, send).await.map_err(|_| format!("it took longer than {} s", FILE.as_secs()))?
}

/// Through `cat`, what follows after the first `from` bytes, which are there.
async fn by_cat(
    session: &Session,
    place: &Place,
    agent: &LocalAgent,
    from: usize,
) -> Result<(), TransferError> {
    let program = place.program();
    let add = if from == 0 { ">" } else { ">>" };
    let command = format!("/bin/sh -c 'umask 077; cat {add}{program} && chmod 700 {program}'");
    let rest = agent.bytes.slice(from..);
    let output = session.output("sending the agent", &command, rest, 4096, FILE).await?;
    match output.exit {
        Exit::Status(0) => Ok(()),
        exit => Err(TransferError::NotWritten(format!("{exit}: {}", output.stderr))),
    }
}

/// Whether the file on the machine is the agent: by its sum where there is a program that says
/// it, or else by reading all of it back.
async fn is_equal(
    session: &Session,
    place: &Place,
    agent: &LocalAgent,
) -> Result<bool, TransferError> {
    let script = format!("{TELL}\ntell {}", place.program());
    let limit = agent.bytes.len() + 4096;
    let output =
        session.output("reading the agent back", "/bin/sh -s", script, limit, FILE).await?;
    Ok(output.exit == Exit::Status(0) && agent.is_told(&output.stdout))
}
