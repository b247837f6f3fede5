//! What is there already: partitions, pools, containers, keys.
//!
//! A container is opened only if something in it is needed: as long as the key of its dataset is
//! loaded, nobody has to be asked for what opens the container that keeps the key.

use super::unlock;
use super::{StepError, SupplyError};
use crate::ensure::Ensured;
use crate::execute::machine::{Container, TARGET};
use crate::execute::{Execution, StepResult};
use crate::luks::unlock::{Means, UnlockError};
use crate::tpm2::Tpm;
use crate::zfs::{self, Import, KeyStatus};
use crate::{block, filesystem, gpt, luks};
use keystone_protocol::plan::{
    Action, DatasetKey, DeviceRef, ImportPlan, KeyFile, PartitionTable, Step,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use thiserror::Error;

/// Members of a pool that are not what the plan says.
#[derive(Debug, Error)]
pub enum LabelError {
    /// No label, or another pool's.
    #[error("{} is not of the pool {pool}: its label says {found}", device.display())]
    Other {
        /// The pool of the plan.
        pool: String,
        /// The member.
        device: PathBuf,
        /// What its label says.
        found: String,
    },
    /// Members of two pools of one name.
    #[error("the members of the pool {0} have labels of different pools of that name")]
    Several(String),
}

/// Checks that the partitions are as the plan says, and notes their GUIDs.
pub(super) fn partitions(run: &mut Execution<'_>, table: &PartitionTable) -> StepResult {
    let node = run.machine.node(&table.device)?;
    let ids = gpt::find(run.machine.roots(), &node.name, table)?;
    run.machine.partitions_found(table, ids);
    Ok(Ensured::AlreadySo)
}

/// Imports a pool, told by GUID, from its members and nothing else.
pub(super) fn import(run: &mut Execution<'_>, plan: &ImportPlan) -> StepResult {
    let nodes = |members: &[DeviceRef]| -> Result<Vec<PathBuf>, StepError> {
        members.iter().map(|member| Ok(run.machine.node(member)?.path)).collect()
    };
    let devices = nodes(&plan.members)?;
    let auxiliary = nodes(&plan.auxiliary)?;
    let guid = match &plan.guid {
        Some(guid) => guid.parse().map_err(|_| StepError::PoolGuid(guid.clone()))?,
        None => guid_of(&plan.name, &devices)?,
    };
    let import = Import {
        guid,
        devices: devices.iter().chain(&auxiliary).cloned().collect(),
        altroot: Some(TARGET.to_owned()),
        any_host: plan.any_host,
    };
    let ensured = run.machine.zfs()?.ensure_imported(&import)?;
    run.machine.pool_found(&plan.name, guid, devices);
    Ok(ensured)
}

/// The GUID of the one pool of that name that all devices are members of.
fn guid_of(pool: &str, devices: &[PathBuf]) -> Result<u64, StepError> {
    let mut found = None;
    for device in devices {
        let label = zfs::read_label(device)?;
        let guid = label.as_ref().filter(|label| label.pool.as_deref() == Some(pool));
        let Some(guid) = guid.and_then(|label| label.pool_guid) else {
            let found = label.and_then(|label| label.pool);
            return Err(StepError::Label(LabelError::Other {
                pool: pool.to_owned(),
                device: device.clone(),
                found: found.map_or_else(|| "nothing".to_owned(), |pool| format!("pool {pool}")),
            }));
        };
        if *found.get_or_insert(guid) != guid {
            return Err(StepError::Label(LabelError::Several(pool.to_owned())));
        }
    }
    found.ok_or_else(|| StepError::Label(LabelError::Several(pool.to_owned())))
}

/// Opens a container that is there, if something in it is needed.
pub(super) fn open(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    layout: Option<&KeyFile>,
) -> StepResult {
    let node = run.machine.node(device)?;
    if block::wipe::is_blank(&block::Device::open_read(run.machine.roots(), &node.name)?)? {
        return Err(StepError::NothingToOpen { name: name.to_owned(), device: node.path });
    }
    let is_open = luks::is_open(&node.path, name)?.is_some();
    if !is_open && !is_needed(run, name)? {
        run.machine.leave_out(name);
        return Ok(Ensured::AlreadySo);
    }
    let mut tpm = Tpm::open().unwrap_or_else(|error| {
        tracing::warn!(%error, "the TPM can't be used");
        None
    });
    let pin = run.supplies.pin().cloned();
    let key_file = layout.and_then(|file| unlock::key_file(run, file).ok());
    let means = Means { tpm: tpm.as_mut(), pin: pin.as_ref(), key_file: key_file.as_ref() };
    let mut ask = |tried: &[String]| run.supplies.unlock_key(name, tried);
    let (ensured, _) = luks::unlock::unlock::<SupplyError>(&node.path, name, means, &mut ask)
        .map_err(|error| match error {
            UnlockError::Luks(error) => StepError::Luks(error),
            error => StepError::Unlock(Box::new(error)),
        })?;
    let container = Container {
        uuid: luks::uuid(&node.path)?.to_string(),
        bootstrap: None,
        keyslots: BTreeMap::new(),
        kdf: luks::Kdf::Argon2id,
    };
    run.machine.container_opened(name, container);
    Ok(ensured)
}

/// Whether a device is an open container or a partition in it.
fn is_in(device: &DeviceRef, container: &str) -> bool {
    match device {
        DeviceRef::Mapper { name } => name == container,
        DeviceRef::Inner { on, .. } => is_in(on, container),
        _ => false,
    }
}

/// Whether a step of the plan needs what is in a container.
fn is_needed(run: &mut Execution<'_>, name: &str) -> Result<bool, StepError> {
    let plan = run.plan;
    let is_it = |device: &DeviceRef| is_in(device, name);
    let mut keeps_keys = false;
    let mut holds_something = false;
    for Step { action, .. } in &plan.steps {
        let keyed = match action {
            Action::LoadKey { dataset, device, .. } if is_it(device) => Some(dataset.as_str()),
            action => match action.dataset_key() {
                Some((dataset, DatasetKey::Made { device, .. })) if is_it(device) => Some(dataset),
                _ => None,
            },
        };
        if let Some(dataset) = keyed {
            keeps_keys = true;
            let zfs = run.machine.zfs()?;
            if !zfs.exists(dataset)? || zfs.key_status(dataset)? != KeyStatus::Available {
                return Ok(true);
            }
            continue;
        }
        match action {
            Action::OpenLuks { device, name, .. } if is_it(device) => {
                if is_needed(run, name)? {
                    return Ok(true);
                }
            }
            Action::MakeFilesystem { device, .. } | Action::MakeVfat { device, .. }
                if is_it(device) =>
            {
                holds_something = true;
            }
            // They are for what others need, or end it.
            Action::CreateKey { .. }
            | Action::Enroll { .. }
            | Action::CloseLuks { .. }
            | Action::Swapoff { .. } => {}
            action if action.uses().iter().any(is_it) => return Ok(true),
            _ => {}
        }
    }
    Ok(holds_something && !keeps_keys)
}

/// Whether a step is about what is in a container that nothing needs.
pub(super) fn is_left_out(run: &Execution<'_>, action: &Action) -> bool {
    let container = |device: &DeviceRef| match device {
        DeviceRef::Mapper { name } => run.machine.is_left_out(name),
        _ => false,
    };
    match action {
        Action::MakeFilesystem { device, .. }
        | Action::MakeVfat { device, .. }
        | Action::OpenLuks { device, .. }
        | Action::CreateKey { device, .. }
        // Its key is loaded: that is why.
        | Action::LoadKey { device, .. } => container(device),
        Action::Enroll { name, .. } => run.machine.is_left_out(name),
        _ => false,
    }
}

/// Loads the key of an encrypted dataset.
pub(super) fn load_key(
    run: &mut Execution<'_>,
    dataset: &str,
    device: &DeviceRef,
    file: &str,
    bytes: u32,
) -> StepResult {
    let node = run.machine.node(device)?;
    let secret = filesystem::key::existing(run.machine.roots(), &node, file, bytes)?;
    let raw: &[u8; 32] =
        secret.expose().try_into().map_err(|_| StepError::KeyLength(secret.len()))?;
    Ok(run.machine.zfs()?.ensure_key_loaded(dataset, raw)?)
}
