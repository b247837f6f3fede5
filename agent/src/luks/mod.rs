//! LUKS2 containers: formatted, opened, closed, and given the keyslots that open them at boot.
//!
//! The one module that talks to libcryptsetup, and through it to device-mapper. Why that library
//! and that binding: `docs/decisions/libcryptsetup-rs.md`.
//!
//! | module | job |
//! |---|---|
//! | `container` | a loaded header; libcryptsetup's messages in errors and logs |
//! | `format` | making a container, as `cryptsetup luksFormat` makes it |
//! | [`key_file`] | keys in files, with offset and size |
//! | `slot` | keyslots: added, tested, removed |
//! | `mapping` | opening and closing |
//! | [`unlock`](mod@unlock) | opening one that is there already, whatever opens it |
//! | [`enroll`] | lasting keyslots with systemd's tokens, each opened in a test |
//! | [`token`] | those tokens' JSON |
//! | [`recovery`] | recovery keys in systemd's format |
//! | [`dump`] | what is in a header, for reports |
//!
//! A container's life in an installation: [`format`](format()) with an [`ephemeral_key`] in
//! [`FirstSlot::Bootstrap`], [`open`], the `enroll` functions with that key as the source, then
//! [`remove_slot`] of [`BOOTSTRAP_SLOT`]; [`close`] at the end.

mod container;
pub mod dump;
pub mod enroll;
mod format;
pub mod key_file;
mod mapping;
pub mod recovery;
mod slot;
pub mod token;
pub mod unlock;

#[cfg(test)]
mod tests;

pub use dump::dump;
pub use format::{BOOTSTRAP_SLOT, FirstSlot, ephemeral_key, format, format_as, lasting_kdf};
pub use mapping::{close, is_open, open, open_as, status};
pub use recovery::RecoveryKey;
pub use slot::{Kdf, ensure_key, remove_slot, test_key};

use crate::block::BlockError;
use crate::tpm2::TpmError;
use container::Container;
use libcryptsetup_rs::LibcryptErr;
use std::path::{Path, PathBuf};

/// Number of a keyslot.
pub type Slot = u32;

/// Whether there is a LUKS2 header on a device.
///
/// # Errors
/// The device can't be read.
pub fn is_luks(device: &Path) -> Result<bool, LuksError> {
    Ok(Container::find(device)?.is_some())
}

/// The UUID in the header.
///
/// # Errors
/// [`LuksError::NotLuks`], or the device can't be read.
pub fn uuid(device: &Path) -> Result<uuid::Uuid, LuksError> {
    Container::load(device)?.uuid()
}

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// libcryptsetup failed.
    #[error("{action} {}{}", device.display(), detail(messages))]
    Crypt {
        /// What was tried.
        action: &'static str,
        /// On which device, or with which mapper name.
        device: PathBuf,
        /// What libcryptsetup said about it.
        messages: String,
        /// Its error.
        #[source]
        source: LibcryptErr,
    },
    /// There is no LUKS2 header.
    #[error("there is no LUKS2 header on {}", .0.display())]
    NotLuks(PathBuf),
    /// There is a container already, and the key does not open it.
    #[error(
        "there is a LUKS2 container with UUID {uuid} on {} already, which this key does not \
         open; it is not overwritten: wipe the device first",
        device.display()
    )]
    OtherContainer {
        /// Where.
        device: PathBuf,
        /// Its UUID.
        uuid: uuid::Uuid,
    },
    /// The layout asks for what containers do not have.
    #[error("a container can't have {0}")]
    Option(String),
    /// A key opens nothing.
    #[error("the key does not open {}", slot_of(device, *slot))]
    WrongKey {
        /// Which container.
        device: PathBuf,
        /// Which keyslot; any of them without.
        slot: Option<Slot>,
    },
    /// The last keyslot would be removed.
    #[error("keyslot {slot} of {} is its last: without it nothing opens it", device.display())]
    LastSlot {
        /// Which container.
        device: PathBuf,
        /// The keyslot.
        slot: Slot,
    },
    /// The mapper name is taken by something else.
    #[error("/dev/mapper/{name} is something else already ({uuid}); close it first")]
    NameTaken {
        /// The name.
        name: String,
        /// The device-mapper UUID of what has it.
        uuid: String,
    },
    /// The container is open with another name.
    #[error("{} is open as /dev/mapper/{name} already; close that first", device.display())]
    OpenElsewhere {
        /// The container.
        device: PathBuf,
        /// The other name.
        name: String,
    },
    /// It is used, and stayed so.
    #[error("/dev/mapper/{name} is still in use after {seconds} seconds{}", by(holders))]
    Busy {
        /// The mapper name.
        name: String,
        /// For how long closing was tried.
        seconds: u64,
        /// Who uses it, a phrase each.
        holders: Vec<String>,
    },
    /// The mapper is still there after it was closed.
    #[error("/dev/mapper/{0} is still there although it was closed")]
    StillOpen(String),
    /// A token is not of the shape that it has to have.
    #[error("token {token} of {}: {problem}", device.display())]
    Token {
        /// The container.
        device: PathBuf,
        /// Number of the token.
        token: u32,
        /// What is wrong.
        problem: String,
    },
    /// The header's metadata are not as the specification says.
    #[error("the metadata of {} are not as expected: {problem}", device.display())]
    Metadata {
        /// The container.
        device: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The TPM gave back something else than was sealed.
    #[error("the TPM unsealed something else than was sealed into token {token} of {}", device.display())]
    UnsealedOther {
        /// The container.
        device: PathBuf,
        /// Number of the token.
        token: u32,
    },
    /// The password is too weak.
    #[error(transparent)]
    WeakPassword(#[from] keystone_protocol::password::WeakPassword),
    /// Something about the TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// Something about the block device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Writing the device failed.
    #[error("erase the unfinished header on {}", device.display())]
    Erase {
        /// The device.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn detail(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(" ({messages})") }
}

fn slot_of(device: &Path, slot: Option<Slot>) -> String {
    match slot {
        Some(slot) => format!("keyslot {slot} of {}", device.display()),
        None => device.display().to_string(),
    }
}

fn by(holders: &[String]) -> String {
    if holders.is_empty() {
        ", and who uses it could not be found out".to_owned()
    } else {
        format!(" by {}", holders.join(", "))
    }
}
