//! Which devices a step uses and which it makes, and what opens what a plan makes.

use super::{Action, ContainerUnlock, DatasetKey, DeviceRef, MountSource, Plan, PoolPlan, Release};

impl Action {
    /// Every device that the action reads or writes, by the plan's names.
    pub fn uses(&self) -> Vec<DeviceRef> {
        match self {
            Action::Release(Release::Swapoff { device }) => vec![device.clone()],
            Action::WipeDisk { disk, .. } => vec![DeviceRef::Disk { disk: disk.clone() }],
            Action::Partition(table) | Action::FindPartitions(table) => {
                vec![table.device.clone()]
            }
            Action::PartitionMbr(table) => vec![table.device.clone()],
            Action::PartitionInner(table) => vec![table.device.clone()],
            Action::MakeVfat { device, .. }
            | Action::MakeFilesystem { device, .. }
            | Action::CreateSubvolume { device, .. }
            | Action::CreateSwapFile { device, .. }
            | Action::MakeSwap { device, .. }
            | Action::Swapon { device, .. }
            | Action::Swapoff { device }
            | Action::CreatePhysicalVolume { device }
            | Action::FormatLuks { device, .. }
            | Action::OpenLuks { device, .. }
            | Action::LoadKey { device, .. }
            | Action::CreateKey { device, .. } => vec![device.clone()],
            Action::Enroll { device, name, .. } => {
                vec![device.clone(), DeviceRef::Mapper { name: name.clone() }]
            }
            Action::CloseLuks { name } => vec![DeviceRef::Mapper { name: name.clone() }],
            Action::CreateArray(array) | Action::AssembleArray(array) => array.members.clone(),
            Action::StopArray { name } => vec![DeviceRef::Array { name: name.clone() }],
            Action::CreateVolumeGroup { members, .. } | Action::ActivateGroup { members, .. } => {
                members.clone()
            }
            Action::CreatePool(pool) => pool.members(),
            Action::ImportPool(pool) => {
                pool.members.iter().chain(&pool.auxiliary).cloned().collect()
            }
            Action::CreateDataset { key: Some(DatasetKey::Made { device, .. }), .. }
            | Action::CreateVolume { key: Some(DatasetKey::Made { device, .. }), .. }
            | Action::UnlockDataset { key: DatasetKey::Made { device, .. }, .. } => {
                vec![device.clone()]
            }
            Action::Mount(mount) => match &mount.source {
                MountSource::Filesystem { device, .. } => vec![device.clone()],
                _ => Vec::new(),
            },
            Action::VerifyBootloader { esp, .. } => vec![esp.clone()],
            Action::CopyEsp { to, .. } => vec![to.clone()],
            Action::Release(_)
            | Action::CreateLogicalVolume(_)
            | Action::DeactivateGroup { .. }
            | Action::Hook(_)
            | Action::CreateVolume { .. }
            | Action::UnlockDataset { .. }
            | Action::CreateSnapshot { .. }
            | Action::CreateDataset { .. }
            | Action::ReceiveClosure { .. }
            | Action::SetProfile { .. }
            | Action::PutFiles(_)
            | Action::Chown(_)
            | Action::HostKey { .. }
            | Action::InstallBootloader { .. }
            | Action::WriteReport
            | Action::Unmount
            | Action::ExportPool { .. }
            | Action::ProveSeal => Vec::new(),
        }
    }

    /// The encryption root that the action makes or unlocks, and its key.
    pub fn dataset_key(&self) -> Option<(&str, &DatasetKey)> {
        match self {
            Action::CreateDataset { dataset, key: Some(key), .. }
            | Action::CreateVolume { dataset, key: Some(key), .. }
            | Action::UnlockDataset { dataset, key } => Some((dataset, key)),
            Action::CreatePool(PoolPlan { name, root_key: Some(key), .. }) => Some((name, key)),
            _ => None,
        }
    }

    /// The devices that are there once the action is done.
    pub fn makes(&self) -> Vec<DeviceRef> {
        match self {
            Action::Partition(table) | Action::FindPartitions(table) => {
                table.partitions.iter().map(|p| table.device.partition(p.number)).collect()
            }
            Action::PartitionMbr(table) => {
                table.partitions.iter().map(|p| table.device.partition(p.number)).collect()
            }
            Action::PartitionInner(table) => {
                table.partitions.iter().map(|p| table.device.partition(p.number)).collect()
            }
            Action::FormatLuks { name, .. } | Action::OpenLuks { name, .. } => {
                vec![DeviceRef::Mapper { name: name.clone() }]
            }
            Action::CreateArray(array) | Action::AssembleArray(array) => {
                vec![DeviceRef::Array { name: array.name.clone() }]
            }
            Action::CreateLogicalVolume(volume) => vec![DeviceRef::LogicalVolume {
                group: volume.group.clone(),
                name: volume.name.clone(),
            }],
            Action::CreateVolume { dataset, .. } => {
                vec![DeviceRef::Volume { dataset: dataset.clone() }]
            }
            _ => Vec::new(),
        }
    }
}

impl Plan {
    /// Containers and encrypted datasets that a password opens.
    pub fn opened_by_password(&self) -> Vec<&str> {
        let mut names = self.containers(|unlock| matches!(unlock, ContainerUnlock::Password));
        let keys = self.steps.iter().filter_map(|step| step.action.dataset_key());
        names.extend(keys.filter(|(_, key)| **key == DatasetKey::Asked).map(|(name, _)| name));
        names
    }

    /// Containers that TPM and PIN open.
    pub fn opened_by_pin(&self) -> Vec<&str> {
        self.containers(|unlock| matches!(unlock, ContainerUnlock::Tpm2 { pin: true, .. }))
    }

    /// Containers that get a recovery key.
    pub fn gets_recovery_key(&self) -> Vec<&str> {
        self.containers(|unlock| !matches!(unlock, ContainerUnlock::KeyFile(_)))
    }

    fn containers(&self, by: impl Fn(&ContainerUnlock) -> bool) -> Vec<&str> {
        self.containers.iter().filter(|c| by(&c.unlock)).map(|c| c.name.as_str()).collect()
    }
}

impl PoolPlan {
    /// All its devices.
    pub fn members(&self) -> Vec<DeviceRef> {
        [&self.vdevs, &self.log, &self.special, &self.dedup]
            .into_iter()
            .flatten()
            .flat_map(|vdev| vdev.members())
            .chain(&self.cache)
            .chain(&self.spare)
            .cloned()
            .collect()
    }
}
