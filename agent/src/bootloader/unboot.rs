//! Making a disk whose installation failed not bootable: a half-installed system that starts is
//! worse than none.

use super::Variables;
use super::variables::VariablesError;
use crate::ensure::Ensured;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use uuid::Uuid;

/// What firmware and boot managers look at on an ESP: UEFI 2.10, 13.3.1.3; The Boot Loader
/// Specification.
const DIRECTORIES: [&str; 2] = ["EFI", "loader"];

/// Removes every boot loader and entry from a mounted ESP that this run made.
pub fn remove_loaders(esp: &Path) -> io::Result<Ensured> {
    let mut ensured = Ensured::AlreadySo;
    for found in fs::read_dir(esp)? {
        let found = found?;
        let name = found.file_name();
        if DIRECTORIES.iter().any(|directory| name.eq_ignore_ascii_case(directory)) {
            fs::remove_dir_all(found.path())?;
            ensured = Ensured::Created;
        }
    }
    let directory = File::open(esp)?;
    nix::unistd::syncfs(&directory).map_err(io::Error::from)?;
    Ok(ensured)
}

/// Removes the firmware's boot entries for an ESP, and returns their numbers.
pub fn remove_entries(variables: &Variables, esp: Uuid) -> Result<Vec<u16>, VariablesError> {
    let entries = variables.boot_entries()?;
    let ours = entries.iter().filter(|entry| entry.option.partition == Some(esp));
    let numbers: Vec<u16> = ours.map(|entry| entry.number).collect();
    for number in &numbers {
        variables.remove_boot_entry(*number)?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::super::variables::tests::put_entry;
    use super::*;

    #[test]
    fn nothing_that_boots_stays() {
        let esp = tempfile::tempdir().unwrap();
        for file in
            ["EFI/BOOT/BOOTX64.EFI", "efi/systemd/systemd-bootx64.efi", "Loader/loader.conf"]
        {
            let path = esp.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(esp.path().join("notes"), "x").unwrap();
        assert_eq!(remove_loaders(esp.path()).unwrap(), Ensured::Created);
        let left: Vec<_> =
            fs::read_dir(esp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes"]);
        assert_eq!(remove_loaders(esp.path()).unwrap(), Ensured::AlreadySo);
    }

    #[test]
    fn only_entries_of_that_partition_go() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::new(dir.path());
        let (ours, other) = (Uuid::new_v4(), Uuid::new_v4());
        put_entry(dir.path(), 1, ours, "\\EFI\\a.efi");
        put_entry(dir.path(), 2, other, "\\EFI\\b.efi");
        put_entry(dir.path(), 7, ours, "\\EFI\\c.efi");
        let file =
            |name: &str| dir.path().join(format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c"));
        fs::write(file("BootOrder"), [7, 0, 0, 0, 7, 0, 2, 0, 1, 0]).unwrap();
        fs::write(file("BootNext"), [7, 0, 0, 0, 1, 0]).unwrap();
        let mut removed = remove_entries(&variables, ours).unwrap();
        removed.sort_unstable();
        assert_eq!(removed, [1, 7]);
        // Other than a variable, a plain file keeps what is behind what was written.
        assert!(fs::read(file("BootOrder")).unwrap().starts_with(&[7, 0, 0, 0, 2, 0]));
        assert!(!file("BootNext").exists() && !file("Boot0001").exists());
        assert!(file("Boot0002").exists());
        assert!(remove_entries(&variables, ours).unwrap().is_empty());
    }
}
