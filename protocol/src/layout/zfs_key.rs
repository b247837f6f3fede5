//! Keys of encryption roots, from the properties `encryption`, `keyformat` and `keylocation`.

use super::credstore::CredstoreKey;
use super::error::LayoutError;
use super::read::Object;
use std::collections::BTreeMap;

/// The key of an encryption root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZfsKey {
    /// Made when installing, kept in a file system in a container.
    Credstore(CredstoreKey),
    /// A file of the installing system.
    File {
        /// Its path.
        path: String,
    },
    /// A passphrase that is asked for.
    Asked,
}

/// The key of a dataset with those properties that none of the credstore's hooks makes. `None` if
/// it is not encrypted or inherits its encryption.
pub(super) fn read(
    object: &Object<'_>,
    attribute: &'static str,
    options: &BTreeMap<String, String>,
) -> Result<Option<ZfsKey>, LayoutError> {
    let option = |name: &str| options.get(name).map(String::as_str);
    let path = || object.path_of(attribute);
    if matches!(option("encryption"), None | Some("off")) {
        return match option("keyformat") {
            Some(_) => Err(LayoutError::invalid(path(), "keyformat without encryption")),
            None => Ok(None),
        };
    }
    let format = match option("keyformat") {
        None => return Ok(None),
        Some(format @ ("raw" | "hex" | "passphrase")) => format,
        Some(other) => {
            let problem = format!("keyformat `{other}` is not raw, hex or passphrase");
            return Err(LayoutError::invalid(path(), problem));
        }
    };
    match option("keylocation") {
        None | Some("prompt") if format == "passphrase" => Ok(Some(ZfsKey::Asked)),
        None | Some("prompt") => Err(LayoutError::not_supported(
            path(),
            format!("asking for a key of the format {format} is"),
        )),
        Some(location) => match location.strip_prefix("file://") {
            Some(file) if file.starts_with('/') => Ok(Some(ZfsKey::File { path: file.to_owned() })),
            _ => Err(LayoutError::not_supported(path(), format!("a key at {location} is"))),
        },
    }
}
