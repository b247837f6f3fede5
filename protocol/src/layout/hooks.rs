//! disko's hooks: shell text around every device.

use super::error::LayoutError;
use super::read::Object;

/// The hooks that every type of disko has.
const NAMES: [&str; 6] = [
    "preCreateHook",
    "postCreateHook",
    "preMountHook",
    "postMountHook",
    "preUnmountHook",
    "postUnmountHook",
];

/// Reads the hooks of `object` and refuses any that does something.
///
/// Hooks are shell; the installer runs none. Those that Keystone's own layout needs are replaced
/// natively, see [`super::CredstoreKey`].
pub(super) fn refuse(object: &mut Object<'_>) -> Result<(), LayoutError> {
    refuse_except(object, &[])
}

/// As [`refuse`], for all but the hooks in `read_elsewhere`.
pub(super) fn refuse_except(
    object: &mut Object<'_>,
    read_elsewhere: &[&str],
) -> Result<(), LayoutError> {
    for name in NAMES {
        if read_elsewhere.contains(&name) {
            continue;
        }
        if let Some(text) = object.string_opt(name)?
            && !text.trim().is_empty()
        {
            return Err(LayoutError::not_supported(object.path_of(name), "hooks are"));
        }
    }
    Ok(())
}
