//! `zfs_volume`: a volume.

use super::content::Content;
use super::error::LayoutError;
use super::{hooks, mount, read::Object};
use std::collections::BTreeMap;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsVolume {
    /// Its place in the document.
    pub path: String,
    /// Its name within the pool.
    pub name: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Properties to set.
    pub options: BTreeMap<String, String>,
    /// What is put onto it.
    pub content: Option<Content>,
}

impl ZfsVolume {
    /// Reads a volume whose `type` was read already.
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse(&mut object)?;
        let name = object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned());
        let size = object.string("size")?;
        let size = parse_size(&size).ok_or_else(|| {
            LayoutError::invalid(
                object.path_of("size"),
                format!("`{size}` is not a size like 100M"),
            )
        })?;
        if !object.strings("extraArgs")?.is_empty() {
            let path = object.path_of("extraArgs");
            return Err(LayoutError::not_supported(path, "arguments of zfs create are"));
        }
        mount::options(&mut object)?;
        let options = object.properties("options")?;
        if options.contains_key("encryption") {
            let path = object.path_of("options");
            return Err(LayoutError::not_supported(path, "an encrypted volume is"));
        }
        let volume = ZfsVolume {
            path: object.path().to_owned(),
            name,
            size,
            options,
            content: match object.child_opt("content")? {
                Some(content) => Some(Content::read(content)?),
                None => None,
            },
        };
        object.finish()?;
        Ok(volume)
    }
}

/// A size as `zfs create -V` takes it: a whole number and a binary unit. Source: zfsprops(7).
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let power = ["", "K", "M", "G", "T", "P", "E"].iter().position(|known| *known == unit)?;
    let size = number.parse::<u64>().ok()?.checked_mul(1u64.checked_shl(10 * power as u32)?)?;
    (size > 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("100M"), Some(104_857_600));
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
        assert_eq!(parse_size("4096"), Some(4096));
        for wrong in ["", "M", "0", "1.5G", "1X", "99999999999P", "-1M"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
