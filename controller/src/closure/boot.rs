//! `boot.json`: what boots, and whether all of it is in the closure.
//!
//! Format: bootspec version 1 (NixOS RFC 125). Every store path that the document names
//! anywhere, extensions and specialisations included, has to be in the closure: the boot loader's
//! installer reads them on the machine.

use super::error::ClosureError;
use super::files::Files;
use super::store::{store_path_of, store_paths_in};
use bootspec::v1::{BootSpecV1, GenerationV1};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What is taken from `boot.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initrd, if there is one.
    pub initrd: Option<PathBuf>,
    /// Kernel and initrd, in bytes.
    pub bytes: u64,
}

/// Reads and checks a system's `boot.json`. `members` are the closure's paths.
pub fn read(
    files: &dyn Files,
    toplevel: &str,
    members: &HashSet<&str>,
    json: &[u8],
) -> Result<Boot, ClosureError> {
    let bad = |source| ClosureError::BadBootspec { toplevel: toplevel.to_owned(), source };
    let document: Value = serde_json::from_slice(json).map_err(bad)?;
    let generation: GenerationV1 = serde_json::from_value(document.clone()).map_err(bad)?;
    check_named_paths(toplevel, members, &document, &mut String::from("$"))?;
    check_own(files, toplevel, members, &generation.bootspec)?;
    let BootSpecV1 { kernel, initrd, toplevel: described, .. } = generation.bootspec;
    if described.0 != Path::new(toplevel) {
        return Err(ClosureError::BootOfAnotherSystem {
            toplevel: toplevel.to_owned(),
            found: described.0.display().to_string(),
        });
    }
    let size = |path: &Path| {
        files.size(path).map_err(|source| ClosureError::Read { path: path.to_owned(), source })
    };
    let bytes = size(&kernel)? + initrd.as_deref().map(size).transpose()?.unwrap_or(0);
    Ok(Boot { kernel, initrd, bytes })
}

/// The files that are booted: in the closure, and there.
fn check_own(
    files: &dyn Files,
    toplevel: &str,
    members: &HashSet<&str>,
    spec: &BootSpecV1,
) -> Result<(), ClosureError> {
    let booted = [
        ("kernel", Some(&spec.kernel)),
        ("initrd", spec.initrd.as_ref()),
        ("initrdSecrets", spec.initrd_secrets.as_ref()),
        ("init", Some(&spec.init)),
    ];
    for (field, path) in booted {
        let Some(path) = path else { continue };
        let outside = || ClosureError::BootOutsideClosure {
            toplevel: toplevel.to_owned(),
            field: field.to_owned(),
            path: path.display().to_string(),
        };
        // As written, and where it leads.
        let written = store_path_of(path).ok_or_else(outside)?;
        let resolved = files
            .resolve(path)
            .map_err(|source| ClosureError::Read { path: path.clone(), source })?;
        let leads_to = store_path_of(&resolved).ok_or_else(outside)?;
        if !members.contains(written.as_str()) || !members.contains(leads_to.as_str()) {
            return Err(outside());
        }
    }
    Ok(())
}

/// Every store path in every string of the document.
fn check_named_paths(
    toplevel: &str,
    members: &HashSet<&str>,
    value: &Value,
    at: &mut String,
) -> Result<(), ClosureError> {
    let length = at.len();
    match value {
        Value::String(text) => {
            if let Some(path) = store_paths_in(text).find(|path| !members.contains(path)) {
                return Err(ClosureError::BootOutsideClosure {
                    toplevel: toplevel.to_owned(),
                    field: at.clone(),
                    path: path.to_owned(),
                });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                at.push_str(&format!("[{index}]"));
                check_named_paths(toplevel, members, item, at)?;
                at.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                at.push('.');
                at.push_str(name);
                check_named_paths(toplevel, members, field, at)?;
                at.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}
