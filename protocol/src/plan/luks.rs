//! LUKS containers: how they are formatted, opened and unlocked.

use serde::{Deserialize, Serialize};

/// How a container is formatted. What is `None` is libcryptsetup's default for LUKS2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LuksFormat {
    /// `--type`: 1 or 2; else 2.
    pub version: Option<u8>,
    /// `--cipher`, as `aes-xts-plain64`.
    pub cipher: Option<String>,
    /// `--key-size`, in bits.
    pub key_size: Option<u32>,
    /// `--hash`.
    pub hash: Option<String>,
    /// `--sector-size`, in bytes.
    pub sector_size: Option<u32>,
    /// `--label`.
    pub label: Option<String>,
    /// `--subsystem`.
    pub subsystem: Option<String>,
    /// `--uuid`.
    pub uuid: Option<String>,
    /// Key derivation of the lasting keyslots.
    pub pbkdf: LuksPbkdf,
}

/// Key derivation of a keyslot. What is `None` is libcryptsetup's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LuksPbkdf {
    /// `--pbkdf`: `argon2id`, `argon2i` or `pbkdf2`.
    pub kind: Option<String>,
    /// `--iter-time`, in milliseconds.
    pub iter_time: Option<u32>,
    /// `--pbkdf-force-iterations`.
    pub iterations: Option<u32>,
    /// `--pbkdf-memory`, in KiB.
    pub memory: Option<u32>,
    /// `--pbkdf-parallel`, in threads.
    pub parallel: Option<u32>,
}

/// How a container is opened: flags of dm-crypt. disko opens with `--persistent` once, so they
/// are kept in the LUKS2 header too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LuksOpen {
    /// `--allow-discards`.
    pub allow_discards: bool,
    /// `--perf-no_read_workqueue`.
    pub no_read_workqueue: bool,
    /// `--perf-no_write_workqueue`.
    pub no_write_workqueue: bool,
    /// `--perf-same_cpu_crypt`.
    pub same_cpu_crypt: bool,
    /// `--perf-submit_from_crypt_cpus`.
    pub submit_from_crypt_cpus: bool,
}

/// A key in a file of the machine being installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// Its path.
    pub path: String,
    /// Whether newlines at the end are dropped, as disko does with `passwordFile`.
    #[serde(default)]
    pub trim_newline: bool,
    /// Bytes to leave out at the beginning.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes are the key; else all that follow.
    #[serde(default)]
    pub size: Option<u64>,
}

/// How a LUKS container will be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its mapper name.
    pub name: String,
    /// What will open it.
    pub unlock: ContainerUnlock,
    /// Why that, a sentence.
    pub reason: String,
}

/// What will open a LUKS container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum ContainerUnlock {
    /// The TPM, with a recovery key beside it.
    Tpm2 {
        /// PCRs bound to.
        pcrs: Vec<u8>,
        /// PCR bank.
        bank: String,
        /// Whether a PIN is asked too.
        pin: bool,
    },
    /// A password typed at boot, with a recovery key beside it.
    Password,
    /// The key file that the layout names, exactly.
    KeyFile(KeyFile),
}
