//! One function for each kind of step: from the plan's words to an effect.
//!
//! | module | steps |
//! |---|---|
//! | [`release`] | ending what uses the disks, wiping them |
//! | [`existing`] | what is there already: partitions, pools, containers, keys |
//! | [`storage`] | partition tables, file systems, swap, mounts |
//! | [`volumes`] | software RAID, LVM |
//! | [`pools`] | pools, volumes, datasets, snapshots |
//! | [`hooks`] | hooks of the layout |
//! | [`unlock`] | containers, keyslots, keys |
//! | [`system`] | closure, profile, bootloader |
//! | [`operator`] | what the operator adds: files, owners, host keys |
//! | [`finish`] | report, unmounting, export, proof |

mod existing;
mod finish;
mod hooks;
mod operator;
mod pools;
mod release;
mod storage;
mod system;
mod unlock;
mod volumes;

use super::cancel::Cancelled;
use super::journal::JournalError;
use super::machine::ResolveError;
use super::supplies::SupplyError;
use super::{Execution, StepResult};
use crate::ensure::Ensured;
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
    #[error("a raw key of a dataset has 32 bytes, this one {0}")]
    KeyLength(usize),
    #[error(transparent)]
    Unlock(#[from] Box<crate::luks::unlock::UnlockError<SupplyError>>),
    #[error(transparent)]
    Label(#[from] existing::LabelError),
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
    #[error(
        "there is no container {name} on {}: its making was interrupted; to make everything anew: \
         --disko-mode disko --erase", device.display()
    )]
    NothingToOpen { name: String, device: std::path::PathBuf },
    #[error(transparent)]
    EspCopy(#[from] crate::bootloader::copy::CopyError),
    #[error("a partition of {0:?} does not fit into it: {1}")]
    Inner(keystone_protocol::plan::DeviceRef, String),
    #[error(transparent)]
    Files(#[from] crate::operator::FilesError),
    #[error(transparent)]
    Owner(#[from] crate::operator::OwnerError),
    #[error(transparent)]
    Seal(#[from] crate::seal::SealError),
    #[error(transparent)]
    Mbr(#[from] crate::mbr::MbrError),
    #[error(transparent)]
    Btrfs(#[from] crate::btrfs::BtrfsError),
    #[error(transparent)]
    Lvm(#[from] crate::lvm::LvmError),
    #[error(transparent)]
    Md(#[from] crate::md::MdError),
    #[error(transparent)]
    Hook(#[from] crate::hook::HookError),
    #[error(transparent)]
    Pcr(#[from] crate::tpm2::seal::NoSuchPcr),
    #[error(
        "the mapper {0} is not the one that the plan closes: another was opened under its name"
    )]
    AnotherMapper(String),
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
}

impl StepError {
    /// Whether it was stopped on request, not by a fault.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            StepError::Cancelled(_)
                | StepError::Receive(crate::store::ReceiveError::Cancelled)
                | StepError::Files(crate::operator::FilesError::Cancelled)
                | StepError::Activation(crate::activation::ActivationError::Cancelled)
                | StepError::Hook(crate::hook::HookError::Failed {
                    source: crate::tool::ToolError::Stopped(_),
                    ..
                })
        )
    }
}

/// Runs one step.
pub(super) fn run(run: &mut Execution<'_>, step: &Step) -> StepResult {
    let id = step.id.as_str();
    if existing::is_left_out(run, &step.action) {
        return Ok(Ensured::AlreadySo);
    }
    match &step.action {
        Action::Release(what) => release::release(run, id, what),
        Action::WipeDisk { disk, discard } => release::wipe(run, disk, *discard),
        Action::Partition(table) => storage::partition(run, table),
        Action::FindPartitions(table) => existing::partitions(run, table),
        Action::ImportPool(pool) => existing::import(run, pool),
        Action::OpenLuks { device, name, key_file } => {
            existing::open(run, device, name, key_file.as_ref())
        }
        Action::LoadKey { dataset, device, file, bytes } => {
            existing::load_key(run, dataset, device, file, *bytes)
        }
        Action::PartitionInner(table) => storage::partition_inner(run, table),
        Action::CopyEsp { mountpoint, to } => system::copy_esp(run, &step.id, mountpoint, to),
        Action::PartitionMbr(table) => storage::partition_mbr(run, table),
        Action::MakeVfat { device, label } => storage::make_vfat(run, device, label.as_deref()),
        Action::MakeFilesystem { device, fstype, extra_args } => {
            storage::make_filesystem(run, id, device, fstype, extra_args)
        }
        Action::CreateSubvolume { device, subvolume, extra_args } => {
            storage::create_subvolume(run, id, device, subvolume, extra_args)
        }
        Action::CreateSwapFile { device, path, size } => {
            storage::create_swap_file(run, device, path, *size)
        }
        Action::MakeSwap { device, label, uuid } => {
            storage::make_swap(run, device, label.as_deref(), uuid.as_deref())
        }
        Action::Swapon { device, priority, discard, options } => {
            storage::swapon(run, device, *priority, *discard, options)
        }
        Action::Swapoff { device } => storage::swapoff(run, device),
        Action::CreateArray(array) => volumes::create_array(run, id, array),
        Action::AssembleArray(array) => volumes::assemble_array(run, id, array),
        Action::StopArray { name } => volumes::stop_array(run, name),
        Action::CreatePhysicalVolume { device } => volumes::create_physical_volume(run, id, device),
        Action::CreateVolumeGroup { name, members } => {
            volumes::create_group(run, id, name, members)
        }
        Action::CreateLogicalVolume(volume) => volumes::create_logical_volume(run, id, volume),
        Action::ActivateGroup { name, members } => volumes::activate_group(run, id, name, members),
        Action::DeactivateGroup { name } => volumes::deactivate_group(run, id, name),
        Action::Hook(hook) => hooks::run_hook(run, id, hook),
        Action::CreatePool(pool) => pools::create_pool(run, pool),
        Action::CreateVolume { dataset, size, properties, sparse, key } => {
            pools::create_volume(run, dataset, *size, properties, *sparse, key.as_ref())
        }
        Action::CreateDataset { dataset, properties, key } => {
            pools::create_dataset(run, dataset, properties, key.as_ref())
        }
        Action::UnlockDataset { dataset, key } => pools::unlock_dataset(run, dataset, key),
        Action::CreateSnapshot { snapshot } => pools::create_snapshot(run, snapshot),
        Action::Mount(mount) => storage::mount(run, mount),
        Action::FormatLuks { device, name, format, open } => {
            unlock::format(run, device, name, format, open)
        }
        Action::CreateKey { device, file, bytes } => unlock::create_key(run, device, file, *bytes),
        Action::Enroll { device, name, unlock, additional } => {
            unlock::enroll_slots(run, device, name, unlock, additional)
        }
        Action::CloseLuks { name } => unlock::close(name),
        Action::ReceiveClosure { .. } => system::receive_closure(run, id),
        Action::SetProfile { toplevel } => system::set_profile(run, toplevel),
        Action::PutFiles(files) => operator::put_files(run, id, files),
        Action::Chown(chown) => operator::chown(chown),
        Action::HostKey { keys } => operator::host_keys(run, keys),
        Action::InstallBootloader { toplevel } => system::install_bootloader(run, id, toplevel),
        Action::VerifyBootloader { toplevel, esp, mountpoint } => {
            system::verify_bootloader(run, id, toplevel, esp, mountpoint)
        }
        Action::WriteReport => finish::write_report(run),
        Action::Unmount => finish::unmount(run),
        Action::ExportPool { pool } => finish::export_pool(run, pool),
        Action::ProveSeal => finish::prove(run),
    }
}
