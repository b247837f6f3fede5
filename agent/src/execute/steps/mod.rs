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
    #[error("this agent cannot {0}")]
    CanNot(&'static str),
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
        Action::PartitionMbr(_) => Err(StepError::CanNot("write an MBR partition table")),
        Action::MakeVfat { device, label: None } => storage::make_vfat(run, device),
        Action::MakeVfat { .. } => Err(StepError::CanNot("label a FAT32 file system")),
        Action::MakeFilesystem { device, fstype, extra_args } if fstype == "ext4" => {
            storage::make_ext4(run, device, extra_args)
        }
        Action::MakeFilesystem { .. } => Err(StepError::CanNot("make this file system")),
        Action::CreateSubvolume { .. } => Err(StepError::CanNot("make a btrfs subvolume")),
        Action::CreateSwapFile { .. } => Err(StepError::CanNot("make a swap file")),
        Action::MakeSwap { .. } => Err(StepError::CanNot("write a swap header")),
        Action::Swapon { .. } | Action::Swapoff { .. } => {
            Err(StepError::CanNot("swap to a device of the plan"))
        }
        Action::CreateArray(_) | Action::StopArray { .. } => {
            Err(StepError::CanNot("make or stop a software RAID"))
        }
        Action::CreatePhysicalVolume { .. }
        | Action::CreateVolumeGroup { .. }
        | Action::CreateLogicalVolume(_)
        | Action::DeactivateGroup { .. } => Err(StepError::CanNot("make or close LVM volumes")),
        Action::Hook(_) => Err(StepError::CanNot("run hooks")),
        Action::CreateSnapshot { .. } => Err(StepError::CanNot("make snapshots")),
        Action::CreatePool(pool) => storage::create_pool(run, pool),
        Action::CreateVolume { dataset, size, properties, sparse: false, key: None } => {
            storage::create_volume(run, dataset, *size, properties)
        }
        Action::CreateVolume { .. } => {
            Err(StepError::CanNot("make a sparse volume, or one with a key of its own"))
        }
        Action::CreateDataset { dataset, properties, key } => {
            storage::create_dataset(run, dataset, properties, key.as_ref())
        }
        Action::Mount(mount) => storage::mount(run, mount),
        Action::FormatLuks { device, name, format, open }
            if *format == Default::default() && *open == Default::default() =>
        {
            unlock::format(run, device, name)
        }
        Action::FormatLuks { .. } => {
            Err(StepError::CanNot("format or open a container with options"))
        }
        Action::CreateKey { device, file, bytes } => unlock::create_key(run, device, file, *bytes),
        Action::Enroll { device, name, unlock, additional } if additional.is_empty() => {
            unlock::enroll_slots(run, device, name, unlock)
        }
        Action::Enroll { .. } => Err(StepError::CanNot("add further key files to a container")),
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
