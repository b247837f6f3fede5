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
use keystone_protocol::plan::{
    Action, ContainerUnlock, DatasetKey, DeviceRef, KeyFile, LuksFormat, LuksOpen,
};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;

/// Formats a container with an ephemeral key that is only in memory, and opens it.
pub(super) fn format(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    format: &LuksFormat,
    open: &LuksOpen,
) -> StepResult {
    let node = run.machine.node(device)?;
    let bootstrap = luks::ephemeral_key();
    let formatted = luks::format_as(&node.path, FirstSlot::Bootstrap, &bootstrap, format)?;
    let container = Container {
        uuid: luks::uuid(&node.path)?.to_string(),
        bootstrap: Some(bootstrap.clone()),
        keyslots: BTreeMap::new(),
        kdf: luks::lasting_kdf(format),
    };
    // Noted once it is ours: what has that name otherwise is not to be closed.
    let (opened, _) = luks::open_as(&node.path, name, &bootstrap, open)?;
    run.machine.container_opened(name, container);
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
    let (ensured, key) = if its_dataset_is_there(run, device, file)? {
        // It has its key, and no other would open it.
        let key = filesystem::key::existing(run.machine.roots(), &node, file, bytes)?;
        (Ensured::AlreadySo, key)
    } else {
        filesystem::key::ensure(run.machine.roots(), &node, file, bytes)?
    };
    run.machine.key_made(device, file, key);
    Ok(ensured)
}

fn its_dataset_is_there(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    file: &str,
) -> Result<bool, StepError> {
    for step in &run.plan.steps {
        if let Action::CreateDataset {
            dataset,
            key: Some(DatasetKey::Made { device: on, file: of }),
            ..
        } = &step.action
            && on == device
            && of == file
            && run.machine.zfs()?.exists(dataset)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the lasting keyslots, opens each in a test, removes the ephemeral one.
pub(super) fn enroll_slots(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    unlock: &ContainerUnlock,
    additional: &[KeyFile],
) -> StepResult {
    let node = run.machine.node(device)?.path;
    let container = run.machine.container(name)?;
    let Some(bootstrap) = container.bootstrap.clone() else {
        return Ok(Ensured::AlreadySo);
    };
    let kdf = container.kdf.clone();
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
            let (_, slot) = enroll::enroll_password(&node, &bootstrap, &password, &kdf)?;
            keyslots.insert(slot, "password".to_owned());
        }
        ContainerUnlock::KeyFile(file) => {
            let key = key_file(run, file)?;
            let (_, slot) = enroll::enroll_key_file(&node, &bootstrap, &key, &kdf)?;
            keyslots.insert(slot, "key-file".to_owned());
        }
    }
    for file in additional {
        let key = key_file(run, file)?;
        let (_, slot) = enroll::enroll_key_file(&node, &bootstrap, &key, &kdf)?;
        keyslots.entry(slot).or_insert_with(|| "key-file".to_owned());
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

/// A key file: the operator's, if it was given, else the machine's.
pub(super) fn key_file(run: &Execution<'_>, file: &KeyFile) -> Result<Secret, StepError> {
    let key = match run.supplies.key_file(&file.path) {
        Some(given) => luks::key_file::of(file, given),
        None => luks::key_file::read(file),
    };
    key.map_err(|source| StepError::KeyFile { path: file.path.clone(), source })
}

/// Closes a container.
pub(super) fn close(name: &str) -> StepResult {
    Ok(luks::close(name)?)
}
