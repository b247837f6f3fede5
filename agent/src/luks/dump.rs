//! What is in a header.

use super::LuksError;
use super::Slot;
use super::container::Container;
use serde_json::Value;
use std::path::Path;

/// A header, without anything random but the UUID.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Header {
    /// The container's UUID.
    pub uuid: uuid::Uuid,
    /// Cipher and mode of the data, `aes-xts-plain64`.
    pub cipher: String,
    /// Encryption sector, in bytes.
    pub sector_size: u32,
    /// Where the data begin, in bytes.
    pub data_offset: u64,
    /// Keyslots, ascending.
    pub keyslots: Vec<Keyslot>,
    /// Tokens, ascending.
    pub tokens: Vec<Token>,
}

/// A keyslot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Keyslot {
    /// Its number.
    pub number: Slot,
    /// Length of the volume key, in bits.
    pub key_bits: u32,
    /// How its key is derived.
    pub kdf: KeyslotKdf,
}

/// How a keyslot's key is derived.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum KeyslotKdf {
    /// PBKDF2.
    Pbkdf2 {
        /// Of which hash.
        hash: String,
        /// Iterations.
        iterations: u32,
    },
    /// Argon2.
    Argon2 {
        /// `argon2i` or `argon2id`.
        variant: String,
        /// Iterations.
        time: u32,
        /// Memory, in KiB.
        memory: u32,
        /// Threads.
        cpus: u32,
    },
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Token {
    /// Its number.
    pub number: u32,
    /// Its type: `systemd-tpm2`, `systemd-recovery`.
    pub kind: String,
    /// The keyslots that it is for.
    pub keyslots: Vec<Slot>,
    /// All of it.
    #[serde(skip)]
    pub json: Value,
}

impl Header {
    /// The token that a keyslot belongs to.
    pub fn token_of(&self, slot: Slot) -> Option<&Token> {
        self.tokens.iter().find(|token| token.keyslots.contains(&slot))
    }

    /// Keyslots and what opens them: a token's type without `systemd-`, or `password`.
    pub fn keyslot_kinds(&self) -> std::collections::BTreeMap<Slot, String> {
        let kind = |slot: &Keyslot| match self.token_of(slot.number) {
            Some(token) => token.kind.trim_start_matches("systemd-").to_owned(),
            None if slot.number == super::BOOTSTRAP_SLOT => "bootstrap".to_owned(),
            None => "password".to_owned(),
        };
        self.keyslots.iter().map(|slot| (slot.number, kind(slot))).collect()
    }
}

/// Reads a container's header.
///
/// # Errors
/// [`LuksError::NotLuks`], [`LuksError::Metadata`].
pub fn dump(device: &Path) -> Result<Header, LuksError> {
    let mut container = Container::load(device)?;
    let uuid = container.uuid()?;
    let json =
        container.attempt("read the metadata of", |device| device.status_handle().dump_json())?;
    parse(uuid, &json).map_err(|problem| LuksError::Metadata { device: device.to_owned(), problem })
}

/// Parses the JSON area (LUKS2 On-Disk Format Specification 1.1.1, section 3).
fn parse(uuid: uuid::Uuid, json: &Value) -> Result<Header, String> {
    let segment = &json["segments"]["0"];
    let mut keyslots = Vec::new();
    for (number, slot) in numbered(&json["keyslots"])? {
        let kdf = &slot["kdf"];
        let number_of = |name: &str| small(&kdf[name]).ok_or(format!("kdf.{name}"));
        let kdf = match text(&kdf["type"]).ok_or("kdf.type")?.as_str() {
            "pbkdf2" => KeyslotKdf::Pbkdf2 {
                hash: text(&kdf["hash"]).ok_or("kdf.hash")?,
                iterations: number_of("iterations")?,
            },
            variant => KeyslotKdf::Argon2 {
                variant: variant.to_owned(),
                time: number_of("time")?,
                memory: number_of("memory")?,
                cpus: number_of("cpus")?,
            },
        };
        let key_bits = small(&slot["key_size"]).ok_or("key_size")? * 8;
        keyslots.push(Keyslot { number, key_bits, kdf });
    }
    let mut tokens = Vec::new();
    for (number, token) in numbered(&json["tokens"])? {
        let keyslots = token["keyslots"].as_array().ok_or("keyslots of a token")?;
        let keyslots = keyslots.iter().map(|slot| slot.as_str()?.parse().ok());
        tokens.push(Token {
            number,
            kind: text(&token["type"]).ok_or("type of a token")?,
            keyslots: keyslots.collect::<Option<_>>().ok_or("keyslots of a token")?,
            json: token.clone(),
        });
    }
    Ok(Header {
        uuid,
        cipher: text(&segment["encryption"]).ok_or("segments.0.encryption")?,
        sector_size: small(&segment["sector_size"]).ok_or("segments.0.sector_size")?,
        data_offset: text(&segment["offset"])
            .and_then(|offset| offset.parse().ok())
            .ok_or("segments.0.offset")?,
        keyslots,
        tokens,
    })
}

/// An object's entries by number, ascending.
fn numbered(object: &Value) -> Result<std::collections::BTreeMap<u32, &Value>, String> {
    let entries = object.as_object().ok_or("not an object")?.iter();
    entries
        .map(|(key, value)| Ok((key.parse().map_err(|_| format!("{key} is no number"))?, value)))
        .collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn small(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}
