//! Keyslots.

use super::container::Container;
use super::{LuksError, Slot, dump};
use crate::ensure::Ensured;
use keystone_protocol::plan::LuksPbkdf;
use keystone_protocol::secret::Secret;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptPbkdf};
use libcryptsetup_rs::consts::vals::{CryptKdf, KeyslotInfo, LuksType};
use libcryptsetup_rs::{CryptPbkdfType, CryptSettingsHandle, LibcryptErr, TokenInput};
use std::path::Path;

/// cryptsetup's bounds for argon2 (`DEFAULT_LUKS2_MEMORY_KB`, `DEFAULT_LUKS2_PARALLEL_THREADS`);
/// what the machine has limits them further.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_THREADS: u32 = 4;

/// How a keyslot's key is derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kdf {
    /// LUKS2's default, for what a human remembers: argon2id, benchmarked for two seconds and
    /// limited to half of the memory.
    Argon2id,
    /// For keys with 256 bits of entropy, which need no slowing down: PBKDF2 of SHA-512 with 1000
    /// iterations, as systemd writes them (v257 src/shared/cryptsetup-util.c
    /// `cryptsetup_set_minimal_pbkdf`).
    Minimal,
    /// As the layout's `extraFormatArgs` say; the default where they say nothing.
    Chosen {
        /// `--pbkdf` and the options that go with it.
        pbkdf: LuksPbkdf,
        /// `--hash`.
        hash: Option<String>,
    },
}

impl Kdf {
    pub(super) fn set(&self, container: &mut Container) -> Result<(), LuksError> {
        container.attempt("choose the key derivation for", |device| {
            let kdf = match self {
                Kdf::Argon2id => CryptSettingsHandle::get_pbkdf_default(&LuksType::Luks2)?,
                Kdf::Chosen { pbkdf, hash } => chosen(pbkdf, hash.as_deref())?,
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

/// What cryptsetup makes of `--pbkdf`, `--iter-time`, `--pbkdf-memory`, `--pbkdf-parallel`,
/// `--pbkdf-force-iterations` and `--hash` (2.7 `src/utils_luks.c`, `set_pbkdf_params`).
fn chosen(pbkdf: &LuksPbkdf, hash: Option<&str>) -> Result<CryptPbkdfType, LibcryptErr> {
    let default = CryptSettingsHandle::get_pbkdf_default(&LuksType::Luks2)?;
    let type_ = match pbkdf.kind.as_deref() {
        None => default.type_,
        Some("pbkdf2") => CryptKdf::Pbkdf2,
        Some("argon2i") => CryptKdf::Argon2I,
        Some("argon2id") => CryptKdf::Argon2Id,
        Some(other) => {
            let unknown = format!("there is no key derivation {other}");
            return Err(LibcryptErr::IOError(std::io::Error::other(unknown)));
        }
    };
    let argon = !matches!(type_, CryptKdf::Pbkdf2);
    let (flags, iterations) = match pbkdf.iterations {
        Some(iterations) => (CryptPbkdf::NO_BENCHMARK, iterations),
        None => (CryptPbkdf::empty(), 0),
    };
    Ok(CryptPbkdfType {
        hash: hash.map(str::to_owned).or(default.hash),
        time_ms: pbkdf.iter_time.unwrap_or(default.time_ms),
        iterations,
        max_memory_kb: if argon { pbkdf.memory.unwrap_or(MAX_MEMORY_KIB) } else { 0 },
        parallel_threads: if argon { pbkdf.parallel.unwrap_or(MAX_THREADS) } else { 0 },
        type_,
        flags,
    })
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
    kdf: &Kdf,
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
    kdf: &Kdf,
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
