//! Keyslots.

use super::container::Container;
use super::{LuksError, Slot, dump};
use crate::ensure::Ensured;
use keystone_protocol::secret::Secret;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptPbkdf};
use libcryptsetup_rs::consts::vals::{CryptKdf, KeyslotInfo, LuksType};
use libcryptsetup_rs::{CryptPbkdfType, CryptSettingsHandle, TokenInput};
use std::path::Path;

/// How a keyslot's key is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kdf {
    /// LUKS2's default, for what a human remembers: argon2id, benchmarked for two seconds and
    /// limited to half of the memory.
    Argon2id,
    /// For keys with 256 bits of entropy, which need no slowing down: PBKDF2 of SHA-512 with 1000
    /// iterations, as systemd writes them (v257 src/shared/cryptsetup-util.c
    /// `cryptsetup_set_minimal_pbkdf`).
    Minimal,
}

impl Kdf {
    pub(super) fn set(self, container: &mut Container) -> Result<(), LuksError> {
        container.attempt("choose the key derivation for", |device| {
            let kdf = match self {
                Kdf::Argon2id => CryptSettingsHandle::get_pbkdf_default(&LuksType::Luks2)?,
                Kdf::Minimal => CryptPbkdfType {
                    type_: CryptKdf::Pbkdf2,
                    hash: Some("sha512".to_owned()),
                    time_ms: 1,
                    iterations: 1000,
                    max_memory_kb: 0,
                    parallel_threads: 0,
                    flags: CryptPbkdf::NO_BENCHMARK,
                },
            };
            device.settings_handle().set_pbkdf_type(&kdf)
        })
    }
}

/// Tests a key on one keyslot or on all; the keyslot that it opens. Nothing is activated.
///
/// # Errors
/// [`LuksError::WrongKey`].
pub fn test_key(device: &Path, slot: Option<Slot>, key: &Secret) -> Result<Slot, LuksError> {
    let mut container = Container::load(device)?;
    let tested = container.attempt("test a key on", |device| {
        let (name, flags) = (None, CryptActivate::empty());
        device.activate_handle().activate_by_passphrase(name, slot, key.expose(), flags)
    });
    match tested {
        Err(error) if matches!(error.errno(), Some(libc::EPERM | libc::ENOENT)) => {
            Err(LuksError::WrongKey { device: device.to_owned(), slot })
        }
        other => other,
    }
}

/// Makes a keyslot for `key`, unless one that belongs to no token opens with it; `source` is a
/// key that opens the container.
///
/// # Errors
/// [`LuksError::WrongKey`] if the source opens nothing. A keyslot that does not open when it is
/// tested is removed.
pub fn ensure_key(
    device: &Path,
    source: &Secret,
    key: &Secret,
    kdf: Kdf,
) -> Result<(Ensured, Slot), LuksError> {
    let header = dump(device)?;
    for slot in header.keyslots.iter().filter(|slot| header.token_of(slot.number).is_none()) {
        match test_key(device, Some(slot.number), key) {
            Ok(slot) => return Ok((Ensured::AlreadySo, slot)),
            Err(LuksError::WrongKey { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Ensured::Created, add_key(device, source, key, kdf)?))
}

/// Makes a keyslot and tests it.
pub(super) fn add_key(
    device: &Path,
    source: &Secret,
    key: &Secret,
    kdf: Kdf,
) -> Result<Slot, LuksError> {
    let mut container = Container::load(device)?;
    kdf.set(&mut container)?;
    let added = container.attempt("add a keyslot to", |device| {
        device.keyslot_handle().add_by_passphrase(None, source.expose(), key.expose())
    });
    let slot = match added {
        Err(error) if error.errno() == Some(libc::EPERM) => {
            return Err(LuksError::WrongKey { device: device.to_owned(), slot: None });
        }
        added => added?,
    };
    if let Err(error) = test_key(device, Some(slot), key) {
        undo_slot(device, slot);
        return Err(error);
    }
    Ok(slot)
}

/// Removes a keyslot that was just made, after a failure.
pub(super) fn undo_slot(device: &Path, slot: Slot) {
    if let Err(error) = remove_slot(device, slot) {
        tracing::error!(%error, slot, "a keyslot that does not work stays");
    }
}

/// Removes a keyslot, its key material and the tokens that are for it alone.
///
/// # Errors
/// [`LuksError::LastSlot`].
pub fn remove_slot(device: &Path, slot: Slot) -> Result<Ensured, LuksError> {
    let mut container = Container::load(device)?;
    let state =
        container.attempt("read a keyslot of", |device| device.keyslot_handle().status(slot))?;
    match state {
        KeyslotInfo::Invalid | KeyslotInfo::Inactive => return Ok(Ensured::AlreadySo),
        KeyslotInfo::ActiveLast => {
            return Err(LuksError::LastSlot { device: device.to_owned(), slot });
        }
        KeyslotInfo::Active | KeyslotInfo::Unbound => {}
    }
    let tokens = dump(device)?.tokens;
    container.attempt("remove a keyslot of", |device| device.keyslot_handle().destroy(slot))?;
    for token in tokens.iter().filter(|token| token.keyslots == [slot]) {
        container.attempt("remove a token of", |device| {
            device.token_handle().json_set(TokenInput::RemoveToken(token.number))
        })?;
    }
    Ok(Ensured::Created)
}
