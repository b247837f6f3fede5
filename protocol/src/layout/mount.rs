//! Mount points and mount options, which several types have.

use super::error::LayoutError;
use super::read::Object;

/// Reads `mountpoint`: an absolute path without `.`, `..` and empty parts, if there is one.
pub(super) fn point(object: &mut Object<'_>) -> Result<Option<String>, LayoutError> {
    let Some(path) = object.string_opt("mountpoint")? else { return Ok(None) };
    let parts = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
    match parts {
        Some("") => Ok(Some("/".into())),
        Some(parts) if parts.split('/').all(|part| !["", ".", ".."].contains(&part)) => {
            Ok(Some(format!("/{parts}")))
        }
        _ => Err(LayoutError::invalid(
            object.path_of("mountpoint"),
            format!("`{path}` is not an absolute path in its plain form"),
        )),
    }
}

/// Reads `mountOptions`.
pub(super) fn options(object: &mut Object<'_>) -> Result<Vec<String>, LayoutError> {
    object.strings("mountOptions")
}
