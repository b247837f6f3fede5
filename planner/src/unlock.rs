//! What will open each container.

use super::existing::Existing;
use super::refuse::refuse;
use super::{Context, Remarks};
use crate::policy::{Decision, Facts, unlock_policy};
use keystone_protocol::layout::{Content, Luks, LuksKey};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{ContainerPlan, ContainerUnlock, DeviceRef, KeyFile};
use std::path::Path;

/// Decides for every container of the layout.
///
/// A key file in the Nix store is readable by everybody, there and on every machine it was copied
/// to: such a container is opened as the operator chose, and the file never by anybody. Any other
/// key is the layout's word.
pub(super) fn containers(
    context: &Context<'_>,
    existing: &Existing,
    remarks: &mut Remarks,
) -> Result<Vec<ContainerPlan>, Refusal> {
    let mut plans = Vec::new();
    if !context.mode.formats() {
        return Ok(plans);
    }
    for (_, content) in context.layout.contents() {
        let Content::Luks(luks) = content else { continue };
        // One that is there already is opened by what opens it.
        if !existing.has(context.layout, &DeviceRef::Mapper { name: luks.name.clone() }) {
            plans.push(container(context, luks, remarks)?);
        }
    }
    Ok(plans)
}

/// Further keys that the layout gives a container. A file in the Nix store is none: everybody can
/// read it.
pub(super) fn additional(luks: &Luks, remarks: &mut Remarks) -> Vec<KeyFile> {
    let (public, secret): (Vec<&KeyFile>, Vec<&KeyFile>) =
        luks.additional_keys.iter().partition(|file| is_public(file));
    remarks.notes.extend(public.into_iter().map(|file| {
        format!(
            "{}: the key file {} lies in the Nix store, where everybody can read it, and is not \
             used",
            luks.path, file.path
        )
    }));
    secret.into_iter().cloned().collect()
}

fn is_public(file: &KeyFile) -> bool {
    Path::new(&file.path).starts_with("/nix/store")
}

/// What of the layout may open a container that was made by it before.
pub(super) fn key_file(luks: &Luks) -> Option<KeyFile> {
    match &luks.key {
        LuksKey::File(file) => Some(file.clone()),
        LuksKey::Asked => None,
    }
}

fn container(
    context: &Context<'_>,
    luks: &Luks,
    remarks: &mut Remarks,
) -> Result<ContainerPlan, Refusal> {
    let name = luks.name.clone();
    if luks.format.version == Some(1) {
        return Err(refuse(
            RefusalKind::Layout,
            format!(
                "{}.extraFormatArgs: container {name} is to be LUKS1, which can hold neither a \
                 TPM's key nor a recovery key's mark",
                luks.path
            ),
            "leave --type luks1 out: LUKS2 is made then",
        ));
    }
    match &luks.key {
        LuksKey::File(file) if is_public(file) => {
            let path = &file.path;
            let (unlock, reason) = by_policy(context, &name, remarks)?;
            let reason = format!(
                "{reason}; the layout's key file {path} lies in the Nix store, where everybody \
                 can read it, and is not used"
            );
            Ok(ContainerPlan { name, unlock, reason })
        }
        LuksKey::File(file) => {
            let more = match luks.additional_keys.len() {
                0 => "and nothing else".to_owned(),
                1 => "and one more file".to_owned(),
                more => format!("and {more} more files"),
            };
            Ok(ContainerPlan {
                reason: format!(
                    "opened by the key file that the layout names, {}, {more}",
                    file.path
                ),
                unlock: ContainerUnlock::KeyFile(file.clone()),
                name,
            })
        }
        LuksKey::Asked => Ok(ContainerPlan {
            name,
            unlock: ContainerUnlock::Password,
            reason: "unlocked by password, as the layout asks for one".to_owned(),
        }),
    }
}

fn by_policy(
    context: &Context<'_>,
    name: &str,
    remarks: &mut Remarks,
) -> Result<(ContainerUnlock, String), Refusal> {
    let facts = Facts {
        unlock: context.options.unlock,
        pcrs: context.options.tpm2_pcrs.as_deref(),
        pin: context.options.tpm2_pin,
        tpm: context.inventory.tpm.as_ref(),
        secure_boot: context.inventory.firmware.secure_boot,
        enrols_secure_boot_keys: context
            .closure
            .is_some_and(|closure| closure.enrols_secure_boot_keys),
    };
    match unlock_policy(&facts) {
        Decision::Unlock { by, reason, warning } => {
            remarks.warnings.extend(warning.map(|warning| format!("container {name}: {warning}")));
            Ok((by, reason))
        }
        Decision::Refused(why) => Err(refuse(
            RefusalKind::TargetUnfit,
            format!("container {name} can't be unlocked as asked for: {why}"),
            "choose with --unlock tpm2, password or auto",
        )),
    }
}
