//! Opening a container that is there already, whatever opens it.
//!
//! In the order in which nobody has to be asked: the TPM, the layout's key file; then a password
//! or recovery key that somebody is asked for.

use super::enroll::{tpm2_key, wants_pin};
use super::token::TPM2;
use super::{LuksError, dump, is_open, open, recovery};
use crate::block::find::Node;
use crate::ensure::Ensured;
use crate::tpm2::Tpm;
use keystone_protocol::secret::Secret;
use std::path::Path;

/// How often somebody is asked.
const TRIES: usize = 3;

/// What may open it.
pub struct Means<'a> {
    /// The TPM, if there is one.
    pub tpm: Option<&'a mut Tpm>,
    /// Its PIN, if one was given.
    pub pin: Option<&'a Secret>,
    /// The contents of the layout's key file, if it could be read.
    pub key_file: Option<&'a Secret>,
}

/// It can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError<E: std::error::Error + 'static> {
    /// The header can't be read, or something other than the key is wrong.
    #[error(transparent)]
    Luks(#[from] LuksError),
    /// Nobody could be asked.
    #[error("nothing opens the container {name}: {}", tried.join("; "))]
    Asking {
        /// Its mapper name.
        name: String,
        /// What was tried and why it failed.
        tried: Vec<String>,
        /// Why nobody answered.
        #[source]
        source: E,
    },
    /// What was given opens nothing.
    #[error("nothing that was given opens the container {name}: {}", tried.join("; "))]
    NoKey {
        /// Its mapper name.
        name: String,
        /// What was tried and why it failed.
        tried: Vec<String>,
    },
}

/// Opens the container on `device` as `name`, unless it is open. `ask` gets what was tried so far
/// and returns a password or recovery key.
///
/// # Errors
/// See [`UnlockError`].
pub fn unlock<E: std::error::Error + 'static>(
    device: &Path,
    name: &str,
    mut means: Means<'_>,
    ask: &mut dyn FnMut(&[String]) -> Result<Secret, E>,
) -> Result<(Ensured, Node), UnlockError<E>> {
    if let Some(node) = is_open(device, name)? {
        return Ok((Ensured::AlreadySo, node));
    }
    let mut tried = Vec::new();
    for token in dump(device)?.tokens.iter().filter(|token| token.kind == TPM2) {
        match by_tpm2(device, token.number, &mut means) {
            Ok(key) => return Ok(open(device, name, &key)?),
            Err(why) => tried.push(why),
        }
    }
    if let Some(key) = means.key_file {
        match open(device, name, key) {
            Err(LuksError::WrongKey { .. }) => {
                tried.push("the layout's key file does not open it".to_owned());
            }
            other => return Ok(other?),
        }
    }
    for _ in 0..TRIES {
        let key = ask(&tried).map_err(|source| UnlockError::Asking {
            name: name.to_owned(),
            tried: tried.clone(),
            source,
        })?;
        for key in recovery::readings(&key) {
            match open(device, name, &key) {
                Err(LuksError::WrongKey { .. }) => {}
                other => return Ok(other?),
            }
        }
        tried.push("what was given does not open it".to_owned());
    }
    Err(UnlockError::NoKey { name: name.to_owned(), tried })
}

fn by_tpm2(device: &Path, number: u32, means: &mut Means<'_>) -> Result<Secret, String> {
    let why = |error: LuksError| {
        let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        causes.fold(format!("the TPM does not open it: {error}"), |said, cause| {
            let cause = cause.to_string();
            if said.ends_with(&cause) { said } else { format!("{said}: {cause}") }
        })
    };
    let Some(tpm) = means.tpm.as_deref_mut() else {
        return Err("it is opened by a TPM, and there is none here".to_owned());
    };
    // An attempt without the PIN would count against the TPM's lockout.
    if wants_pin(device, number).map_err(why)? && means.pin.is_none() {
        return Err("the TPM wants a PIN to open it, and none was given".to_owned());
    }
    tpm2_key(device, number, tpm, means.pin).map_err(why)
}
