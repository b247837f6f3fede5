//! `.narinfo`: what a binary cache says of a store path.
//!
//! Source: Nix, src/libstore/nar-info.cc: lines `Key: value`; `References` and `Deriver` are base
//! names; a compression that is missing or empty is bzip2; unknown keys are passed over.

use super::nix32;
use keystone_fetch::Told;
use keystone_protocol::fetch::Compression;
use keystone_protocol::manifest::PathInfo;
use keystone_protocol::nar;
use keystone_protocol::store_path::{self, STORE_DIR};
use std::fmt;
use thiserror::Error;

/// The longest narinfo that is read, in bytes: ten thousand references are two megabytes.
pub const MAX_LENGTH: usize = 4 << 20;

/// A text that is no narinfo.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NarInfoError {
    /// A line without a key.
    #[error("line {0} has no 'Key: value'")]
    Line(usize),
    /// A key that must be there once.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A key twice.
    #[error("{0} stands there twice")]
    Twice(&'static str),
    /// A value that can't be.
    #[error("{key} can't be {value:?}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What stands there.
        value: String,
    },
}

/// A narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path, as the manifest has it.
    pub info: PathInfo,
    /// Where the NAR is, relative to the cache; never out of it.
    pub url: String,
    /// How it is compressed.
    pub compression: Compression,
    /// SHA-256 of the compressed file, if told.
    pub file_sha256: Option<[u8; 32]>,
    /// Its length in bytes, if told.
    pub file_size: Option<u64>,
}

/// The values of the keys that are known.
#[derive(Default)]
struct Fields<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    ca: Option<&'a str>,
    signatures: Vec<String>,
}

impl NarInfo {
    /// What it says of the compressed file.
    pub fn told(&self) -> Told {
        Told { size: self.file_size, sha256: self.file_sha256 }
    }

    /// Reads a narinfo.
    pub fn parse(text: &str) -> Result<Self, NarInfoError> {
        let fields = Fields::read(text)?;
        let required = |key, value: Option<_>| value.ok_or(NarInfoError::Missing(key));
        let bad = |key, value: &str| NarInfoError::Value {
            key,
            value: value.chars().take(200).collect(),
        };
        let number = |key, value: &str| -> Result<u64, NarInfoError> {
            // `+1` is a number to Rust and none to Nix.
            let digits = value.bytes().all(|b| b.is_ascii_digit());
            value.parse().ok().filter(|_| digits).ok_or_else(|| bad(key, value))
        };

        let path = required("StorePath", fields.store_path)?;
        store_path::base_name(path).ok_or_else(|| bad("StorePath", path))?;
        let url = required("URL", fields.url)?;
        if !stays_inside(url) {
            return Err(bad("URL", url));
        }
        let compression = match fields.compression.unwrap_or_default() {
            "" => Compression::Bzip2,
            name => *(Compression::ALL.iter().find(|c| c.name() == name))
                .ok_or_else(|| bad("Compression", name))?,
        };
        let hash = |key, text: &str| nix32::sha256(text).ok_or_else(|| bad(key, text));
        let nar_hash = required("NarHash", fields.nar_hash)?;
        let nar_sha256 = hex::encode(hash("NarHash", nar_hash)?);
        let nar_size = required("NarSize", fields.nar_size)?;
        let nar_size = match number("NarSize", nar_size)? {
            size if size < nar::SMALLEST || size > i64::MAX as u64 => {
                return Err(bad("NarSize", nar_size));
            }
            size => size,
        };
        let full = |key, name: &str| {
            let path = format!("{STORE_DIR}/{name}");
            store_path::base_name(&path).ok_or_else(|| bad(key, name))?;
            Ok::<_, NarInfoError>(path)
        };
        let references = fields.references.unwrap_or_default().split_ascii_whitespace();
        let mut references = references
            .map(|name| full("References", name))
            .collect::<Result<Vec<String>, NarInfoError>>()?;
        references.sort_unstable();
        references.dedup();
        let deriver = match fields.deriver.unwrap_or_default() {
            "" | "unknown-deriver" => None,
            name => Some(full("Deriver", name)?),
        };
        let graphic = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if let Some(signature) = fields.signatures.iter().find(|s| !s.contains(':') || !graphic(s))
        {
            return Err(bad("Sig", signature));
        }
        let ca = fields.ca.filter(|ca| !ca.is_empty());
        if let Some(ca) = ca.filter(|ca| !graphic(ca)) {
            return Err(bad("CA", ca));
        }
        Ok(NarInfo {
            url: url.to_owned(),
            compression,
            file_sha256: fields.file_hash.map(|text| hash("FileHash", text)).transpose()?,
            file_size: fields.file_size.map(|text| number("FileSize", text)).transpose()?,
            info: PathInfo {
                path: path.to_owned(),
                nar_sha256,
                nar_size,
                references,
                deriver,
                signatures: fields.signatures,
                ca: ca.map(str::to_owned),
            },
        })
    }
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, NarInfoError> {
        let mut fields = Fields::default();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(NarInfoError::Line(index + 1))?;
            let value = value.trim_matches([' ', '\t', '\r']);
            let (key, field) = match key {
                "StorePath" => ("StorePath", &mut fields.store_path),
                "URL" => ("URL", &mut fields.url),
                "Compression" => ("Compression", &mut fields.compression),
                "FileHash" => ("FileHash", &mut fields.file_hash),
                "FileSize" => ("FileSize", &mut fields.file_size),
                "NarHash" => ("NarHash", &mut fields.nar_hash),
                "NarSize" => ("NarSize", &mut fields.nar_size),
                "References" => ("References", &mut fields.references),
                "Deriver" => ("Deriver", &mut fields.deriver),
                "CA" => ("CA", &mut fields.ca),
                "Sig" => {
                    fields.signatures.push(value.to_owned());
                    continue;
                }
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(NarInfoError::Twice(key));
            }
        }
        Ok(fields)
    }
}

/// Whether it is a relative path without anything that leads elsewhere.
fn stays_inside(url: &str) -> bool {
    !url.is_empty()
        && url.len() <= 1024
        // No scheme, no query, no escapes, no control characters.
        && url.bytes().all(|b| b.is_ascii_graphic() && !b":?#%\\".contains(&b))
        && url.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl fmt::Display for NarInfo {
    /// As Nix writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let info = &self.info;
        let nar_hash = hex::decode(&info.nar_sha256).map_err(|_| fmt::Error)?;
        writeln!(f, "StorePath: {}", info.path)?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression.name())?;
        if let Some(hash) = self.file_sha256 {
            writeln!(f, "FileHash: sha256:{}", nix32::encode(&hash))?;
        }
        if let Some(size) = self.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
        writeln!(f, "NarHash: sha256:{}", nix32::encode(&nar_hash))?;
        writeln!(f, "NarSize: {}", info.nar_size)?;
        let references: Vec<String> = info.references.iter().map(|path| base(path)).collect();
        writeln!(f, "References: {}", references.join(" "))?;
        if let Some(deriver) = &info.deriver {
            writeln!(f, "Deriver: {}", base(deriver))?;
        }
        for signature in &info.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        match &info.ca {
            Some(ca) => writeln!(f, "CA: {ca}"),
            None => Ok(()),
        }
    }
}

/// What a fuzzer calls: no bytes make the reader panic, and what it takes it writes and reads
/// again as the same.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = NarInfo::parse(text) else { return };
    let written = read.to_string();
    assert_eq!(NarInfo::parse(&written).as_ref(), Ok(&read), "{written}");
}

#[cfg(test)]
#[path = "narinfo_tests.rs"]
mod tests;
