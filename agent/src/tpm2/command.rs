//! Running a command: authorization area, retries, response code.

use super::rc::{self, ResponseCode};
use super::session::{Session, SessionUse};
use super::wire::{Reader, ST_NO_SESSIONS, ST_SESSIONS, Truncated, Writer, cc, handle};
use super::{Tpm, TpmError};
use sha2::{Digest, Sha256};
use std::thread::sleep;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a TPM may say that it is busy. A self-test after start takes a few seconds at most.
const BUSY_TIME: Duration = Duration::from_secs(30);

/// A command being put together.
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u32>,
    /// Names of the entities behind the handles, where a session's proof covers them.
    names: Vec<Vec<u8>>,
    /// The parameters.
    pub(super) parameters: Writer,
}

/// How a command is authorized.
pub(super) enum Authorization<'a> {
    /// Not at all.
    None,
    /// By an empty password, as hierarchies and storage root keys have.
    EmptyPassword,
    /// By a session.
    Session(SessionUse<'a>),
}

/// The handle, if the command returns one, and the parameters of a response.
pub(super) struct Response {
    name: &'static str,
    /// The handle of what was made.
    pub(super) handle: u32,
    parameters: Zeroizing<Vec<u8>>,
}

impl Response {
    /// Reads the parameters.
    pub(super) fn read<'a, T>(
        &'a self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Truncated>,
    ) -> Result<T, TpmError> {
        read(&mut Reader::new(&self.parameters))
            .map_err(|source| TpmError::Malformed { command: self.name, source })
    }

    /// The parameters, as they came.
    pub(super) fn parameters(&self) -> &[u8] {
        &self.parameters
    }
}

impl Command {
    pub(super) fn new(name: &'static str, code: u32) -> Self {
        let (handles, names) = (Vec::new(), Vec::new());
        Command { name, code, handles, names, parameters: Writer::new() }
    }

    /// Adds a permanent handle, or a session's; its name is the handle itself.
    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.push(handle);
        self.names.push(handle.to_be_bytes().to_vec());
        self
    }

    /// Adds the handle of an object with a name.
    pub(super) fn object(mut self, handle: u32, name: &[u8]) -> Self {
        self.handles.push(handle);
        self.names.push(name.to_vec());
        self
    }

    /// Whether the response has a handle before its parameters.
    fn returns_handle(&self) -> bool {
        matches!(self.code, cc::CREATE_PRIMARY | cc::LOAD | cc::START_AUTH_SESSION)
    }

    /// Runs it.
    pub(super) fn run(
        mut self,
        tpm: &mut Tpm,
        mut authorization: Authorization<'_>,
    ) -> Result<Response, TpmError> {
        let message = self.message(&authorization).map_err(|source| self.malformed(source))?;
        let response = self.transact(tpm, message.bytes())?;
        self.parse(&response, &mut authorization)
    }

    fn message(&mut self, authorization: &Authorization<'_>) -> Result<Writer, Truncated> {
        let mut area = Writer::new();
        match authorization {
            Authorization::None => {}
            Authorization::EmptyPassword => {
                area.u32(handle::PASSWORD_SESSION).sized(&[]).u8(0).sized(&[]);
            }
            Authorization::Session(session) => {
                session.encrypt_parameter(self.parameters.bytes_mut())?;
                let mut hash = Sha256::new();
                hash.update(self.code.to_be_bytes());
                self.names.iter().for_each(|name| hash.update(name));
                hash.update(self.parameters.bytes());
                session.authorize(&hash.finalize(), &mut area);
            }
        }
        let mut body = Writer::new();
        for handle in &self.handles {
            body.u32(*handle);
        }
        let tag = if area.bytes().is_empty() {
            ST_NO_SESSIONS
        } else {
            body.u32(length(area.bytes())).raw(area.bytes());
            ST_SESSIONS
        };
        body.raw(self.parameters.bytes());
        let mut message = Writer::new();
        message.u16(tag).u32(length(body.bytes()) + 10).u32(self.code).raw(body.bytes());
        Ok(message)
    }

    /// Sends the message until the TPM is not busy. A command that was answered by a warning has
    /// had no effect, nonces included, so that the same bytes are sent again (part 1, section
    /// 19.6.3.2, and part 2, table 16).
    fn transact(&self, tpm: &mut Tpm, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let response = tpm
                .transport
                .transact(message)
                .map_err(|source| TpmError::Io { command: self.name, source })?;
            let mut header = Reader::new(&response);
            let code = header
                .u16()
                .and_then(|_| header.u32())
                .and_then(|_| header.u32())
                .map_err(|source| self.malformed(source))?;
            if code == 0 {
                return Ok(response);
            }
            let (command, code) = (self.name, ResponseCode(code));
            if !code.is_transient() {
                return Err(TpmError::Refused { command, code });
            }
            if started.elapsed() >= BUSY_TIME {
                return Err(TpmError::Busy { command, code, seconds: BUSY_TIME.as_secs() });
            }
            tracing::debug!(command, %code, "the TPM is busy");
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn parse(
        &self,
        response: &[u8],
        authorization: &mut Authorization<'_>,
    ) -> Result<Response, TpmError> {
        let malformed = |source| self.malformed(source);
        let mut reader = Reader::new(response);
        let tag = reader.u16().map_err(malformed)?;
        reader.raw(8).map_err(malformed)?;
        let handle =
            if self.returns_handle() { reader.u32().map_err(malformed)? } else { handle::NULL };
        let mut parameters = if tag == ST_SESSIONS {
            let length = reader.u32().map_err(malformed)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            Zeroizing::new(reader.raw(length).map_err(malformed)?.to_vec())
        } else {
            Zeroizing::new(reader.rest().to_vec())
        };
        if let Authorization::Session(session) = authorization {
            if tag != ST_SESSIONS {
                return Err(TpmError::Nonsense("a response without the session's proof"));
            }
            let mut hash = Sha256::new();
            hash.update(0_u32.to_be_bytes());
            hash.update(self.code.to_be_bytes());
            hash.update(&*parameters);
            session
                .verify(&hash.finalize(), &mut reader)
                .map_err(malformed)?
                .map_err(|source| TpmError::NotAuthentic { command: self.name, source })?;
            session.decrypt_parameter(&mut parameters).map_err(malformed)?;
        }
        Ok(Response { name: self.name, handle, parameters })
    }

    fn malformed(&self, source: Truncated) -> TpmError {
        TpmError::Malformed { command: self.name, source }
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a command has less than 4 GiB")
}

impl Tpm {
    /// Removes an object or session from the TPM. It is gone either way when the resource
    /// manager's file is closed, so that a failure is no more than logged.
    pub(super) fn flush(&mut self, handle: u32) {
        let mut command = Command::new("TPM2_FlushContext", cc::FLUSH_CONTEXT);
        // The handle is a parameter of this command.
        command.parameters.u32(handle);
        if let Err(error) = command.run(self, Authorization::None) {
            tracing::debug!(%error, handle, "not flushed");
        }
    }

    /// Runs something with a session, and flushes the session.
    pub(super) fn with_session<T>(
        &mut self,
        mut session: Session,
        work: impl FnOnce(&mut Tpm, &mut Session) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let outcome = work(self, &mut session);
        self.flush(session.handle);
        outcome
    }
}

impl TpmError {
    /// Whether the TPM refused with one of these codes, wherever in the command.
    pub(super) fn is_refused_with(&self, codes: &[u32]) -> bool {
        matches!(self, TpmError::Refused { code, .. } if codes.contains(&code.base()))
    }

    /// What a refusal of something authorized by the storage root key means.
    pub(super) fn about_storage_root_key(self) -> Self {
        match self {
            error if error.is_refused_with(&[rc::AUTH_FAIL, rc::BAD_AUTH]) => {
                TpmError::NotAStorageKey("it has a password of its own")
            }
            error => error,
        }
    }

    /// What a refusal of something authorized by a PIN means.
    pub(super) fn about_pin(self) -> Self {
        match self {
            error if error.is_refused_with(&[rc::AUTH_FAIL, rc::BAD_AUTH]) => TpmError::WrongPin,
            error if error.is_refused_with(&[rc::LOCKOUT]) => TpmError::Lockout,
            error if error.is_refused_with(&[rc::POLICY_FAIL]) => TpmError::PolicyFails,
            error => error,
        }
    }
}
