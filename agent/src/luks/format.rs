//! Making a container.

use super::container::Container;
use super::slot::{Kdf, test_key};
use super::{LuksError, Slot};
use crate::ensure::Ensured;
use crate::tpm2::random;
use keystone_protocol::plan::{LuksFormat, LuksPbkdf};
use keystone_protocol::secret::Secret;
use libcryptsetup_rs::consts::flags::CryptVolumeKey;
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptParamsLuks2, CryptParamsLuks2Ref, Either};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// Where the ephemeral key of a bootstrap slot is: LUKS2's last keyslot, so that the lasting ones
/// are numbered from 0 as if it had never been there.
pub const BOOTSTRAP_SLOT: Slot = 31;

/// Volume key of AES-XTS with 256-bit AES: two keys.
const VOLUME_KEY_BYTES: usize = 64;

/// Both copies of the header's metadata as libcryptsetup lays them out by default: 16 KiB each.
const HEADERS_BYTES: usize = 2 * 16 * 1024;

/// What the first keyslot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSlot {
    /// For an ephemeral random key: [`BOOTSTRAP_SLOT`], quickly derived, since it is as strong as
    /// the volume key and is removed before the container holds anything.
    Bootstrap,
    /// For a key that stays, keyslot 0, as `luksFormat` makes it: argon2id.
    Lasting,
}

/// A key for [`FirstSlot::Bootstrap`], as strong as the volume key: 256 random bits, only here.
pub fn ephemeral_key() -> Secret {
    let bytes = Zeroizing::new(random::<32>());
    Secret::new(bytes.to_vec())
}

/// Makes a LUKS2 container that `key` opens, unless there is one that it opens.
///
/// The defaults are those of `cryptsetup luksFormat` 2.7 (lib/libcryptsetup.h,
/// src/cryptsetup.c): aes-xts-plain64 with 512-bit key, SHA-256, argon2id benchmarked for two
/// seconds and limited to half of the memory, the encryption sector size that suits the device,
/// data at 16 MiB. They are libcryptsetup's own where it has them.
///
/// # Errors
/// [`LuksError::OtherContainer`] if there is a container that the key does not open. If it fails
/// half-way, the unfinished header is erased.
pub fn format(device: &Path, first: FirstSlot, key: &Secret) -> Result<Ensured, LuksError> {
    format_as(device, first, key, &LuksFormat::default())
}

/// As [`format`], with what the layout's `extraFormatArgs` say; its key derivation is for lasting
/// keyslots.
///
/// # Errors
/// As [`format`]; [`LuksError::Option`] for what LUKS2 does not have.
pub fn format_as(
    device: &Path,
    first: FirstSlot,
    key: &Secret,
    wanted: &LuksFormat,
) -> Result<Ensured, LuksError> {
    if let Some(mut found) = Container::find(device)? {
        return match test_key(device, None, key) {
            Ok(_) => Ok(Ensured::AlreadySo),
            Err(LuksError::WrongKey { .. }) => {
                Err(LuksError::OtherContainer { device: device.to_owned(), uuid: found.uuid()? })
            }
            Err(error) => Err(error),
        };
    }
    let mut container = Container::blank(device)?;
    let outcome = write(&mut container, first, key, wanted);
    drop(container);
    if let Err(error) = outcome.and_then(|slot| test_key(device, Some(slot), key)) {
        if let Err(erase) = erase_headers(device) {
            tracing::error!(error = %erase, "an unfinished LUKS2 header stays");
        }
        return Err(error);
    }
    Ok(Ensured::Created)
}

fn write(
    container: &mut Container,
    first: FirstSlot,
    key: &Secret,
    wanted: &LuksFormat,
) -> Result<Slot, LuksError> {
    if wanted.version.is_some_and(|version| version != 2) {
        return Err(LuksError::Option("LUKS1: GRUB reads LUKS2 with `--pbkdf pbkdf2` too".into()));
    }
    let lasting = lasting_kdf(wanted);
    // Its hash is that of the volume key's digest too.
    lasting.set(container)?;
    let params = CryptParamsLuks2 {
        // As set before: libcryptsetup's choice where nothing was.
        pbkdf: None,
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: None,
        sector_size: wanted.sector_size.unwrap_or(0),
        label: wanted.label.clone(),
        subsystem: wanted.subsystem.clone(),
    };
    let cipher = wanted.cipher.as_deref().unwrap_or("aes-xts-plain64");
    let (cipher, mode) = cipher
        .split_once('-')
        .ok_or_else(|| LuksError::Option(format!("the cipher {cipher} without a mode")))?;
    let uuid = wanted.uuid.as_deref().map(str::parse).transpose();
    let uuid = uuid.map_err(|_| LuksError::Option(format!("the UUID {:?}", wanted.uuid)))?;
    let bytes = wanted.key_size.map_or(VOLUME_KEY_BYTES, |bits| bits as usize / 8);
    container.attempt("format", |device| {
        let mut params: CryptParamsLuks2Ref<'_> = (&params).try_into()?;
        device.context_handle().format(
            EncryptionFormat::Luks2,
            (cipher, mode),
            uuid,
            Either::Right(bytes),
            Some(&mut params),
        )
    })?;
    let (slot, kdf) = match first {
        FirstSlot::Bootstrap => (BOOTSTRAP_SLOT, Kdf::Minimal),
        FirstSlot::Lasting => (0, lasting),
    };
    kdf.set(container)?;
    container.attempt("add the first keyslot to", |device| {
        let volume_key = None;
        let flags = CryptVolumeKey::empty();
        device.keyslot_handle().add_by_key(Some(slot), volume_key, key.expose(), flags)
    })
}

/// The key derivation of the lasting keyslots of a container that was formatted so.
pub fn lasting_kdf(format: &LuksFormat) -> Kdf {
    if format.pbkdf == LuksPbkdf::default() && format.hash.is_none() {
        Kdf::Argon2id
    } else {
        Kdf::Chosen { pbkdf: format.pbkdf.clone(), hash: format.hash.clone() }
    }
}

fn erase_headers(device: &Path) -> Result<(), LuksError> {
    let erase = || {
        let mut file = std::fs::OpenOptions::new().write(true).open(device)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[0; HEADERS_BYTES])?;
        file.sync_all()
    };
    erase().map_err(|source| LuksError::Erase { device: device.to_owned(), source })
}
