//! What the operator chose besides the layout.

use crate::disko_mode::DiskoMode;
use serde::{Deserialize, Serialize};

/// How encrypted containers without a key of their own are to be unlocked at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Unlock {
    /// TPM2 if it can be trusted to open at the next boot, else a password; the plan says why.
    #[default]
    Auto,
    /// TPM2, or refuse.
    Tpm2,
    /// A password typed at boot.
    Password,
}

/// Options that shape the plan. All of them are part of the plan's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct InstallOptions {
    /// How to unlock.
    pub unlock: Unlock,
    /// PCRs to bind to, if named by the operator: `Some(vec![])` binds to none.
    pub tpm2_pcrs: Option<Vec<u8>>,
    /// Whether a PIN is asked besides the TPM.
    pub tpm2_pin: bool,
    /// Whether the operator agrees that what is on the disks now may be destroyed, although it
    /// holds data (a table, a file system, a pool). The plan lists what; without this a disk
    /// that is not blank is refused.
    pub erase: bool,
    /// Which disk a disk of the layout is, by the layout's name: a `/dev/disk/by-id` link, a
    /// serial number, or a match such as `size:largest`. Without an entry the layout's `device` decides.
    pub disks: std::collections::BTreeMap<String, String>,
    /// Put an EFI system partition of the same size first onto every other disk of the pool or
    /// RAID that the root is on, and copy what is on the layout's one: disko does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror_esp: bool,
    /// Files of the operator's that are put into the system, if there are any.
    #[serde(default)]
    pub extra_files: Option<ExtraFiles>,
    /// Owners to set in the system, in this order.
    #[serde(default)]
    pub chown: Vec<Chown>,
    /// Where the system's SSH host keys come from.
    #[serde(default)]
    pub host_keys: HostKeys,
    /// What is done with the disks.
    #[serde(default, skip_serializing_if = "DiskoMode::is_default")]
    pub disko_mode: DiskoMode,
    /// Tell disks that are wiped to forget everything (a full discard), where they can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discard: bool,
    /// Leave out the seal. For tests of the seal's necessity only; the plan says so loudly.
    pub skip_seal: bool,
}

/// A directory of the operator's whose contents are put into the system.
///
/// It travels as a tar archive with PAX records for extended attributes (POSIX.1-2001 pax; the
/// records' names are star's, `SCHILY.xattr.NAME`). Owners and times are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraFiles {
    /// Files, links and directories in it.
    pub entries: u64,
    /// The archive's length, in bytes.
    pub bytes: u64,
    /// The archive's Blake3, 64 hex digits.
    pub blake3: String,
}

/// The owner that a path of the system gets, with all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chown {
    /// The path, absolute in the installed system.
    pub path: String,
    /// Its user, if that is to be changed.
    pub user: Option<Account>,
    /// Its group, if that is to be changed.
    pub group: Option<Account>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By its name in the installed system, whose activation makes it.
    Name(String),
}

impl Chown {
    /// Whether the system's activation has to have made its users first.
    pub fn has_names(&self) -> bool {
        [&self.user, &self.group].into_iter().any(|a| matches!(a, Some(Account::Name(_))))
    }

    /// The owner as `chown(1)` writes it.
    pub fn owner(&self) -> String {
        let word = |account: &Option<Account>| match account {
            None => String::new(),
            Some(Account::Id(id)) => id.to_string(),
            Some(Account::Name(name)) => name.clone(),
        };
        match &self.group {
            None => word(&self.user),
            group => format!("{}:{}", word(&self.user), word(group)),
        }
    }
}

/// Where the installed system's SSH host keys come from. It always has an Ed25519 key: one is
/// made if none came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum HostKeys {
    /// Made at the installation.
    #[default]
    Made,
    /// The installer's, copied.
    Installer,
    /// The operator's.
    Given {
        /// Their public halves, `ssh-ed25519 AAAA…`, without comments.
        public: Vec<String>,
    },
}

/// What the controller read from the closure before it connected; the planner needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosureFacts {
    /// The path to install.
    pub toplevel: String,
    /// Nix's name of the platform, as `x86_64-linux`.
    pub system: String,
    /// Number of store paths.
    pub paths: u64,
    /// Sum of all NAR sizes, in bytes.
    pub nar_bytes: u64,
    /// Kernel plus initrd, in bytes: what a generation takes on the ESP.
    pub boot_bytes: u64,
    /// The host id in `etc/hostid`, if there is one.
    pub hostid: Option<u32>,
    /// The host name in `etc/hostname`, if there is one.
    pub hostname: Option<String>,
    /// `etc/fstab`'s entries.
    pub fstab: Vec<FstabEntry>,
    /// The version of OpenZFS in the closure, as `2.3.4`, if it can be told.
    pub zfs_version: Option<String>,
    /// Whether the system will enrol Secure Boot keys, which changes PCR 7 (lanzaboote with
    /// automatic enrolment, `loader/keys/auto`).
    pub enrols_secure_boot_keys: bool,
}

/// A line of `fstab(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FstabEntry {
    /// First field.
    pub source: String,
    /// Second field.
    pub target: String,
    /// Third field.
    pub fstype: String,
    /// Fourth field, split at commas.
    pub options: Vec<String>,
}
