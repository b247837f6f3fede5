//! From the key that a file or an operator holds to the 32 bytes that the kernel takes.
//!
//! Source: zfsprops(7), `keyformat`, and OpenZFS 2.3 `lib/libzfs/libzfs_crypto.c`
//! (`get_key_material`, `derive_key`, `populate_create_encryption_params_nvlists`).

use super::error::{Error, Result};
use hmac::Hmac;
use keystone_protocol::secret::Secret;
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha1::Sha1;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use zeroize::Zeroizing;

/// `DEFAULT_PBKDF2_ITERATIONS` and `MIN_PBKDF2_ITERATIONS` of OpenZFS.
const DEFAULT_ITERATIONS: u64 = 350_000;
const LEAST_ITERATIONS: u64 = 100_000;

/// How a key is derived from a passphrase: PBKDF2 of HMAC-SHA1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derivation {
    /// Property `pbkdf2salt`.
    pub salt: u64,
    /// Property `pbkdf2iters`.
    pub iterations: u64,
}

/// The wrapping key.
///
/// # Errors
/// [`Error::Invalid`] if the key has not the format.
pub fn wrapping_key(
    format: &str,
    key: &Secret,
    derivation: Option<&Derivation>,
) -> Result<Zeroizing<[u8; 32]>> {
    let mut wrapping = Zeroizing::new([0; 32]);
    match format {
        "raw" => {
            if key.len() != 32 {
                return invalid(format!("a raw key has 32 bytes, this one {}", key.len()));
            }
            wrapping.copy_from_slice(key.expose());
        }
        "hex" => {
            let digits = without_newline(key.expose());
            if hex::decode_to_slice(digits, wrapping.as_mut_slice()).is_err() {
                return invalid("a hex key has 64 hexadecimal digits".into());
            }
        }
        "passphrase" => {
            let passphrase = without_newline(key.expose());
            if !(8..=512).contains(&passphrase.len()) {
                let count = passphrase.len();
                return invalid(format!("a passphrase has 8 to 512 bytes, this one {count}"));
            }
            let Some(Derivation { salt, iterations }) = derivation else {
                return invalid("the dataset does not say how its key is derived".into());
            };
            let rounds = u32::try_from(*iterations)
                .map_err(|_| Error::Invalid(format!("{iterations} iterations are too many")))?;
            let salt = salt.to_le_bytes();
            pbkdf2::pbkdf2::<Hmac<Sha1>>(passphrase, &salt, rounds, wrapping.as_mut_slice())
                .expect("HMAC takes keys of any length");
        }
        other => return invalid(format!("there is no keyformat {other:?}")),
    }
    Ok(wrapping)
}

/// What `zfs create` adds to the properties of a new encryption root, and for a passphrase how
/// its key will be derived, with a new salt.
///
/// # Errors
/// [`Error::Invalid`] for properties that don't fit together.
pub fn complete(
    properties: &BTreeMap<String, String>,
) -> Result<(BTreeMap<String, String>, Option<Derivation>)> {
    let mut complete = properties.clone();
    let iterations = complete.remove("pbkdf2iters");
    complete.remove("pbkdf2salt");
    complete.entry("keylocation".into()).or_insert_with(|| "prompt".into());
    complete.entry("encryption".into()).or_insert_with(|| "on".into());
    let Some(format) = complete.get("keyformat") else {
        return invalid("an encryption root needs a keyformat".into());
    };
    if format != "passphrase" {
        if iterations.is_some() {
            return invalid(format!("pbkdf2iters is for a passphrase, not for keyformat={format}"));
        }
        return Ok((complete, None));
    }
    let iterations = match iterations {
        None => DEFAULT_ITERATIONS,
        Some(text) => match text.parse() {
            Ok(number) if number >= LEAST_ITERATIONS => number,
            _ => return invalid(format!("pbkdf2iters is at least {LEAST_ITERATIONS}, not {text}")),
        },
    };
    Ok((complete, Some(Derivation { salt: rand::random(), iterations })))
}

/// A file that is only in memory and that holds the key, and its URI for this process.
///
/// # Errors
/// [`Error::System`] if there is no memory for it.
pub fn in_memory(key: &Secret) -> Result<(File, String)> {
    let failed = |source| Error::System { action: "keep a key in memory".into(), source };
    let descriptor = memfd_create(c"key", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut file = File::from(descriptor);
    file.write_all(key.expose()).and_then(|()| file.rewind()).map_err(failed)?;
    let location = format!("file:///proc/self/fd/{}", file.as_raw_fd());
    Ok((file, location))
}

fn without_newline(key: &[u8]) -> &[u8] {
    key.strip_suffix(b"\n").unwrap_or(key)
}

fn invalid<T>(reason: String) -> Result<T> {
    Err(Error::Invalid(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: &str, key: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        // RFC 6070's vectors have other salts; this one is what OpenSSL computes, see below.
        let derivation = Derivation { salt: 0x0807_0605_0403_0201, iterations: 1000 };
        wrapping_key(format, &Secret::new(key.to_vec()), Some(&derivation))
    }

    #[test]
    fn formats() {
        assert_eq!(*of("raw", &[7; 32]).unwrap(), [7; 32]);
        assert_eq!(*of("hex", "ab".repeat(32).as_bytes()).unwrap(), [0xab; 32]);
        assert_eq!(*of("hex", (("AB").repeat(32) + "\n").as_bytes()).unwrap(), [0xab; 32]);
        for (format, key) in
            [("raw", &[7; 31][..]), ("hex", b"abcd"), ("passphrase", b"short"), ("base64", b"AAAA")]
        {
            assert!(matches!(of(format, key), Err(Error::Invalid(_))), "{format}");
        }
    }

    /// The same by another implementation, as libzfs calls it.
    #[test]
    fn a_passphrase_is_derived_as_libzfs_does() {
        let ours = hex::encode(*of("passphrase", b"disko-passphrase\n").unwrap());
        let theirs = crate::testing::run(
            "openssl",
            "openssl",
            &[
                "kdf",
                "-keylen",
                "32",
                "-kdfopt",
                "digest:SHA1",
                "-kdfopt",
                "pass:disko-passphrase",
                "-kdfopt",
                "hexsalt:0102030405060708",
                "-kdfopt",
                "iter:1000",
                "PBKDF2",
            ],
        );
        assert_eq!(ours, theirs.trim().replace(':', "").to_lowercase());
    }

    #[test]
    fn encryption_roots_are_complete() {
        let of = |pairs: &[(&str, &str)]| {
            complete(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
        };
        let (properties, derivation) = of(&[("keyformat", "passphrase")]).unwrap();
        assert_eq!(
            (properties["keylocation"].as_str(), properties["encryption"].as_str()),
            ("prompt", "on")
        );
        assert_eq!(derivation.unwrap().iterations, 350_000);
        let (properties, derivation) =
            of(&[("keyformat", "passphrase"), ("pbkdf2iters", "100000")]).unwrap();
        assert!(!properties.contains_key("pbkdf2iters"));
        assert_eq!(derivation.unwrap().iterations, 100_000);
        assert_eq!(of(&[("keyformat", "hex")]).unwrap().1, None);
        for bad in [
            &[][..],
            &[("keyformat", "raw"), ("pbkdf2iters", "350000")],
            &[("keyformat", "passphrase"), ("pbkdf2iters", "1000")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_in_memory_is_read_by_its_uri() {
        let (file, location) = in_memory(&Secret::new(b"0123456789".to_vec())).unwrap();
        let path = location.strip_prefix("file://").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"0123456789");
        drop(file);
        assert!(std::fs::read(path).is_err());
    }
}
