//! The TPM 2.0: what it is, and sealing a secret to it so that systemd unseals it at boot.
//!
//! | module | job |
//! |---|---|
//! | [`policy`] | TPM2 or password? Pure |
//! | [`seal`] | sealing and unsealing, as systemd does |
//! | `inventory` | what the TPM is and how it is |
//! | `key` | keys made for us: the storage root key, the one that salts sessions |
//! | `command` | running a command: authorization, retries, response codes |
//! | `session` | authorization sessions, encryption of parameters |
//! | [`rc`], `wire`, [`transport`] | response codes; marshalling; bytes to and from the TPM |
//!
//! Twelve commands are all that is needed, so they are marshalled here; see
//! `docs/decisions/tpm2.md`. Secrets cross the bus encrypted only.

mod command;
mod inventory;
mod key;
pub use keystone_planner::policy;
pub mod rc;
pub mod seal;
mod session;
pub mod transport;
mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use seal::{PcrPolicy, Sealed, Unsealing};
pub use session::NotAuthentic;
pub(crate) use session::random;
pub use wire::Truncated;

use rc::ResponseCode;
use std::io;
use std::path::Path;
use transport::{DeviceFile, Transport};

/// Where the kernel's TPM resource manager is.
const DEVICE: &str = "/dev/tpmrm0";

/// A TPM.
pub struct Tpm {
    transport: Box<dyn Transport>,
}

impl Tpm {
    /// The machine's TPM; `None` if it has none or only a TPM 1.2, which has no resource manager.
    ///
    /// # Errors
    /// [`TpmError::Open`].
    pub fn open() -> Result<Option<Self>, TpmError> {
        match DeviceFile::open(Path::new(DEVICE)) {
            Ok(device) => Ok(Some(Tpm::over(device))),
            // ENODEV, ENXIO: a node without a driver behind it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || matches!(
                        error.raw_os_error(),
                        Some(nix::libc::ENODEV | nix::libc::ENXIO)
                    ) =>
            {
                Ok(None)
            }
            Err(error) => Err(TpmError::Open(error)),
        }
    }

    /// A TPM reached in another way.
    pub fn over(transport: impl Transport + 'static) -> Self {
        Tpm { transport: Box::new(transport) }
    }
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tpm")
    }
}

/// What the kernel's resource manager makes of a TPM that fails (Linux
/// `drivers/char/tpm/tpm2-space.c`): EFAULT, and the TPM's own code in the kernel's log.
fn failed(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(nix::libc::EFAULT) => {
            ": it has failed; `dmesg | grep tpm` has its code. Turn the machine off and on, or \
             install with --unlock password"
        }
        _ => "",
    }
}

/// What can go wrong with a TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It can't be opened.
    #[error("open {DEVICE}")]
    Open(#[source] io::Error),
    /// No command goes through.
    #[error("talk to the TPM ({command}){}", failed(source))]
    Io {
        /// The command.
        command: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("{command}: the TPM says: {code}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said.
        code: ResponseCode,
    },
    /// It was busy for the whole bounded time.
    #[error("{command}: the TPM still says after {seconds} seconds: {code}")]
    Busy {
        /// The command.
        command: &'static str,
        /// What it said.
        code: ResponseCode,
        /// How long it was asked.
        seconds: u64,
    },
    /// A response makes no sense.
    #[error("{command}: {source}")]
    Malformed {
        /// The command.
        command: &'static str,
        /// How.
        source: Truncated,
    },
    /// A response was altered on its way.
    #[error("{command}: {source}")]
    NotAuthentic {
        /// The command.
        command: &'static str,
        /// How.
        source: NotAuthentic,
    },
    /// The TPM contradicts the specification or itself.
    #[error("the TPM answers nonsense: {0}")]
    Nonsense(&'static str),
    /// The owner hierarchy has a password, and there is no storage root key.
    #[error(
        "the TPM's owner hierarchy has a password, so no storage root key can be made; clear the \
         TPM in the firmware's setup, or unlock by password"
    )]
    OwnerAuth,
    /// What is at the storage root key's handle is not a key that things can be sealed under.
    #[error(
        "what is stored at 0x81000001 in the TPM is not a storage root key ({0}); clear the TPM \
         in the firmware's setup, or unlock by password"
    )]
    NotAStorageKey(&'static str),
    /// A bank or PCR is not active.
    #[error("PCR {pcr} of bank {bank} is not active in this TPM")]
    InactivePcr {
        /// The bank.
        bank: &'static str,
        /// The PCR.
        pcr: u8,
    },
    /// PCRs changed while they were being read.
    #[error("the PCRs keep changing while they are read")]
    UnsteadyPcrs,
    /// PCRs are not what they were when the secret was sealed, or the policy is another.
    #[error("the sealed secret's policy does not hold: a PCR has another value than when sealed")]
    PolicyFails,
    /// The PIN is wrong.
    #[error("the PIN is wrong")]
    WrongPin,
    /// No PIN is accepted now.
    #[error(
        "the TPM is in dictionary-attack lockout and accepts no PIN; wait for its recovery time \
         or clear it in the firmware's setup"
    )]
    Lockout,
    /// It was sealed by another TPM, or under a storage root key that is gone.
    #[error("the secret was sealed by another TPM, or this one was cleared since")]
    OtherTpm,
}
