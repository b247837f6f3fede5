//! One function for each kind of step: from the plan's words to an effect.
//!
//! | module | steps |
//! |---|---|
//! | [`release`] | ending what uses the disks, wiping them |
//! | [`storage`] | partition table, file systems, pool, volume, datasets, mounts |
//! | [`unlock`] | containers, keyslots, keys |
//! | [`system`] | closure, profile, host key, bootloader |
//! | [`finish`] | report, unmounting, export, proof |

mod finish;
mod release;
mod storage;
mod system;
mod unlock;

use super::cancel::Cancelled;
use super::journal::JournalError;
use super::machine::ResolveError;
use super::supplies::SupplyError;
use super::{Execution, StepResult};
use keystone_protocol::plan::{Action, Step};
use thiserror::Error;

/// Why a step failed: the effect's own error, or what kept it from being tried.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is the error of the module it names")]
pub enum StepError {
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Supply(#[from] SupplyError),
    #[error(transparent)]
    Block(#[from] crate::block::BlockError),
    #[error(transparent)]
    Gpt(#[from] crate::gpt::GptError),
    #[error(transparent)]
    Key(#[from] crate::filesystem::key::KeyError),
    #[error(transparent)]
    Filesystem(#[from] crate::filesystem::FilesystemError),
    #[error(transparent)]
    Mount(#[from] crate::mount::MountError),
    #[error(transparent)]
    Luks(#[from] crate::luks::LuksError),
    #[error(transparent)]
    Tpm(#[from] crate::tpm2::TpmError),
    #[error(transparent)]
    Zfs(#[from] crate::zfs::Error),
    #[error(transparent)]
    Store(#[from] crate::store::FsError),
    #[error(transparent)]
    Receive(#[from] crate::store::ReceiveError),
    #[error(transparent)]
    Profile(#[from] crate::store::ProfileError),
    #[error(transparent)]
    Activation(#[from] crate::activation::ActivationError),
    #[error(transparent)]
    HostKey(#[from] crate::activation::hostkey::HostKeyError),
    #[error(transparent)]
    BootCheck(#[from] crate::bootloader::BootCheckError),
    #[error(transparent)]
    Seal(#[from] crate::seal::SealError),
    #[error("a raw key of a dataset has 32 bytes, this one {0}")]
    KeyLength(usize),
    #[error(transparent)]
    Pcr(#[from] crate::tpm2::seal::NoSuchPcr),
    #[error("{0:?} is not a pool's GUID")]
    PoolGuid(String),
    #[error("the TPM that the plan binds to is gone")]
    NoTpm,
    #[error("the plan asks for a {0}, and none was given")]
    NoSecret(&'static str),
    #[error("reading the key file {path}")]
    KeyFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("writing the report {path}")]
    Report {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl StepError {
    /// Whether it was stopped on request, not by a fault.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            StepError::Cancelled(_)
                | StepError::Receive(crate::store::ReceiveError::Cancelled)
                | StepError::Activation(crate::activation::ActivationError::Cancelled)
        )
    }
}

/// Runs one step.
pub(super) fn run(run: &mut Execution<'_>, step: &Step) -> StepResult {
    match &step.action {
        Action::Release(what) => release::release(run, what),
        Action::WipeDisk { disk } => release::wipe(run, disk),
        Action::Partition(table) => storage::partition(run, table),
        Action::MakeVfat { device } => storage::make_vfat(run, device),
        Action::MakeExt4 { device, extra_args } => storage::make_ext4(run, device, extra_args),
        Action::CreatePool(pool) => storage::create_pool(run, pool),
        Action::CreateVolume { dataset, size, properties } => {
            storage::create_volume(run, dataset, *size, properties)
        }
        Action::CreateDataset { dataset, properties, key } => {
            storage::create_dataset(run, dataset, properties, key.as_ref())
        }
        Action::Mount(mount) => storage::mount(run, mount),
        Action::FormatLuks { device, name } => unlock::format(run, device, name),
        Action::CreateKey { device, file, bytes } => unlock::create_key(run, device, file, *bytes),
        Action::Enroll { device, name, unlock } => unlock::enroll_slots(run, device, name, unlock),
        Action::CloseLuks { name } => unlock::close(run, name),
        Action::ReceiveClosure { .. } => system::receive_closure(run, &step.id),
        Action::SetProfile { toplevel } => system::set_profile(run, toplevel),
        Action::HostKey => system::host_key(run),
        Action::InstallBootloader { toplevel } => {
            system::install_bootloader(run, &step.id, toplevel)
        }
        Action::VerifyBootloader { toplevel, esp, mountpoint } => {
            system::verify_bootloader(run, &step.id, toplevel, esp, mountpoint)
        }
        Action::WriteReport => finish::write_report(run),
        Action::Unmount => finish::unmount(run),
        Action::ExportPool { pool } => finish::export_pool(run, pool),
        Action::ProveSeal => finish::prove(run),
    }
}
