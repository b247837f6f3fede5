//! Mount points and mount options, which several types have.

use super::error::LayoutError;
use super::read::Object;

/// Reads `mountpoint`: an absolute path without `.`, `..` and empty parts, if there is one.
pub(super) fn point(object: &mut Object<'_>) -> Result<Option<String>, LayoutError> {
    let Some(path) = object.string_opt("mountpoint")? else { return Ok(None) };
    plain(object, &path).map(Some)
}

/// As [`point`]; where there is none, not even `null`, it is `default`.
pub(super) fn point_or(
    object: &mut Object<'_>,
    default: &str,
) -> Result<Option<String>, LayoutError> {
    if object.has("mountpoint") {
        return point(object);
    }
    plain(object, default).map(Some)
}

fn plain(object: &Object<'_>, path: &str) -> Result<String, LayoutError> {
    let parts = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
    match parts {
        Some("") => Ok("/".into()),
        Some(parts) if parts.split('/').all(|part| !["", ".", ".."].contains(&part)) => {
            Ok(format!("/{parts}"))
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
