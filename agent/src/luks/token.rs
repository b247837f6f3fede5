//! systemd's tokens: which keyslot is opened by what.
//!
//! Fields and their names: systemd v257 src/shared/tpm2-util.c `tpm2_make_luks2_json` and
//! `tpm2_parse_luks2_json`, src/cryptenroll/cryptenroll-recovery.c. `tpm2_srk` has been read since
//! v254, `tpm2_salt` since v253; optional fields are left out as systemd leaves them out.

use super::Slot;
use crate::tpm2::{PcrPolicy, Sealed};
use serde::{Deserialize, Serialize};

/// Type of a token whose keyslot the TPM opens.
pub const TPM2: &str = "systemd-tpm2";
/// Type of a token whose keyslot a recovery key opens.
pub const RECOVERY: &str = "systemd-recovery";

/// A `systemd-tpm2` token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm2Token {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    #[serde(rename = "tpm2-blob", with = "base64_text")]
    pub(super) blob: Vec<u8>,
    #[serde(rename = "tpm2-pcrs")]
    pub(super) pcrs: Vec<u8>,
    #[serde(rename = "tpm2-pcr-bank", skip_serializing_if = "Option::is_none")]
    pub(super) bank: Option<String>,
    /// Algorithm of the primary key. Read only where there is no storage root key; written all
    /// the same.
    #[serde(rename = "tpm2-primary-alg", skip_serializing_if = "Option::is_none")]
    primary_algorithm: Option<String>,
    #[serde(rename = "tpm2-policy-hash", with = "hex_text")]
    policy_hash: Vec<u8>,
    #[serde(rename = "tpm2-pin", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) pin: bool,
    #[serde(
        rename = "tpm2_salt",
        default,
        with = "optional_base64_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) salt: Option<Vec<u8>>,
    #[serde(
        rename = "tpm2_srk",
        default,
        with = "optional_base64_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) srk: Option<Vec<u8>>,
}

impl Tpm2Token {
    /// The token of a keyslot whose key was sealed; `salt` is that of the PIN, if there is one.
    pub fn new(slot: Slot, sealed: Sealed, policy: &PcrPolicy, salt: Option<Vec<u8>>) -> Self {
        Tpm2Token {
            kind: TPM2.to_owned(),
            keyslots: vec![slot.to_string()],
            blob: sealed.blob,
            pcrs: policy.pcrs().to_vec(),
            bank: (!policy.pcrs().is_empty()).then(|| policy.bank().to_owned()),
            primary_algorithm: Some(sealed.srk_algorithm.to_owned()),
            policy_hash: sealed.policy_hash.to_vec(),
            pin: salt.is_some(),
            salt,
            srk: Some(sealed.srk),
        }
    }
}

/// A `systemd-recovery` token.
pub(super) fn recovery(slot: Slot) -> serde_json::Value {
    serde_json::json!({ "type": RECOVERY, "keyslots": [slot.to_string()] })
}

mod hex_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(de::Error::custom)
    }
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?).map_err(de::Error::custom)
    }
}

mod optional_base64_text {
    use super::base64_text;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => base64_text::serialize(bytes, out),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        base64_text::deserialize(from).map(Some)
    }
}
