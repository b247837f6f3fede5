//! Lasting keyslots.
//!
//! Each is written as systemd-cryptenroll writes it, so that systemd opens it at boot, and is
//! opened here before anything relies on it: through the TPM and from what stands in the header,
//! not from what is in memory. `source` is everywhere a key that opens the container, the
//! ephemeral one in an installation.

use super::container::Container;
use super::slot::{Kdf, add_key, ensure_key, test_key, undo_slot};
use super::token::{RECOVERY, TPM2, Tpm2Token, recovery};
use super::{LuksError, RecoveryKey, Slot, dump, ephemeral_key};
use crate::ensure::Ensured;
use crate::tpm2::{PcrPolicy, Tpm, TpmError, Unsealing, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Hmac;
use keystone_protocol::password::check_password;
use keystone_protocol::secret::Secret;
use libcryptsetup_rs::TokenInput;
use sha2::Sha256;
use std::path::Path;
use zeroize::Zeroizing;

/// Iterations over a PIN (systemd v257 src/shared/tpm2-util.c `PBKDF2_HMAC_SHA256_ITERATIONS`).
/// Few, since the TPM counts wrong attempts.
const PIN_ITERATIONS: u32 = 10_000;

/// What a keyslot that the TPM opens is bound to.
#[derive(Debug, Clone)]
pub struct Tpm2Policy {
    /// PCRs and their bank.
    pub pcrs: PcrPolicy,
    /// The PIN, if one is asked too.
    pub pin: Option<Secret>,
}

/// Makes a keyslot that the TPM opens, unless there is one with the same PCRs that it opens now
/// with the same PIN.
///
/// # Errors
/// [`LuksError::Tpm`], [`LuksError::WrongKey`] for the source. On failure neither keyslot nor
/// token stays.
pub fn enroll_tpm2(
    device: &Path,
    source: &Secret,
    tpm: &mut Tpm,
    policy: &Tpm2Policy,
) -> Result<(Ensured, Slot), LuksError> {
    for token in dump(device)?.tokens.iter().filter(|token| token.kind == TPM2) {
        match open_by_tpm2(device, token.number, tpm, policy) {
            Ok(slot) => return Ok((Ensured::AlreadySo, slot)),
            Err(error) => tracing::debug!(%error, token = token.number, "not as wanted"),
        }
    }
    let secret = ephemeral_key();
    let salt = policy.pin.is_some().then(random::<32>);
    let salted = match (&policy.pin, &salt) {
        (Some(pin), Some(salt)) => Some(salted_pin(pin, salt)),
        _ => None,
    };
    let sealed = tpm.seal(&secret, &policy.pcrs, salted.as_ref())?;
    let slot = add_key(device, source, &passphrase(&secret), &Kdf::Minimal)?;
    let token = Tpm2Token::new(slot, sealed, &policy.pcrs, salt.map(|salt| salt.to_vec()));
    let outcome = serde_json::to_value(&token)
        .map_err(|error| metadata(device, error.to_string()))
        .and_then(|json| add_token(device, &json))
        .and_then(|token| open_by_tpm2(device, token, tpm, policy));
    match outcome {
        Ok(opened) if opened == slot => Ok((Ensured::Created, slot)),
        Ok(_) => {
            undo_slot(device, slot);
            Err(LuksError::WrongKey { device: device.to_owned(), slot: Some(slot) })
        }
        Err(error) => {
            undo_slot(device, slot);
            Err(error)
        }
    }
}

/// Opens, in a test, the keyslot of a `systemd-tpm2` token, from what stands in the header.
fn open_by_tpm2(
    device: &Path,
    number: u32,
    tpm: &mut Tpm,
    policy: &Tpm2Policy,
) -> Result<Slot, LuksError> {
    let problem =
        |problem: String| LuksError::Token { device: device.to_owned(), token: number, problem };
    let (_, token) = read_token(device, number)?;
    let same_bank = token.pcrs.is_empty() || token.bank.as_deref() == Some(policy.pcrs.bank());
    if token.pcrs != policy.pcrs.pcrs() || !same_bank || token.pin != policy.pin.is_some() {
        return Err(problem("it is bound to something else".to_owned()));
    }
    unseal(device, number, tpm, &policy.pcrs, policy.pin.as_ref()).map(|(slot, _)| slot)
}

/// What opens the keyslot of a `systemd-tpm2` token, tested; the PCRs are those of the token.
///
/// # Errors
/// [`LuksError::Tpm`] if the TPM does not give it, [`LuksError::Token`] if the token is not
/// understood or wants a PIN and none is given (or the other way round).
pub fn tpm2_key(
    device: &Path,
    number: u32,
    tpm: &mut Tpm,
    pin: Option<&Secret>,
) -> Result<Secret, LuksError> {
    let problem =
        |problem: String| LuksError::Token { device: device.to_owned(), token: number, problem };
    let (_, token) = read_token(device, number)?;
    // Without PCRs there is no bank in the token; any names the same, empty, selection.
    let bank = token.bank.as_deref().unwrap_or("sha256");
    let pcrs = PcrPolicy::new(bank, &token.pcrs).map_err(|error| problem(error.to_string()))?;
    if token.pin && pin.is_none() {
        return Err(problem("it wants a PIN".to_owned()));
    }
    let pin = pin.filter(|_| token.pin);
    unseal(device, number, tpm, &pcrs, pin).map(|(_, key)| key)
}

/// Whether a `systemd-tpm2` token wants a PIN.
///
/// # Errors
/// [`LuksError::Token`] if it is not understood.
pub fn wants_pin(device: &Path, number: u32) -> Result<bool, LuksError> {
    Ok(read_token(device, number)?.1.pin)
}

fn read_token(device: &Path, number: u32) -> Result<(Slot, Tpm2Token), LuksError> {
    let problem =
        |problem: String| LuksError::Token { device: device.to_owned(), token: number, problem };
    let header = dump(device)?;
    let token = header
        .tokens
        .iter()
        .find(|token| token.number == number)
        .ok_or_else(|| problem("it is gone".to_owned()))?;
    let &[slot] = token.keyslots.as_slice() else {
        return Err(problem("it is not for one keyslot".to_owned()));
    };
    let token =
        serde_json::from_value(token.json.clone()).map_err(|error| problem(error.to_string()))?;
    Ok((slot, token))
}

/// Unseals what is in a token, and tests it on its keyslot.
fn unseal(
    device: &Path,
    number: u32,
    tpm: &mut Tpm,
    pcrs: &PcrPolicy,
    pin: Option<&Secret>,
) -> Result<(Slot, Secret), LuksError> {
    let problem =
        |problem: String| LuksError::Token { device: device.to_owned(), token: number, problem };
    let (slot, token) = read_token(device, number)?;
    let pin = match (pin, &token.salt) {
        (Some(pin), Some(salt)) => Some(salted_pin(pin, salt)),
        (None, None) => None,
        _ => return Err(problem("its PIN is not salted".to_owned())),
    };
    let srk = token.srk.as_deref().ok_or(TpmError::OtherTpm)?;
    let unsealing = Unsealing { blob: &token.blob, srk, policy: pcrs };
    let key = passphrase(&tpm.unseal(unsealing, pin.as_ref())?);
    match test_key(device, Some(slot), &key) {
        Ok(slot) => Ok((slot, key)),
        Err(LuksError::WrongKey { .. }) => {
            Err(LuksError::UnsealedOther { device: device.to_owned(), token: number })
        }
        Err(error) => Err(error),
    }
}

/// Makes a keyslot for a new recovery key; the key exists nowhere else. What other recovery keys
/// there are can't be known, so their keyslots stay.
///
/// # Errors
/// [`LuksError::WrongKey`] for the source. On failure neither keyslot nor token stays.
pub fn enroll_recovery(device: &Path, source: &Secret) -> Result<(Slot, RecoveryKey), LuksError> {
    let key = RecoveryKey::generate();
    let slot = add_key(device, source, key.secret(), &Kdf::Minimal)?;
    let outcome =
        add_token(device, &recovery(slot)).and_then(|_| test_key(device, Some(slot), key.secret()));
    if let Err(error) = outcome {
        undo_slot(device, slot);
        return Err(error);
    }
    Ok((slot, key))
}

/// The keyslots for recovery keys.
///
/// # Errors
/// The header can't be read.
pub fn recovery_slots(device: &Path) -> Result<Vec<Slot>, LuksError> {
    let tokens = dump(device)?.tokens.into_iter();
    Ok(tokens.filter(|token| token.kind == RECOVERY).flat_map(|token| token.keyslots).collect())
}

/// Makes a keyslot for a password, unless it opens one.
///
/// # Errors
/// [`LuksError::WeakPassword`], [`LuksError::WrongKey`] for the source.
pub fn enroll_password(
    device: &Path,
    source: &Secret,
    password: &Secret,
    kdf: &Kdf,
) -> Result<(Ensured, Slot), LuksError> {
    check_password(password)?;
    ensure_key(device, source, password, kdf)
}

/// Makes a keyslot for exactly the bytes of a key file that the layout names.
///
/// # Errors
/// [`LuksError::WrongKey`] for the source.
pub fn enroll_key_file(
    device: &Path,
    source: &Secret,
    contents: &Secret,
    kdf: &Kdf,
) -> Result<(Ensured, Slot), LuksError> {
    ensure_key(device, source, contents, kdf)
}

fn add_token(device: &Path, json: &serde_json::Value) -> Result<u32, LuksError> {
    Container::load(device)?.attempt("add a token to", |device| {
        device.token_handle().json_set(TokenInput::AddToken(json))
    })
}

/// What systemd makes of an unsealed secret: its base64 text is the passphrase.
fn passphrase(secret: &Secret) -> Secret {
    Secret::from(BASE64.encode(secret.expose()))
}

/// What systemd makes of a PIN since v253: the base64 text of its salted digest
/// (src/shared/tpm2-util.c `tpm2_util_pbkdf2_hmac_sha256`).
fn salted_pin(pin: &Secret, salt: &[u8]) -> Secret {
    let mut digest = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2::<Hmac<Sha256>>(pin.expose(), salt, PIN_ITERATIONS, digest.as_mut_slice())
        .expect("HMAC takes keys of any length");
    Secret::from(BASE64.encode(digest.as_slice()))
}

fn metadata(device: &Path, problem: String) -> LuksError {
    LuksError::Metadata { device: device.to_owned(), problem }
}
