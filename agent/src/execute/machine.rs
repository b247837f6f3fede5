//! What the plan's names are on this machine: nodes, GUIDs, and keys that are only in memory.
//!
//! | module | job |
//! |---|---|
//! | `esp` | the EFI system partitions, and making them not bootable after a failure |

mod esp;

use crate::block::find::{self, Node};
use crate::block::sysfs;
use crate::block::{BlockError, Roots};
use crate::bootloader::Partition;
use crate::ensure::Ensured;
use crate::gpt::TableIds;
use crate::luks::Kdf;
use crate::lvm::Group;
use crate::md::Array;
use crate::seal::{self, Opened, Use};
use crate::zfs::{self, Zfs};
use esp::Esps;
use keystone_protocol::inventory::{DiskIdentity, Inventory};
use keystone_protocol::plan::{DeviceRef, MbrTable, PartitionTable, Plan, PlannedPartition};
use keystone_protocol::report::{
    ContainerReport, DiskReport, EndsAt, PoolReport, REPORT_VERSION, Report, StepReport,
};
use keystone_protocol::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;
use uuid::Uuid;

/// Where the target's root is mounted while it is installed.
pub const TARGET: &str = "/mnt";

/// A name of the plan that stands for nothing on this machine yet.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The plan names a disk that the inventory does not have.
    #[error("disk {0:?} of the plan is not on this machine")]
    NoDisk(String),
    /// Another device has the name that the disk had when the plan was compared.
    #[error("disk {disk:?} was {kernel_name}, and something else has that name now")]
    AnotherDisk {
        /// The layout's name.
        disk: String,
        /// The kernel's.
        kernel_name: String,
    },
    /// A container that no step of this plan formatted.
    #[error("the LUKS container {0:?} was not opened by this plan")]
    NoContainer(String),
    /// A key that no step of this plan made.
    #[error("the key {0:?} was not made by this plan")]
    NoKey(String),
    /// Something else than a partition where one has to be.
    #[error("{0:?} is not a partition")]
    NotAPartition(DeviceRef),
    /// A RAID that no step of this plan made or started.
    #[error("the RAID {0:?} was not made by this plan")]
    NoArray(String),
    /// A RAID that does not run any more.
    #[error("the RAID {0:?} is not running")]
    ArrayStopped(String),
    /// What would be closed is not only on the plan's disks.
    #[error("{device} is also on {disk}, which is no disk of the plan: it is left alone")]
    NotOurs {
        /// Kernel name.
        device: String,
        /// Kernel name of the other disk.
        disk: String,
    },
    /// A volume group that no step of this plan made or found.
    #[error("the volume group {0:?} was not made by this plan")]
    NoGroup(String),
    /// The step that makes the partition table has not run.
    #[error("partition {number} of disk {disk:?} was not made by this plan")]
    NotPartitioned {
        /// The layout's name of the disk.
        disk: String,
        /// Number in the table.
        number: u32,
    },
    /// The device did not come up.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// What is known of this machine while a plan runs.
pub struct Machine {
    roots: Roots,
    disks: BTreeMap<String, Disk>,
    containers: BTreeMap<String, Container>,
    dataset_keys: BTreeMap<(DeviceRef, String), Secret>,
    arrays: BTreeMap<String, Array>,
    groups: BTreeMap<String, Group>,
    left_out: BTreeSet<String>,
    boot_loader_begun: bool,
    esps: Esps,
    pools: BTreeMap<String, PoolReport>,
    ssh_host_key: Option<String>,
    opened: Opened,
    zfs: Option<Zfs>,
    started_at: u64,
}

/// What is known of a machine, for the next agent. No key is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineState {
    tables: BTreeMap<String, TableState>,
    containers: BTreeMap<String, ContainerState>,
    arrays: BTreeMap<String, Array>,
    groups: BTreeMap<String, Group>,
    left_out: BTreeSet<String>,
    esps: Esps,
    pools: BTreeMap<String, PoolReport>,
    ssh_host_key: Option<String>,
    opened: Opened,
    started_at: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TableState {
    /// An MBR has none.
    guids: Option<TableIds>,
    partitions: Vec<PlannedPartition>,
    came: Came,
}

/// Where a partition table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Came {
    /// It was there.
    Found,
    /// It was there, and this plan changed it.
    Changed,
    /// This plan made it.
    Made,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ContainerState {
    uuid: String,
    keyslots: BTreeMap<u32, String>,
}

struct Disk {
    kernel_name: String,
    /// The kernel's number of this very attachment: another disk under the same name has another.
    sequence: Option<u64>,
    /// Whether a step removed what was on it.
    wiped: bool,
    identity: DiskIdentity,
    /// The GUIDs of its GPT.
    guids: Option<TableIds>,
    /// The partitions of its GPT that were made or found.
    partitions: Vec<PlannedPartition>,
    /// Where its table comes from, GPT or MBR, once a step made or found one.
    came: Option<Came>,
}

impl Disk {
    /// Notes where its table comes from. What this plan made or changed stays so, though it is
    /// found later on.
    fn table_came(&mut self, came: Came) {
        self.came = self.came.max(Some(came));
    }

    /// What became of it, the end of a sentence.
    fn fate(&self) -> &'static str {
        match (self.came, self.wiped) {
            (Some(Came::Made), _) => "is partly written",
            (Some(Came::Changed), _) => "keeps its partitions; its table was changed",
            (Some(Came::Found), _) => "keeps its partitions",
            (None, true) => "was wiped, and not partitioned",
            (None, false) => "was not partitioned by this run",
        }
    }
}

/// A container that this plan formatted.
pub struct Container {
    /// Its LUKS UUID.
    pub uuid: String,
    /// The ephemeral passphrase, until the lasting slots exist.
    pub bootstrap: Option<Secret>,
    /// Keyslots: number → what opens it.
    pub keyslots: BTreeMap<u32, String>,
    /// How the keys of its lasting slots are derived.
    pub kdf: Kdf,
}

impl Machine {
    /// The machine of `inventory`, on which `plan` will run.
    pub fn new(inventory: &Inventory, plan: &Plan) -> Machine {
        let roots = Roots::default();
        let disks = plan
            .basis
            .disks
            .iter()
            .filter_map(|(name, identity)| {
                let found = inventory.disks.iter().find(|disk| disk.identity == *identity)?;
                let disk = Disk {
                    kernel_name: found.kernel_name.clone(),
                    sequence: sequence(&roots, &found.kernel_name),
                    wiped: false,
                    identity: identity.clone(),
                    guids: None,
                    partitions: Vec::new(),
                    came: None,
                };
                Some((name.clone(), disk))
            })
            .collect();
        Machine {
            roots,
            disks,
            containers: BTreeMap::new(),
            dataset_keys: BTreeMap::new(),
            arrays: BTreeMap::new(),
            groups: BTreeMap::new(),
            left_out: BTreeSet::new(),
            boot_loader_begun: false,
            esps: Esps::default(),
            pools: BTreeMap::new(),
            ssh_host_key: None,
            opened: Opened::default(),
            zfs: None,
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        }
    }

    /// Goes on where another agent stopped.
    pub fn restore(&mut self, state: &MachineState) {
        for (name, table) in &state.tables {
            if let Some(disk) = self.disks.get_mut(name) {
                disk.guids = table.guids.clone();
                disk.partitions = table.partitions.clone();
                disk.came = Some(table.came);
            }
        }
        for (name, ContainerState { uuid, keyslots }) in &state.containers {
            let (uuid, keyslots) = (uuid.clone(), keyslots.clone());
            // All its slots are made: it has no key here, and none will be derived.
            let container = Container { uuid, bootstrap: None, keyslots, kdf: Kdf::Argon2id };
            self.containers.insert(name.clone(), container);
        }
        self.arrays = state.arrays.clone();
        self.groups = state.groups.clone();
        self.left_out = state.left_out.clone();
        self.esps = state.esps.clone();
        self.pools = state.pools.clone();
        self.ssh_host_key = state.ssh_host_key.clone();
        self.opened = state.opened.clone();
        self.started_at = state.started_at;
        // Whether the other agent came that far is not known.
        self.boot_loader_begun = true;
    }

    /// What another agent needs to go on.
    pub fn state(&self) -> MachineState {
        let tables = self.disks.iter().filter_map(|(name, disk)| {
            let (guids, partitions) = (disk.guids.clone(), disk.partitions.clone());
            let table = TableState { guids, partitions, came: disk.came? };
            Some((name.clone(), table))
        });
        let containers = self.containers.iter().map(|(name, container)| {
            let Container { uuid, keyslots, .. } = container;
            (name.clone(), ContainerState { uuid: uuid.clone(), keyslots: keyslots.clone() })
        });
        MachineState {
            tables: tables.collect(),
            containers: containers.collect(),
            arrays: self.arrays.clone(),
            groups: self.groups.clone(),
            left_out: self.left_out.clone(),
            esps: self.esps.clone(),
            pools: self.pools.clone(),
            ssh_host_key: self.ssh_host_key.clone(),
            opened: self.opened.clone(),
            started_at: self.started_at,
        }
    }

    /// Where the kernel's file systems are.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The one handle on ZFS, opened at its first use.
    pub fn zfs(&mut self) -> zfs::Result<&Zfs> {
        let zfs = match self.zfs.take() {
            Some(zfs) => zfs,
            None => Zfs::open()?,
        };
        Ok(self.zfs.insert(zfs))
    }

    /// Kernel name of a disk of the plan.
    pub fn disk(&self, name: &str) -> Result<&str, ResolveError> {
        let disk = self.disks.get(name).ok_or_else(|| ResolveError::NoDisk(name.to_owned()))?;
        let kernel_name = disk.kernel_name.as_str();
        if sequence(&self.roots, kernel_name) != disk.sequence {
            let (disk, kernel_name) = (name.to_owned(), kernel_name.to_owned());
            return Err(ResolveError::AnotherDisk { disk, kernel_name });
        }
        Ok(kernel_name)
    }

    /// Notes that what was on a disk is removed.
    pub fn wiped(&mut self, name: &str) {
        if let Some(disk) = self.disks.get_mut(name) {
            disk.wiped = true;
        }
    }

    /// The node of a device of the plan, once it is there.
    pub fn node(&self, device: &DeviceRef) -> Result<Node, ResolveError> {
        Ok(match device {
            DeviceRef::Disk { disk } => find::node(&self.roots, self.disk(disk)?)?,
            DeviceRef::Partition { disk, number } => {
                find::partition(&self.roots, self.disk(disk)?, *number)?
            }
            DeviceRef::Volume { dataset } => find::zvol(&self.roots, dataset)?,
            DeviceRef::Mapper { name } => {
                let uuid = find::luks2_mapper_uuid(&self.container(name)?.uuid, name);
                find::mapper(&self.roots, &uuid)?
            }
            DeviceRef::Inner { on, number } => {
                find::partition(&self.roots, &self.node(on)?.name, *number)?
            }
            DeviceRef::LogicalVolume { group, name } => {
                find::logical_volume(&self.roots, group, name)?
            }
            DeviceRef::Array { name } => {
                let array =
                    self.arrays.get(name).ok_or_else(|| ResolveError::NoArray(name.clone()))?;
                let running = array
                    .running(&self.roots)
                    .ok_or_else(|| ResolveError::ArrayStopped(name.clone()))?;
                find::node(&self.roots, &running)?
            }
        })
    }

    /// Notes the GUIDs that a partition table got.
    pub fn partitioned(&mut self, table: &PartitionTable, guids: TableIds, ensured: Ensured) {
        if let Some(disk) = table.device.disk().and_then(|disk| self.disks.get_mut(disk)) {
            disk.guids = Some(guids);
            disk.partitions = table.partitions.clone();
            let came = match (ensured, table.keep) {
                (Ensured::AlreadySo, _) => Came::Found,
                (Ensured::Created, true) => Came::Changed,
                (Ensured::Created, false) => Came::Made,
            };
            disk.table_came(came);
        }
    }

    /// Notes an MBR partition table. It has no GUIDs, and one that is there is never changed.
    pub fn partitioned_mbr(&mut self, table: &MbrTable, ensured: Ensured) {
        if let Some(disk) = table.device.disk().and_then(|disk| self.disks.get_mut(disk)) {
            disk.table_came(match ensured {
                Ensured::AlreadySo => Came::Found,
                Ensured::Created => Came::Made,
            });
        }
    }

    /// Notes the GUIDs of a partition table that stays.
    pub fn partitions_found(&mut self, table: &PartitionTable, guids: TableIds) {
        self.partitioned(table, guids, Ensured::AlreadySo);
    }

    /// Where a partition is, with the GUID it got.
    pub fn partition(&self, device: &DeviceRef) -> Result<Partition, ResolveError> {
        let DeviceRef::Partition { disk, number } = device else {
            return Err(ResolveError::NotAPartition(device.clone()));
        };
        let found = self.disks.get(disk).and_then(|disk| {
            let guid = disk.guids.as_ref()?.partitions.get(number)?;
            let planned = disk.partitions.iter().find(|planned| planned.number == *number)?;
            Some(Partition {
                guid: Uuid::parse_str(guid).ok()?,
                number: *number,
                first_lba: planned.first_lba,
                sectors: planned.last_lba - planned.first_lba + 1,
            })
        });
        found.ok_or_else(|| ResolveError::NotPartitioned { disk: disk.clone(), number: *number })
    }

    /// Notes a pool that was made; `devices` are those whose labels say whether it is exported.
    pub fn pool_made(
        &mut self,
        name: &str,
        guid: u64,
        features: Vec<String>,
        devices: Vec<PathBuf>,
    ) {
        self.opened.note(Use::Pool { name: name.to_owned(), guid, devices });
        self.pools.insert(name.to_owned(), PoolReport { guid: guid.to_string(), features });
    }

    /// Notes a pool that was there.
    pub fn pool_found(&mut self, name: &str, guid: u64, devices: Vec<PathBuf>) {
        self.pool_made(name, guid, Vec::new(), devices);
    }

    /// Notes that nothing needs what is in a container.
    pub fn leave_out(&mut self, name: &str) {
        self.left_out.insert(name.to_owned());
    }

    /// Whether nothing needs what is in a container.
    pub fn is_left_out(&self, name: &str) -> bool {
        self.left_out.contains(name)
    }

    /// Whether a device is a container that nothing needs.
    pub fn is_left_out_device(&self, device: &DeviceRef) -> bool {
        matches!(device, DeviceRef::Mapper { name } if self.is_left_out(name))
    }

    /// Notes a container that was formatted and opened.
    pub fn container_opened(&mut self, name: &str, container: Container) {
        self.opened.note(Use::Mapper { name: name.to_owned() });
        self.containers.insert(name.to_owned(), container);
    }

    /// Notes a RAID that runs.
    pub fn array_started(&mut self, array: Array) {
        let members = array.members.iter().map(|node| node.name.clone()).collect();
        self.opened.note(Use::Array { name: array.name.clone(), members });
        self.arrays.insert(array.name.clone(), array);
    }

    /// A RAID of this plan.
    pub fn array(&self, name: &str) -> Result<&Array, ResolveError> {
        self.arrays.get(name).ok_or_else(|| ResolveError::NoArray(name.to_owned()))
    }

    /// Notes a volume group whose volumes may be active.
    pub fn group_opened(&mut self, group: Group) {
        self.opened.note(Use::Group(group.clone()));
        self.groups.insert(group.name.clone(), group);
    }

    /// Refuses a device (by its kernel name) that lies on any disk that is none of the plan's.
    pub fn require_ours(&self, device: &str) -> Result<(), ResolveError> {
        let other = sysfs::disks_below(&self.roots, device)
            .into_iter()
            .find(|disk| !self.disks.values().any(|ours| ours.kernel_name == *disk));
        match other {
            None => Ok(()),
            Some(disk) => Err(ResolveError::NotOurs { device: device.to_owned(), disk }),
        }
    }

    /// A volume group of this plan.
    pub fn group(&self, name: &str) -> Result<&Group, ResolveError> {
        self.groups.get(name).ok_or_else(|| ResolveError::NoGroup(name.to_owned()))
    }

    /// Notes that it is swapped to a device or file.
    pub fn swapping_to(&mut self, path: PathBuf) {
        self.opened.note(Use::Swap { path });
    }

    /// A container of this plan.
    pub fn container(&self, name: &str) -> Result<&Container, ResolveError> {
        self.containers.get(name).ok_or_else(|| ResolveError::NoContainer(name.to_owned()))
    }

    /// A container of this plan, to note what became of it.
    pub fn container_mut(&mut self, name: &str) -> Result<&mut Container, ResolveError> {
        self.containers.get_mut(name).ok_or_else(|| ResolveError::NoContainer(name.to_owned()))
    }

    /// Keeps the raw key of an encrypted dataset until its dataset is made.
    pub fn key_made(&mut self, device: &DeviceRef, file: &str, key: Secret) {
        self.dataset_keys.insert((device.clone(), file.to_owned()), key);
    }

    /// The raw key that a dataset is made with.
    pub fn key(&self, device: &DeviceRef, file: &str) -> Result<Secret, ResolveError> {
        self.dataset_keys
            .get(&(device.clone(), file.to_owned()))
            .cloned()
            .ok_or_else(|| ResolveError::NoKey(file.to_owned()))
    }

    /// Notes the machine's SSH host key, public half.
    pub fn host_key_made(&mut self, public: String) {
        self.ssh_host_key = Some(public);
    }

    /// What this plan opened, whether it is closed by now or not.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Closes what this plan opened, after a failure, as far as it goes, and says what is there
    /// then.
    pub fn close_after_failure(&mut self, plan: &Plan) -> Vec<String> {
        let target = Path::new(TARGET);
        self.zfs = None;
        let unbooted = self.boot_loader_begun.then(|| self.unboot(plan)).unwrap_or_default();
        let mut left = seal::close_best_effort(&self.roots, target, &self.opened);
        left.extend(unbooted);
        left.extend(self.disks_left());
        left
    }

    /// What became of the plan's disks, a sentence each.
    pub fn disks_left(&self) -> impl Iterator<Item = String> {
        self.disks
            .iter()
            .map(|(name, disk)| format!("disk {name} ({}) {}", disk.identity.name, disk.fate()))
    }

    /// Notes that from here on the disk may look installed.
    pub fn boot_loader_begins(&mut self) {
        self.boot_loader_begun = true;
    }

    /// The report as far as it goes now.
    pub fn report(
        &self,
        plan: &Plan,
        steps: &[StepReport],
        warnings: &[String],
        ends_at: EndsAt,
    ) -> Report {
        let disks = self.disks.iter().filter_map(|(name, disk)| {
            let guids = disk.guids.as_ref()?;
            let partitions = disk.partitions.iter().filter_map(|planned| {
                Some((planned.name.clone(), guids.partitions.get(&planned.number)?.clone()))
            });
            let report = DiskReport {
                identity: disk.identity.clone(),
                guid: guids.disk_guid.clone(),
                partitions: partitions.collect(),
            };
            Some((name.clone(), report))
        });
        let containers = self.containers.iter().map(|(name, container)| {
            let report = ContainerReport {
                uuid: container.uuid.clone(),
                keyslots: container
                    .keyslots
                    .iter()
                    .map(|(slot, by)| (slot.to_string(), by.clone()))
                    .collect(),
            };
            (name.clone(), report)
        });
        Report {
            version: REPORT_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            plan: plan.hash.clone(),
            toplevel: plan.basis.toplevel.clone(),
            disks: disks.collect(),
            pools: self.pools.clone(),
            containers: containers.collect(),
            ssh_host_key: self.ssh_host_key.clone(),
            steps: steps.to_vec(),
            warnings: warnings.to_vec(),
            ends_at,
            started_at: self.started_at,
        }
    }
}

/// The kernel's number of a disk's attachment (Linux 5.15 `Documentation/ABI/stable/sysfs-block`),
/// which no other gets until the machine restarts.
fn sequence(roots: &Roots, kernel_name: &str) -> Option<u64> {
    sysfs::number(roots, kernel_name, "diskseq")
}
