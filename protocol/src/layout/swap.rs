//! `swap`: swap space.

use super::error::LayoutError;
use super::{hooks, mount, read::Object};

/// Swap that the installed system encrypts with a new random key at every boot. Nothing is
/// written to it when installing, as disko does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// Its place in the document.
    pub path: String,
    /// The link by which the installed system knows its device.
    pub device: String,
}

impl Swap {
    /// Reads swap whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse(&mut object)?;
        let swap = Swap { path: object.path().to_owned(), device: object.string("device")? };
        if object.bool_opt("randomEncryption")? != Some(true) {
            return Err(LayoutError::not_supported(
                object.path(),
                "swap without randomEncryption is",
            ));
        }
        // How the installed system swaps; nothing of it is done when installing.
        object.string_opt("discardPolicy")?;
        object.strings("extraArgs")?;
        object.number_opt("priority")?;
        object.bool_opt("resumeDevice")?;
        mount::options(&mut object)?;
        object.finish()?;
        Ok(swap)
    }
}
