//! Ed25519 signatures of store paths and bundles.
//!
//! Formats (Nix manual, "Signing store paths"; src/libstore/path-info.cc, src/libutil/signature):
//! a public key is `name:base64` of 32 bytes, a secret key `name:base64` of the 32-byte seed and
//! the public key, a signature `name:base64` of 64 bytes. What is signed of a store path is its
//! fingerprint, `1;<path>;sha256:<nix32>;<NAR size>;<references, full, sorted, by commas>`; its
//! deriver and content address are not covered.

use super::nix32;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keystone_protocol::manifest::PathInfo;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// A key that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `name:base64`.
    #[error("{0:?} is not a public key: expected NAME:BASE64, as cache.example.org-1:…=")]
    Public(String),
    /// Not `name:base64` of a seed and its public key. What it is stays unsaid.
    #[error(
        "it holds no secret key: expected NAME:BASE64 of 64 bytes, as \
         nix-store --generate-binary-cache-key writes it"
    )]
    Secret,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its name, before the colon.
    pub name: String,
    key: [u8; 32],
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parsed = split::<32>(text.trim());
        let (name, key) = parsed.ok_or_else(|| KeyError::Public(text.to_owned()))?;
        Ok(PublicKey { name: name.to_owned(), key: *key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, STANDARD.encode(self.key))
    }
}

impl PublicKey {
    /// Whether `signature` (`name:base64`) is this key's of `message`.
    pub fn signed(&self, message: &[u8], signature: &str) -> bool {
        split::<64>(signature).is_some_and(|(name, bytes)| {
            let key = UnparsedPublicKey::new(&ED25519, self.key);
            name == self.name && key.verify(message, &bytes[..]).is_ok()
        })
    }
}

/// A secret key.
pub struct SecretKey {
    name: String,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = split::<64>(text.trim()).ok_or(KeyError::Secret)?;
        let (seed, public) = bytes.split_at(32);
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
        Ok(SecretKey { name: name.to_owned(), pair: pair.map_err(|_| KeyError::Secret)? })
    }
}

impl SecretKey {
    /// The signature of `message`, `name:base64`.
    pub fn sign(&self, message: &[u8]) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.pair.sign(message)))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        let key = self.pair.public_key().as_ref().try_into();
        PublicKey { name: self.name.clone(), key: key.expect("Ed25519's keys have 32 bytes") }
    }
}

/// `name:base64` of `N` bytes.
fn split<const N: usize>(text: &str) -> Option<(&str, Zeroizing<[u8; N]>)> {
    let (name, encoded) = text.split_once(':')?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    Some((name, Zeroizing::new(bytes.as_slice().try_into().ok()?)))
}

/// The name in a signature.
pub fn signer(signature: &str) -> &str {
    signature.split_once(':').map_or(signature, |(name, _)| name)
}

/// What is signed of a store path; `None` if its hash is none.
pub fn fingerprint(info: &PathInfo) -> Option<String> {
    let hash = hex::decode(&info.nar_sha256).ok().filter(|hash| hash.len() == 32)?;
    let mut references: Vec<&str> = info.references.iter().map(String::as_str).collect();
    references.sort_unstable();
    references.dedup();
    Some(format!(
        "1;{};sha256:{};{};{}",
        info.path,
        nix32::encode(&hash),
        info.nar_size,
        references.join(",")
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A key whose seed is `byte`, 32 times.
    pub(crate) fn key(name: &str, byte: u8) -> SecretKey {
        let seed = [byte; 32];
        let public = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let both = [&seed[..], public.public_key().as_ref()].concat();
        format!("{name}:{}", STANDARD.encode(both)).parse().unwrap()
    }

    #[test]
    fn signed_and_verified() {
        let (ours, theirs) = (key("cache-1", 1), key("cache-2", 2));
        let signature = ours.sign(b"message");
        assert_eq!(signer(&signature), "cache-1");
        assert!(ours.public().signed(b"message", &signature));
        assert!(!ours.public().signed(b"massage", &signature));
        assert!(!theirs.public().signed(b"message", &signature));
        // Under another's name it is not the other's.
        let renamed = signature.replace("cache-1", "cache-2");
        assert!(!theirs.public().signed(b"message", &renamed));
        assert!(!ours.public().signed(b"message", &renamed));
        assert_eq!(ours.public().to_string().parse::<PublicKey>().unwrap(), ours.public());
    }

    #[test]
    fn keys_that_are_none() {
        for bad in ["", "x", ":", "name:", "name:AAAA", ":AAAA", "na me:AAAA", "root@host"] {
            assert!(bad.parse::<PublicKey>().unwrap_err().to_string().contains("NAME:BASE64"));
            assert!(bad.parse::<SecretKey>().is_err());
        }
        // Seed and public key of different keys.
        let mixed = [[1u8; 32], [2; 32]].concat();
        assert!(format!("x:{}", STANDARD.encode(mixed)).parse::<SecretKey>().is_err());
        assert!(!format!("{:?}", key("k", 9)).contains("pair"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,120}", message: Vec<u8>) {
            let _ = text.parse::<SecretKey>();
            let _ = text.parse::<PublicKey>();
            prop_assert!(!key("k", 3).public().signed(&message, &text));
        }
    }
}
