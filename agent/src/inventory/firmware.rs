//! UEFI and Secure Boot.

use crate::block::Roots;
use keystone_protocol::inventory::{Firmware, SecureBoot};
use std::fs;
use std::io::ErrorKind;

/// `EFI_GLOBAL_VARIABLE` (UEFI 2.10, section 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// How the system was booted.
pub fn read(roots: &Roots) -> Firmware {
    let efi = roots.sys.join("firmware/efi");
    let variables = efi.join("efivars");
    let efi_variables = fs::read_dir(&variables).is_ok_and(|mut entries| entries.next().is_some());
    // Where there are others and not this one, it is not set.
    let flag = |name: &str| match fs::read(variables.join(format!("{name}-{GLOBAL}"))) {
        Ok(bytes) => parse_flag(&bytes),
        Err(error) if efi_variables && error.kind() == ErrorKind::NotFound => Some(false),
        Err(_) => None,
    };
    Firmware {
        uefi: efi.exists(),
        efi_variables,
        secure_boot: secure_boot(flag("SecureBoot"), flag("SetupMode")),
    }
}

/// A variable of one byte as efivarfs shows it: four bytes of attributes come first.
fn parse_flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [_, _, _, _, value] => Some(*value == 1),
        _ => None,
    }
}

fn secure_boot(enabled: Option<bool>, setup_mode: Option<bool>) -> SecureBoot {
    match (enabled, setup_mode) {
        (Some(true), _) => SecureBoot::On,
        (Some(false), Some(true)) => SecureBoot::SetupMode,
        (Some(false), _) => SecureBoot::Off,
        (None, _) => SecureBoot::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let on = parse_flag(&[6, 0, 0, 0, 1]);
        let off = parse_flag(&[6, 0, 0, 0, 0]);
        assert_eq!((on, off, parse_flag(&[1])), (Some(true), Some(false), None));
        assert_eq!(secure_boot(on, off), SecureBoot::On);
        assert_eq!(secure_boot(off, on), SecureBoot::SetupMode);
        assert_eq!(secure_boot(off, off), SecureBoot::Off);
        assert_eq!(secure_boot(off, None), SecureBoot::Off);
        assert_eq!(secure_boot(None, None), SecureBoot::Unknown);
    }

    #[test]
    fn read_from_a_tree() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots::below(root.path());
        assert!(!read(&roots).uefi);
        let variables = roots.sys.join("firmware/efi/efivars");
        fs::create_dir_all(&variables).unwrap();
        let bare = read(&roots);
        assert!(bare.uefi && !bare.efi_variables);
        assert_eq!(bare.secure_boot, SecureBoot::Unknown);
        // Firmware without Secure Boot has variables, but none of that.
        fs::write(variables.join(format!("BootOrder-{GLOBAL}")), [7, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(read(&roots).secure_boot, SecureBoot::Off);
        fs::create_dir(variables.join(format!("SecureBoot-{GLOBAL}"))).unwrap();
        assert_eq!(read(&roots).secure_boot, SecureBoot::Unknown);
        fs::remove_dir(variables.join(format!("SecureBoot-{GLOBAL}"))).unwrap();
        for (name, value) in [("SecureBoot", 0), ("SetupMode", 1)] {
            fs::write(variables.join(format!("{name}-{GLOBAL}")), [6, 0, 0, 0, value]).unwrap();
        }
        let firmware = read(&roots);
        assert!(firmware.efi_variables);
        assert_eq!(firmware.secure_boot, SecureBoot::SetupMode);
    }
}
