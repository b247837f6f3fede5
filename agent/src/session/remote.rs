//! The executor's supplies from the other end of the wire.

use super::wire::{Incoming, Wire, WireError};
use crate::execute::supplies::{EventSink, Supplies, SupplyError};
use crate::store::{ClosureSource, SourceError};
use keystone_protocol::event::Event;
use keystone_protocol::frame::BlockHeader;
use keystone_protocol::message::{ToAgent, ToController};
use keystone_protocol::secret::Secret;
use std::cell::RefCell;
use std::time::Duration;

/// The longest silence while the closure is streamed.
const BLOCK_BOUND: Duration = Duration::from_secs(120);

/// The longest time that the operator may take to keep a recovery key.
const RECOVERY_KEY_BOUND: Duration = Duration::from_secs(30 * 60);

/// The longest time that the operator may take to type a key.
const UNLOCK_KEY_BOUND: Duration = Duration::from_secs(10 * 60);

/// What a confirmed execution brought with it, and the wire for the rest.
pub struct Remote<'w> {
    wire: &'w RefCell<Wire>,
    password: Option<Secret>,
    pin: Option<Secret>,
}

impl<'w> Remote<'w> {
    /// Supplies for one execution.
    pub fn new(
        wire: &'w RefCell<Wire>,
        password: Option<Secret>,
        pin: Option<Secret>,
    ) -> Self {
        Remote { wire, password, pin }
    }
}

impl ClosureSource for Remote<'_> {
    fn want(&mut self, paths: &[u32]) -> Result<(), SourceError> {
        let message = ToController::WantPaths { paths: paths.to_vec() };
        self.wire.borrow_mut().send(&message).map_err(source_error)
    }

    fn next_block(&mut self) -> Result<(BlockHeader, Vec<u8>), SourceError> {
        let incoming = self.wire.borrow_mut().next_within(BLOCK_BOUND, "closure data");
        match incoming.map_err(source_error)? {
            Incoming::Block(header, data) => Ok((header, data)),
            Incoming::Message(ToAgent::SourceFailed { message }) => Err(message.into()),
            Incoming::Message(_) => {
                Err(source_error(WireError::OutOfTurn("a message amid the closure")))
            }
        }
    }
}

fn source_error(error: WireError) -> SourceError {
    Box::new(error)
}

impl Supplies for Remote<'_> {
    fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    fn pin(&self) -> Option<&Secret> {
        self.pin.as_ref()
    }

    fn unlock_key(&mut self, container: &str, tried: &[String]) -> Result<Secret, SupplyError> {
        let fail = |error: WireError| SupplyError(error.to_string());
        let mut wire = self.wire.borrow_mut();
        wire.send(&ToController::WantUnlockKey {
            container: container.to_owned(),
            tried: tried.to_vec(),
        })
        .map_err(fail)?;
        match wire.next_within(UNLOCK_KEY_BOUND, "a key of a container").map_err(fail)? {
            Incoming::Message(ToAgent::UnlockKey { container: of, key }) if of == container => {
                key.ok_or_else(|| SupplyError("no key was given".to_owned()))
            }
            Incoming::Message(_) => Err(fail(WireError::OutOfTurn("another message"))),
            Incoming::Block(..) => Err(fail(WireError::OutOfTurn("closure data"))),
        }
    }

    fn keep_recovery_key(&mut self, container: &str, key: &Secret) -> Result<(), SupplyError> {
        let fail = |error: WireError| SupplyError(error.to_string());
        let mut wire = self.wire.borrow_mut();
        let message =
            ToController::RecoveryKey { container: container.to_owned(), key: key.clone() };
        wire.send(&message).map_err(fail)?;
        match wire.next_within(RECOVERY_KEY_BOUND, "that the recovery key is kept").map_err(fail)? {
            Incoming::Message(ToAgent::RecoveryKeyStored { container: kept })
                if kept == container =>
            {
                Ok(())
            }
            Incoming::Message(_) => Err(fail(WireError::OutOfTurn("another message"))),
            Incoming::Block(..) => Err(fail(WireError::OutOfTurn("closure data"))),
        }
    }
}

/// Sends events over the wire.
pub struct RemoteSink<'w>(pub &'w RefCell<Wire>);

impl EventSink for RemoteSink<'_> {
    fn emit(&mut self, event: Event) {
        // A channel that broke is noticed by the reader, which cancels.
        if let Err(error) = self.0.borrow_mut().send(&ToController::Event(event)) {
            tracing::debug!("event not delivered: {error}");
        }
    }
}
