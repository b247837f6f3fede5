//! The machine around the disks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The running system: the installer, as a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Host name.
    pub hostname: String,
    /// Nix's name of the platform (`x86_64-linux`), from `uname`.
    pub platform: String,
    /// Kernel release, from `uname`.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `ID` in os-release.
    pub os_id: Option<String>,
    /// `VARIANT_ID` in os-release; `installer` on an installer.
    pub variant_id: Option<String>,
    /// `gethostid(3)`: what an imported pool is marked with.
    pub hostid: u32,
    /// `product_name` of DMI.
    pub product: Option<String>,
    /// Unix time, in seconds.
    pub clock: u64,
}

/// Firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Whether the system was booted by UEFI (`/sys/firmware/efi` exists).
    pub uefi: bool,
    /// Whether EFI variables can be read.
    pub efi_variables: bool,
    /// State of Secure Boot.
    pub secure_boot: SecureBoot,
}

/// State of Secure Boot, from the `SecureBoot` and `SetupMode` variables (UEFI 2.10, section 3.3).
/// Firmware that has no Secure Boot has neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// The variables can't be read.
    Unknown,
    /// Off, though keys are enrolled; or the firmware has none.
    Off,
    /// Off, and keys may be enrolled.
    SetupMode,
    /// On.
    On,
}

/// A TPM 2.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm {
    /// Manufacturer, four characters.
    pub manufacturer: String,
    /// Firmware version, two dotted numbers.
    pub firmware: String,
    /// Active PCR banks (`sha1`, `sha256`, …) → value of PCR 7, lower-case hex.
    pub pcr7: BTreeMap<String, String>,
    /// Whether the dictionary-attack lockout is in force.
    pub in_lockout: bool,
    /// Failed authorisations counted so far, and how many lead to lockout.
    pub lockout: (u32, u32),
    /// Whether the owner hierarchy has a password.
    pub owner_auth_set: bool,
    /// Whether there is a storage root key at 0x81000001 already. If there is, the owner's
    /// password is not needed to seal.
    pub srk: bool,
    /// Whether ECC P-256 keys are supported.
    pub ecc_p256: bool,
}

/// Processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// `model name` in `/proc/cpuinfo`.
    pub model: String,
    /// Online processors.
    pub cores: u32,
    /// Whether it has AES instructions.
    pub aes: bool,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`.
    pub available: u64,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Kernel name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Whether the link is up.
    pub up: bool,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
}

/// ZFS in the running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zfs {
    /// Version of the module, if `/dev/zfs` could be opened.
    pub module: Option<String>,
    /// Why it could not be, if so.
    pub problem: Option<String>,
    /// Pool features that the module supports, by their GUID's short name (`encryption`).
    pub features: Vec<String>,
}
