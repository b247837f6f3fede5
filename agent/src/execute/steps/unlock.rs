//! Containers, keyslots, keys.

use super::StepError;
use crate::ensure::Ensured;
use crate::execute::machine::Container;
use crate::execute::{Execution, StepResult};
use crate::luks::FirstSlot;
use crate::luks::enroll::{self, Tpm2Policy};
use crate::tpm2::Tpm;
use crate::tpm2::seal::PcrPolicy;
use crate::{filesystem, luks};
use keystone_protocol::plan::{ContainerUnlock, DeviceRef};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;

/// Formats a container with an ephemeral key that is only in memory, and opens it.
pub(super) fn format(run: &mut Execution<'_>, device: &DeviceRef, name: &str) -> StepResult {
    let node = run.machine.node(device)?;
    let bootstrap = luks::ephemeral_key();
    let formatted = luks::format(&node.path, FirstSlot::Bootstrap, &bootstrap)?;
    let container = Container {
        uuid: luks::uuid(&node.path)?.to_string(),
        bootstrap: Some(bootstrap.clone()),
        keyslots: BTreeMap::new(),
    };
    run.machine.container_opened(name, container);
    let (opened, _) = luks::open(&node.path, name, &bootstrap)?;
    Ok(formatted.and(opened))
}

/// Makes the raw key of an encrypted dataset, once, and keeps it in memory for the dataset.
pub(super) fn create_key(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    file: &str,
    bytes: u32,
) -> StepResult {
    let node = run.machine.node(device)?;
    let (ensured, key) = filesystem::key::ensure(run.machine.roots(), &node, file, bytes)?;
    run.machine.key_made(device, file, key);
    Ok(ensured)
}

/// Makes the lasting keyslots, opens each in a test, removes the ephemeral one.
pub(super) fn enroll_slots(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    unlock: &ContainerUnlock,
) -> StepResult {
    let node = run.machine.node(device)?.path;
    let Some(bootstrap) = run.machine.container(name)?.bootstrap.clone() else {
        return Ok(Ensured::AlreadySo);
    };
    let mut keyslots = BTreeMap::new();
    match unlock {
        ContainerUnlock::Tpm2 { pcrs, bank, pin } => {
            let mut tpm = Tpm::open()?.ok_or(StepError::NoTpm)?;
            let pcrs = PcrPolicy::new(bank, pcrs)?;
            let pin = if *pin {
                Some(run.supplies.pin().ok_or(StepError::NoSecret("PIN"))?.clone())
            } else {
                None
            };
            let policy = Tpm2Policy { pcrs, pin };
            let (_, slot) = enroll::enroll_tpm2(&node, &bootstrap, &mut tpm, &policy)?;
            keyslots.insert(slot, "tpm2".to_owned());
        }
        ContainerUnlock::Password => {
            let password = run.supplies.password().ok_or(StepError::NoSecret("password"))?.clone();
            let (_, slot) = enroll::enroll_password(&node, &bootstrap, &password)?;
            keyslots.insert(slot, "password".to_owned());
        }
        ContainerUnlock::KeyFile(file) => {
            if file.offset != 0 || file.size.is_some() {
                return Err(StepError::CanNot("take a part of a key file"));
            }
            let key = read_key_file(&file.path, file.trim_newline)?;
            let (_, slot) = enroll::enroll_key_file(&node, &bootstrap, &key)?;
            keyslots.insert(slot, "key-file".to_owned());
        }
    }
    if !matches!(unlock, ContainerUnlock::KeyFile(_)) {
        let (slot, recovery) = enroll::enroll_recovery(&node, &bootstrap)?;
        keyslots.insert(slot, "recovery".to_owned());
        run.supplies.keep_recovery_key(name, recovery.secret())?;
    }
    let _ = luks::remove_slot(&node, luks::BOOTSTRAP_SLOT)?;
    let container = run.machine.container_mut(name)?;
    container.bootstrap = None;
    container.keyslots = keyslots;
    Ok(Ensured::Created)
}

fn read_key_file(path: &str, trim_newline: bool) -> Result<Secret, StepError> {
    let mut bytes = std::fs::read(path)
        .map_err(|source| StepError::KeyFile { path: path.to_owned(), source })?;
    if trim_newline {
        while bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
    }
    Ok(Secret::new(bytes))
}

/// Closes a container.
pub(super) fn close(run: &mut Execution<'_>, name: &str) -> StepResult {
    let ensured = luks::close(name)?;
    run.machine.mapper_closed(name);
    Ok(ensured)
}
