//! Bytes that must not be printed, logged or left in memory.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

/// Keeps this process's memory out of core dumps and away from debuggers, as both ends do before
/// anything else. What it executes dumps nothing either.
///
/// Source: prctl(2), `PR_SET_DUMPABLE`; core(5): a limit of 0 does not stop a dump into a pipe.
pub fn keep_memory_private() {
    let dumpable = set_dumpable(false);
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    debug_assert!(dumpable.is_ok() && limit.is_ok(), "{dumpable:?} {limit:?}");
}

/// A key, password or recovery key. Zeroed when dropped; `Debug` shows only its length.
///
/// Serialised (base64) only into protocol messages, whose buffers the frame layer zeroes. It
/// must not be a part of anything that is printed: plans, events, reports, logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes. Do not copy them into anything that outlives the call.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Secret::new(bytes)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret::new(text.into_bytes())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.expose()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(&text);
        text.zeroize();
        bytes.map(Secret::new).map_err(|_| serde::de::Error::custom("a secret is not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_and_serde_round_trips() {
        let secret = Secret::new(b"correct horse".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(13 bytes)");
        let json = serde_json::to_string(&secret).unwrap();
        assert!(!json.contains("horse"));
        assert_eq!(serde_json::from_str::<Secret>(&json).unwrap(), secret);
    }
}
