//! What an execution needs from outside.

use keystone_protocol::event::Event;
use keystone_protocol::secret::Secret;
use thiserror::Error;

/// Something could not be had from the other end.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SupplyError(pub String);

/// Where an execution gets what it can't make itself, and leaves what must not stay.
pub trait Supplies: crate::store::ClosureSource {
    /// The password for containers that are opened by one.
    fn password(&self) -> Option<&Secret>;

    /// The PIN for containers that are opened by TPM and PIN.
    fn pin(&self) -> Option<&Secret>;

    /// A password or recovery key for a container that is there already; `tried` is what failed
    /// so far, a sentence each.
    fn unlock_key(&mut self, container: &str, tried: &[String]) -> Result<Secret, SupplyError> {
        let _ = tried;
        Err(SupplyError(format!("nobody can be asked for a key of {container}")))
    }

    /// A key file that the layout names, if the operator gave it.
    fn key_file(&self, path: &str) -> Option<&Secret>;

    /// The SSH host keys that the operator gave, in the plan's order.
    fn host_keys(&self) -> &[Secret];

    /// Asks for the operator's files: [`ClosureSource::next_block`](crate::store::ClosureSource)
    /// hands their archive out from then on, to its last block.
    fn want_extra_files(&mut self) -> Result<(), SupplyError>;

    /// Hands a container's recovery key over and returns once it is kept somewhere safe.
    fn keep_recovery_key(&mut self, container: &str, key: &Secret) -> Result<(), SupplyError>;
}

/// Where events go.
pub trait EventSink {
    /// Takes one event. An event that can't be delivered is dropped: the execution is stopped by
    /// its [`Cancel`](super::cancel::Cancel), not by a sink.
    fn emit(&mut self, event: Event);
}
