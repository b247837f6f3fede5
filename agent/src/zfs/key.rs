//! Keys of encrypted datasets, as 32 bytes in memory.

use super::{
    Zfs,
    error::{Error, Result},
    ffi::{self, Dataset},
    material::{self, Derivation},
};
use crate::ensure::Ensured;
use keystone_protocol::secret::Secret;

/// Whether a dataset's key is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// The dataset is not encrypted.
    NotEncrypted,
    /// Loaded.
    Available,
    /// Not loaded.
    Unavailable,
}

impl Zfs {
    /// Whether the dataset's key is loaded.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn key_status(&self, name: &str) -> Result<KeyStatus> {
        Ok(match self.property(name, "keystatus")?.as_deref() {
            Some("available") => KeyStatus::Available,
            Some("unavailable") => KeyStatus::Unavailable,
            _ => KeyStatus::NotEncrypted,
        })
    }

    /// The dataset whose key encrypts this one; None if it is not encrypted.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn encryption_root(&self, name: &str) -> Result<Option<String>> {
        Ok(self.property(name, "encryptionroot")?.filter(|root| !root.is_empty()))
    }

    /// Whether the key opens the encryption root, without loading it (`zfs load-key -n`).
    ///
    /// # Errors
    /// [`Error::System`] for anything but a wrong key.
    pub fn verify_key(&self, name: &str, key: &[u8; 32]) -> Result<bool> {
        match ffi::load_key(&self.library, name, key, true) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(source) => {
                Err(Error::System { action: format!("verify the key of {name}"), source })
            }
        }
    }

    /// Loads the key of an encryption root. [`Ensured::AlreadySo`] if it is loaded and right.
    ///
    /// # Errors
    /// [`Error::WrongKey`], also if another key is loaded.
    pub fn ensure_key_loaded(&self, name: &str, key: &[u8; 32]) -> Result<Ensured> {
        if !self.verify_key(name, key)? {
            return Err(Error::WrongKey { dataset: name.to_owned() });
        }
        if self.key_status(name)? == KeyStatus::Available {
            return Ok(Ensured::AlreadySo);
        }
        match ffi::load_key(&self.library, name, key, false) {
            Ok(()) => Ok(Ensured::Created),
            Err(source) => Err(Error::System { action: format!("load the key of {name}"), source }),
        }
    }

    /// Loads the key of an encryption root from what its file or the operator holds: raw bytes, hex
    /// digits or a passphrase, as the dataset's `keyformat` says.
    ///
    /// # Errors
    /// [`Error::WrongKey`], [`Error::Invalid`] for a key that is none.
    pub fn ensure_key_material_loaded(&self, name: &str, key: &Secret) -> Result<Ensured> {
        let stored = Dataset::open(&self.library, name)?.stored()?;
        let number = |property: &str| stored.list(property).and_then(|p| p.u64("value"));
        let derivation = match (number("pbkdf2salt"), number("pbkdf2iters")) {
            (Some(salt), Some(iterations)) => Some(Derivation { salt, iterations }),
            _ => None,
        };
        let format = self.property(name, "keyformat")?.unwrap_or_default();
        let wrapping = material::wrapping_key(&format, key, derivation.as_ref())?;
        self.ensure_key_loaded(name, &wrapping)
    }

    /// Forgets the key of an encryption root; nothing encrypted with it may be mounted or open.
    ///
    /// # Errors
    /// [`Error::System`] with EBUSY while it is used: see [`Error::is_busy`].
    pub fn ensure_key_unloaded(&self, name: &str) -> Result<Ensured> {
        if self.key_status(name)? != KeyStatus::Available {
            return Ok(Ensured::AlreadySo);
        }
        ffi::unload_key(&self.library, name)?;
        Ok(Ensured::Created)
    }
}
