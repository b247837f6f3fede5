//! A manifest that was looked through.

use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::nar;
use keystone_protocol::store_path::base_name;
use std::collections::{HashMap, HashSet};
use thiserror::Error;

/// A manifest that does not describe a closure.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Something that has to be a store path is none.
    #[error("the manifest's {what} {path:?} is not a store path")]
    NotAStorePath {
        /// What it was to be.
        what: &'static str,
        /// What it is.
        path: String,
    },
    /// A path twice.
    #[error("the manifest lists {0} twice")]
    Twice(String),
    /// A hash that is none.
    #[error("the manifest's hash of {path} is not 64 lower-case hex digits: {hash:?}")]
    Hash {
        /// Of which path.
        path: String,
        /// What stands there.
        hash: String,
    },
    /// A size that no NAR has.
    #[error("the manifest's size of {path} can't be: {size} bytes")]
    Size {
        /// Of which path.
        path: String,
        /// What stands there.
        size: u64,
    },
    /// A reference to a path that is not there.
    #[error("{path} refers to {reference}, which the manifest lacks: not a closure")]
    Open {
        /// Which path.
        path: String,
        /// What it refers to.
        reference: String,
    },
    /// A signature or content address that the database could not keep.
    #[error("the manifest's {what} of {path} is malformed: {value:?}")]
    Field {
        /// Of which path.
        path: String,
        /// Which field.
        what: &'static str,
        /// What stands there.
        value: String,
    },
    /// The system is not among the paths.
    #[error("the manifest lacks {0}, the system to install")]
    NoToplevel(String),
    /// More paths than a block can number.
    #[error("the manifest has {0} paths, more than can be numbered")]
    TooMany(usize),
}

/// A path of the closure.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What the manifest says.
    pub info: &'a PathInfo,
    /// The path's name in the store directory.
    pub base: &'a str,
    /// SHA-256 of the NAR.
    pub sha256: [u8; 32],
    /// References as positions in [`Closure::entries`], each once.
    pub references: Vec<usize>,
}

/// A manifest whose every path is a store path and whose every reference is in it.
#[derive(Debug)]
pub struct Closure<'a> {
    /// The paths, in the manifest's order.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> Closure<'a> {
    /// Looks a manifest through.
    pub fn check(manifest: &'a Manifest) -> Result<Self, ManifestError> {
        let paths = &manifest.paths;
        if u32::try_from(paths.len()).is_err() {
            return Err(ManifestError::TooMany(paths.len()));
        }
        let mut index = HashMap::with_capacity(paths.len());
        for (i, info) in paths.iter().enumerate() {
            if index.insert(info.path.as_str(), i).is_some() {
                return Err(ManifestError::Twice(info.path.clone()));
            }
        }
        if !index.contains_key(manifest.toplevel.as_str()) {
            return Err(ManifestError::NoToplevel(manifest.toplevel.clone()));
        }
        let entries = paths.iter().map(|info| entry(info, &index)).collect::<Result<_, _>>()?;
        Ok(Closure { entries })
    }
}

fn entry<'a>(info: &'a PathInfo, index: &HashMap<&str, usize>) -> Result<Entry<'a>, ManifestError> {
    let path = &info.path;
    let store_path = |what, path: &'a str| {
        base_name(path).ok_or_else(|| ManifestError::NotAStorePath { what, path: path.to_owned() })
    };
    let field = |what, value: &str| ManifestError::Field {
        path: path.clone(),
        what,
        value: value.to_owned(),
    };
    let base = store_path("path", path)?;
    if let Some(deriver) = &info.deriver {
        store_path("deriver", deriver)?;
    }
    if info.nar_size < nar::SMALLEST || info.nar_size > i64::MAX as u64 {
        return Err(ManifestError::Size { path: path.clone(), size: info.nar_size });
    }
    let mut sha256 = [0; 32];
    if info.nar_sha256.bytes().any(|b| b.is_ascii_uppercase())
        || hex::decode_to_slice(&info.nar_sha256, &mut sha256).is_err()
    {
        return Err(ManifestError::Hash { path: path.clone(), hash: info.nar_sha256.clone() });
    }
    // The database keeps signatures separated by spaces.
    let graphic = |value: &str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
    if let Some(bad) = info.signatures.iter().find(|s| !graphic(s) || !s.contains(':')) {
        return Err(field("signature", bad));
    }
    if let Some(ca) = info.ca.as_deref().filter(|ca| !graphic(ca)) {
        return Err(field("content address", ca));
    }
    let mut seen = HashSet::new();
    let mut references = Vec::with_capacity(info.references.len());
    for reference in &info.references {
        let &at = index.get(reference.as_str()).ok_or_else(|| ManifestError::Open {
            path: path.clone(),
            reference: reference.clone(),
        })?;
        if seen.insert(at) {
            references.push(at);
        }
    }
    Ok(Entry { info, base, sha256, references })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let path = |c: char, name: &str| format!("/nix/store/{}-{name}", c.to_string().repeat(32));
        let info = |path: String, references: Vec<String>| PathInfo {
            path,
            nar_sha256: "ab".repeat(32),
            nar_size: 112,
            references,
            deriver: None,
            signatures: vec![],
            ca: None,
        };
        let (lib, top) = (path('0', "lib"), path('1', "top"));
        Manifest {
            toplevel: top.clone(),
            paths: vec![info(lib.clone(), vec![lib.clone()]), info(top.clone(), vec![lib, top])],
        }
    }

    #[test]
    fn resolves_references() {
        let manifest = manifest();
        let closure = Closure::check(&manifest).unwrap();
        assert_eq!(closure.entries[1].references, [0, 1]);
        assert_eq!(closure.entries[1].sha256, [0xab; 32]);
    }

    #[test]
    fn refuses_what_is_no_closure() {
        type Change<'a> = &'a dyn Fn(&mut Manifest);
        let refuse = |change: Change| {
            let mut manifest = manifest();
            change(&mut manifest);
            Closure::check(&manifest).unwrap_err().to_string()
        };
        let cases: [(Change, &str); 10] = [
            (&|m| m.paths[1].references[0].push('x'), "refers to"),
            (
                &|m| {
                    m.paths.push(m.paths[0].clone());
                    m.paths[2].path = "/nix/store/../../etc".into();
                },
                "is not a store path",
            ),
            (&|m| m.paths.push(m.paths[0].clone()), "twice"),
            (&|m| m.paths[0].nar_sha256 = "AB".repeat(32), "hex digits"),
            (&|m| m.paths[0].nar_sha256.push('0'), "hex digits"),
            (&|m| m.paths[0].nar_size = u64::MAX, "can't be"),
            (&|m| m.paths[0].deriver = Some("unknown-deriver".into()), "deriver"),
            (&|m| m.paths[0].signatures = vec!["key: x".into()], "signature"),
            (&|m| m.paths[0].ca = Some("text sha".into()), "content address"),
            (&|m| m.toplevel.push('x'), "the system to install"),
        ];
        for (change, expected) in cases {
            let message = refuse(change);
            assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        }
    }
}
