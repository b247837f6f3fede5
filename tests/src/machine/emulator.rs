//! QEMU and OVMF of the release that the guests are of, whatever this computer runs.
//!
//! Emulated guests of Debian 12's QEMU (7.2) fail now and then: it may keep for ever what another
//! processor patched while it translated, and leaves garbage in the flags after CMPXCHG16B. So
//! Debian 13's (10.0) is unpacked into the cache, and started by its own dynamic loader; nothing
//! is installed.

use super::spawn;
use crate::debian::Root;
use crate::lab::Lab;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The packages. Debian's QEMU has the BIOS in a package of its own.
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-data", "seabios", "ovmf"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where it was unpacked.
#[derive(Debug, Clone)]
pub(super) struct Emulator {
    root: PathBuf,
}

impl Emulator {
    /// Unpacks it if that was not done before.
    ///
    /// # Errors
    /// mmdebstrap failed.
    pub(super) fn get() -> Result<&'static Emulator> {
        static FOUND: OnceLock<Emulator> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let root = Root::new("emulator", PACKAGES).unpacked().build(&Lab::open()?)?;
        Ok(FOUND.get_or_init(|| Emulator { root }))
    }

    /// The beginning of its command line; it ends when the lab does.
    pub(super) fn command(&self) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = spawn::command(&libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries);
        command.arg(self.root.join("usr/bin/qemu-system-x86_64"));
        for data in ["qemu", "seabios"] {
            command.arg("-L").arg(self.root.join("usr/share").join(data));
        }
        command
    }

    /// OVMF without Secure Boot.
    pub(super) fn uefi_code(&self) -> PathBuf {
        self.uefi("OVMF_CODE_4M.fd")
    }

    /// UEFI variables as they left the factory.
    pub(super) fn uefi_variables(&self) -> PathBuf {
        self.uefi("OVMF_VARS_4M.fd")
    }

    fn uefi(&self, name: &str) -> PathBuf {
        self.root.join("usr/share/OVMF").join(name)
    }
}
