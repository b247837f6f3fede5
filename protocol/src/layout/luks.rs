//! `luks`: an encrypted container.

use super::content::Content;
use super::error::LayoutError;
use super::{hooks, read::Object};

/// An encrypted container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// Its place in the document.
    pub path: String,
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// What opens it.
    pub key: LuksKey,
    /// What is in it.
    pub content: Option<Content>,
}

/// What opens a container, as the layout says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LuksKey {
    /// A file of the installing system.
    File {
        /// Its path.
        path: String,
        /// Whether newlines at its end are not part of the key, as with `passwordFile`.
        trim_newline: bool,
    },
    /// A password that is asked for.
    Asked,
}

impl Luks {
    /// Reads a container whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        hooks::refuse(&mut object)?;
        object.string_opt("device")?;
        // Whether the installed system opens it in its first stage is the closure's matter.
        object.bool_opt("initrdUnlock")?;
        refuse_arguments(&mut object)?;

        let name = object.string("name")?;
        // dm names: at most 127 bytes and no slash. Source: linux/dm-ioctl.h, DM_NAME_LEN.
        if name.is_empty() || name.len() > 127 || name.contains('/') {
            return Err(LayoutError::invalid(
                object.path_of("name"),
                format!("`{name}` is not a name below /dev/mapper"),
            ));
        }
        let luks = Luks {
            path: object.path().to_owned(),
            name,
            key: key(&mut object)?,
            content: match object.child_opt("content")? {
                Some(content) => Some(Content::read(content)?),
                None => None,
            },
        };
        object.finish()?;
        Ok(luks)
    }
}

/// What opens it, with disko's precedence: `settings.keyFile`, `askPassword`, `passwordFile`,
/// `keyFile`. Source: disko lib/types/luks.nix.
fn key(object: &mut Object<'_>) -> Result<LuksKey, LayoutError> {
    let ask = object.bool_opt("askPassword")?.unwrap_or(false);
    let password_file = object.string_opt("passwordFile")?;
    let key_file = object.string_opt("keyFile")?;
    let key = if let Some(path) = settings_key_file(object)? {
        LuksKey::File { path, trim_newline: false }
    } else if ask {
        LuksKey::Asked
    } else if let Some(path) = password_file {
        LuksKey::File { path, trim_newline: true }
    } else if let Some(path) = key_file {
        LuksKey::File { path, trim_newline: false }
    } else {
        LuksKey::Asked
    };
    if let LuksKey::File { path, .. } = &key
        && !path.starts_with('/')
    {
        return Err(LayoutError::invalid(
            object.path(),
            format!("the key file `{path}` is not an absolute path"),
        ));
    }
    Ok(key)
}

/// `settings` are NixOS' `boot.initrd.luks.devices.<name>`; only its `keyFile` concerns what is
/// written now.
fn settings_key_file(object: &mut Object<'_>) -> Result<Option<String>, LayoutError> {
    let Some(mut settings) = object.child_opt("settings")? else { return Ok(None) };
    let key_file = settings.string_opt("keyFile")?;
    for (attribute, what) in [
        ("keyFileSize", "a part of a key file is"),
        ("keyFileOffset", "a part of a key file is"),
        ("allowDiscards", "a flag kept in the LUKS header is"),
        ("bypassWorkqueues", "a flag kept in the LUKS header is"),
    ] {
        if let Some(value) = settings.value_opt(attribute)
            && value != &serde_json::Value::Bool(false)
        {
            return Err(LayoutError::not_supported(settings.path_of(attribute), what));
        }
    }
    Ok(key_file)
}

fn refuse_arguments(object: &mut Object<'_>) -> Result<(), LayoutError> {
    for name in ["extraFormatArgs", "extraOpenArgs"] {
        if !object.strings(name)?.is_empty() {
            return Err(LayoutError::not_supported(
                object.path_of(name),
                "arguments of cryptsetup are",
            ));
        }
    }
    if !object.strings("additionalKeyFiles")?.is_empty() {
        let path = object.path_of("additionalKeyFiles");
        return Err(LayoutError::not_supported(path, "additional key files are"));
    }
    object.strings("extraFido2EnrollArgs")?;
    for name in ["enrollFido2", "enrollRecovery"] {
        if object.bool_opt(name)? == Some(true) {
            let path = object.path_of(name);
            return Err(LayoutError::not_supported(path, "enrolment by the layout is"));
        }
    }
    Ok(())
}
