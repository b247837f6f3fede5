//! `luks`: an encrypted container.

use super::content::{Content, Place};
use super::error::LayoutError;
use super::hooks::Hooks;
use super::{luks_arguments, read::Object};
use crate::plan::{KeyFile, LuksFormat, LuksOpen};

/// An encrypted container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// Its place in the document.
    pub path: String,
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// What opens it.
    pub key: LuksKey,
    /// Further files that open it.
    pub additional_keys: Vec<KeyFile>,
    /// How it is formatted.
    pub format: LuksFormat,
    /// How it is opened.
    pub open: LuksOpen,
    /// What is in it.
    pub content: Option<Content>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// What opens a container, as the layout says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LuksKey {
    /// A file of the installing system.
    File(KeyFile),
    /// A password that is asked for.
    Asked,
}

impl Luks {
    /// Reads a container whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        object.string_opt("device")?;
        // Whether the installed system opens it in its first stage is the closure's matter.
        object.bool_opt("initrdUnlock")?;
        enrolment(&mut object)?;

        let name = object.string("name")?;
        // dm names: at most 127 bytes and no slash. Source: linux/dm-ioctl.h, DM_NAME_LEN.
        if name.is_empty() || name.len() > 127 || name.contains('/') {
            return Err(LayoutError::invalid(
                object.path_of("name"),
                format!("`{name}` is not a name below /dev/mapper"),
            ));
        }
        let settings = Settings::read(&mut object)?;
        let mut open = luks_arguments::open(&mut object)?;
        open.allow_discards |= settings.allow_discards;
        open.no_read_workqueue |= settings.bypass_workqueues;
        open.no_write_workqueue |= settings.bypass_workqueues;
        let luks = Luks {
            path: object.path().to_owned(),
            name,
            key: key(&mut object, &settings)?,
            additional_keys: additional_keys(&mut object)?,
            format: luks_arguments::format(&mut object)?,
            open,
            content: Content::read_opt(&mut object, Place::Device)?,
            hooks,
        };
        object.finish()?;
        Ok(luks)
    }
}

/// What opens it, with disko's precedence: `settings.keyFile`, `askPassword`, `passwordFile`,
/// `keyFile`. `settings.keyFileSize` and `settings.keyFileOffset` hold for each of them. Source:
/// disko lib/types/luks.nix.
fn key(object: &mut Object<'_>, settings: &Settings) -> Result<LuksKey, LayoutError> {
    let ask = object.bool_opt("askPassword")?.unwrap_or(false);
    let password_file = object.string_opt("passwordFile")?;
    let key_file = object.string_opt("keyFile")?;
    let (path, trim_newline) = if let Some(path) = settings.key_file.clone() {
        (path, false)
    } else if ask {
        return Ok(LuksKey::Asked);
    } else if let Some(path) = password_file {
        (path, true)
    } else if let Some(path) = key_file {
        (path, false)
    } else {
        return Ok(LuksKey::Asked);
    };
    let path = absolute(object.path(), path)?;
    Ok(LuksKey::File(KeyFile { path, trim_newline, offset: settings.offset, size: settings.size }))
}

fn absolute(place: &str, path: String) -> Result<String, LayoutError> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(LayoutError::invalid(place, format!("the key file `{path}` is not an absolute path")))
}

/// disko adds these whole: size and offset are for the first key.
fn additional_keys(object: &mut Object<'_>) -> Result<Vec<KeyFile>, LayoutError> {
    let place = object.path_of("additionalKeyFiles");
    object
        .strings("additionalKeyFiles")?
        .into_iter()
        .map(|path| {
            let path = absolute(&place, path)?;
            Ok(KeyFile { path, trim_newline: false, offset: 0, size: None })
        })
        .collect()
}

/// `settings` are NixOS' `boot.initrd.luks.devices.<name>`; the installed system's configuration
/// has them too.
#[derive(Default)]
struct Settings {
    key_file: Option<String>,
    offset: u64,
    size: Option<u64>,
    allow_discards: bool,
    bypass_workqueues: bool,
}

/// Those that concern only how the installed system opens it. Source: nixpkgs,
/// nixos/modules/system/boot/luksroot.nix.
const LATER: [&str; 14] = [
    "crypttabExtraOpts",
    "device",
    "fallbackToPassword",
    "fido2",
    "gpgCard",
    "keyFileTimeout",
    "name",
    "postOpenCommands",
    "preLVM",
    "preOpenCommands",
    "timeout",
    "tryEmptyPassphrase",
    "tries",
    "yubikey",
];

impl Settings {
    fn read(object: &mut Object<'_>) -> Result<Self, LayoutError> {
        let Some(mut settings) = object.child_opt("settings")? else {
            return Ok(Settings::default());
        };
        if settings.value_opt("header").is_some() {
            let path = settings.path_of("header");
            return Err(LayoutError::not_supported(path, "a header on another device is"));
        }
        for name in LATER {
            settings.value_opt(name);
        }
        let read = Settings {
            key_file: settings.string_opt("keyFile")?,
            offset: settings.number_opt("keyFileOffset")?.unwrap_or(0),
            size: settings.number_opt("keyFileSize")?,
            allow_discards: settings.bool_opt("allowDiscards")?.unwrap_or(false),
            bypass_workqueues: settings.bool_opt("bypassWorkqueues")?.unwrap_or(false),
        };
        if read.size == Some(0) {
            return Err(LayoutError::invalid(
                settings.path_of("keyFileSize"),
                "a key has no bytes",
            ));
        }
        settings.finish()?;
        Ok(read)
    }
}

fn enrolment(object: &mut Object<'_>) -> Result<(), LayoutError> {
    object.strings("extraFido2EnrollArgs")?;
    for name in ["enrollFido2", "enrollRecovery"] {
        if object.bool_opt(name)? == Some(true) {
            let path = object.path_of(name);
            return Err(LayoutError::not_supported(path, "enrolment by the layout is"));
        }
    }
    Ok(())
}
