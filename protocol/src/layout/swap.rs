//! `swap`: swap space.

use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::partition_type::is_guid;
use super::{mount, read::Object, shell_words};
use crate::plan::SwapDiscard;

/// Swap space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// Its place in the document.
    pub path: String,
    /// The link by which the installed system knows its device.
    pub device: String,
    /// Whether the installed system encrypts it with a new random key at every boot. Then nothing
    /// is written to it when installing, as disko does.
    pub random_encryption: bool,
    /// Whether the installed system resumes from it; its configuration says so too.
    pub resume: bool,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Priority.
    pub priority: Option<u16>,
    /// When what is freed is discarded.
    pub discard: Option<SwapDiscard>,
    /// Options for swapon, `defaults` left out.
    pub options: Vec<String>,
    /// Its hooks.
    pub hooks: Hooks,
}

impl Swap {
    /// Reads swap whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        let (label, uuid) = arguments(&mut object)?;
        let mut options = mount::options(&mut object)?;
        options.retain(|option| option != "defaults");
        let swap = Swap {
            path: object.path().to_owned(),
            device: object.string("device")?,
            random_encryption: object.bool_opt("randomEncryption")?.unwrap_or(false),
            resume: object.bool_opt("resumeDevice")?.unwrap_or(false),
            label,
            uuid,
            priority: priority(&mut object)?,
            discard: discard(&mut object)?,
            options,
            hooks,
        };
        object.finish()?;
        if swap.random_encryption && swap.resume {
            return Err(LayoutError::invalid(
                swap.path,
                "swap with a new random key at every boot can't be resumed from (resumeDevice)",
            ));
        }
        Ok(swap)
    }
}

/// What `extraArgs` say. Source: mkswap(8).
fn arguments(object: &mut Object<'_>) -> Result<(Option<String>, Option<String>), LayoutError> {
    let (mut label, mut uuid) = (None, None);
    let path = object.path_of("extraArgs");
    let mut words = shell_words::split(object, "extraArgs")?.into_iter();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None if word == "-f" || word == "--force" => continue,
            None => (word, words.next()),
        };
        match (option.as_str(), value) {
            // Longer labels are cut by mkswap. Source: linux/swap.h, `volume_name`.
            ("-L" | "--label", Some(value)) if value.len() <= 16 => label = Some(value),
            ("-U" | "--uuid", Some(value)) if is_guid(&value) => {
                uuid = Some(value.to_ascii_lowercase());
            }
            (option, value) => {
                let value = value.unwrap_or_default();
                return Err(LayoutError::not_supported(
                    path,
                    format!("`{option} {value}` for mkswap is"),
                ));
            }
        }
    }
    Ok((label, uuid))
}

fn priority(object: &mut Object<'_>) -> Result<Option<u16>, LayoutError> {
    let Some(priority) = object.number_opt("priority")? else { return Ok(None) };
    // Source: swapon(8).
    u16::try_from(priority).ok().filter(|priority| *priority <= 32767).map(Some).ok_or_else(|| {
        LayoutError::invalid(object.path_of("priority"), "is not a priority from 0 to 32767")
    })
}

pub(super) fn discard(object: &mut Object<'_>) -> Result<Option<SwapDiscard>, LayoutError> {
    match object.string_opt("discardPolicy")?.as_deref() {
        None => Ok(None),
        Some("once") => Ok(Some(SwapDiscard::Once)),
        Some("pages") => Ok(Some(SwapDiscard::Pages)),
        Some("both") => Ok(Some(SwapDiscard::Both)),
        Some(other) => Err(LayoutError::UnknownName {
            path: object.path_of("discardPolicy"),
            what: "policy",
            found: other.to_owned(),
            closest: closest(other, ["once", "pages", "both"]),
        }),
    }
}
