//! Is what was put on the ESP what will boot the system?
//!
//! Nothing here trusts the program that installed the boot loader: the configuration on the ESP is
//! read as the boot loader reads it, and what it names is compared with the store byte by byte.
//!
//! | module | job |
//! |---|---|
//! | [`loader`] | systemd-boot's configuration and entries: pure |
//! | [`load_option`] | what a `Boot####` variable says, read and written: pure |
//! | [`variables`] | EFI variables, read and written |
//! | [`check`](mod@check) | reads the ESP, compares it with the store |
//! | [`copy`] | the same on another disk |
//! | [`unboot`] | the opposite: a disk whose installation failed must not boot |
//!
//! Only systemd-boot with its entries in files is known. Of other boot loaders it is said that
//! they are not.

pub mod check;
pub mod copy;
pub mod load_option;
pub mod loader;
pub mod unboot;
pub mod variables;

pub use check::{
    BootCheck, BootCheckError, Copied, Firmware, Installed, check, ensure_boot_entry, set_boot_next,
};
pub use load_option::Partition;
pub use variables::{BootNext, Variables, VariablesError};
