//! Making a disk whose installation failed not bootable: a half-installed system that starts is
//! worse than none.

use super::load_option::LoadOption;
use super::variables::{Variables, VariablesError};
use crate::ensure::Ensured;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What firmware and boot managers look at on an ESP: UEFI 2.10, 13.3.1.3; The Boot Loader
/// Specification.
const DIRECTORIES: [&str; 2] = ["EFI", "loader"];

/// Where the entries of boot managers are. One that is written anew boots another system.
const ENTRIES: &str = "loader/entries/";

/// What was on an ESP before a boot loader was installed: names in lower case, entries with a hash
/// of what they say.
pub type Before = BTreeSet<String>;

/// Removes every boot loader and entry from a mounted ESP that this run formatted.
pub fn remove_loaders(esp: &Path) -> io::Result<Ensured> {
    let mut ensured = Ensured::AlreadySo;
    for directory in directories(esp)? {
        fs::remove_dir_all(esp.join(directory))?;
        ensured = Ensured::Created;
    }
    sync(esp)?;
    Ok(ensured)
}

/// What firmware and boot managers find on a mounted ESP.
pub fn look(esp: &Path) -> io::Result<Before> {
    let mut found = Before::new();
    walk(esp, &mut |file| {
        found.insert(identity(esp, file)?);
        Ok(())
    })?;
    Ok(found)
}

/// Removes from a mounted ESP what [`look`] did not find there: files that are new, and entries
/// that say something else than before. Returns their paths. Everything else stays.
pub fn remove_new(esp: &Path, before: &Before) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    walk(esp, &mut |file| {
        if !before.contains(&identity(esp, file)?) {
            fs::remove_file(esp.join(file))?;
            removed.push(slashed(file));
        }
        Ok(())
    })?;
    sync(esp)?;
    Ok(removed)
}

/// Removes those of the firmware's boot entries for an ESP that `ours` tells, and returns their
/// numbers.
pub fn remove_entries(
    variables: &Variables,
    esp: Uuid,
    ours: impl Fn(&LoadOption) -> bool,
) -> Result<Vec<u16>, VariablesError> {
    let entries = variables.boot_entries()?;
    let ours =
        entries.iter().filter(|entry| entry.option.partition == Some(esp) && ours(&entry.option));
    let numbers: Vec<u16> = ours.map(|entry| entry.number).collect();
    for number in &numbers {
        variables.remove_boot_entry(*number)?;
    }
    Ok(numbers)
}

/// Those of [`DIRECTORIES`] that are there, as they are written there.
fn directories(esp: &Path) -> io::Result<Vec<PathBuf>> {
    let mut there = Vec::new();
    for found in fs::read_dir(esp)? {
        let found = found?;
        let name = found.file_name();
        let is_one = DIRECTORIES.iter().any(|directory| name.eq_ignore_ascii_case(directory));
        if is_one && found.file_type()?.is_dir() {
            there.push(name.into());
        }
    }
    Ok(there)
}

/// Calls `visit` with each file, by its path from the ESP's root.
fn walk(esp: &Path, visit: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut pending = directories(esp)?;
    while let Some(directory) = pending.pop() {
        let found: Vec<_> = fs::read_dir(esp.join(&directory))?.collect::<Result<_, _>>()?;
        for found in found {
            let path = directory.join(found.file_name());
            match found.file_type()?.is_dir() {
                true => pending.push(path),
                false => visit(&path)?,
            }
        }
    }
    Ok(())
}

fn identity(esp: &Path, file: &Path) -> io::Result<String> {
    let name = slashed(file).to_ascii_lowercase();
    if !name.starts_with(ENTRIES) {
        return Ok(name);
    }
    let hash = Sha256::digest(fs::read(esp.join(file))?);
    Ok(format!("{name} {}", hex::encode(hash)))
}

fn slashed(file: &Path) -> String {
    file.to_string_lossy().into_owned()
}

fn sync(esp: &Path) -> io::Result<()> {
    let directory = File::open(esp)?;
    nix::unistd::syncfs(&directory).map_err(io::Error::from)
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
    fn what_was_there_before_stays() {
        let esp = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = esp.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("EFI/Microsoft/Boot/bootmgfw.efi", "MZ");
        put("EFI/BOOT/BOOTX64.EFI", "MZ");
        put("loader/entries/nixos-generation-1.conf", "options init=/nix/store/old/init");
        put("loader/entries/nixos-generation-2.conf", "options init=/nix/store/older/init");
        let before = look(esp.path()).unwrap();
        assert!(remove_new(esp.path(), &before).unwrap().is_empty());

        put("EFI/BOOT/BOOTX64.EFI", "MZ, another");
        put("EFI/systemd/systemd-bootx64.efi", "MZ");
        put("loader/loader.conf", "default nixos-generation-1.conf");
        put("loader/entries/nixos-generation-1.conf", "options init=/nix/store/new/init");
        put("loader/entries/nixos-generation-3.conf", "options init=/nix/store/new/init");
        put("notes", "x");
        let mut removed = remove_new(esp.path(), &before).unwrap();
        removed.sort();
        assert_eq!(
            removed,
            [
                "EFI/systemd/systemd-bootx64.efi",
                "loader/entries/nixos-generation-1.conf",
                "loader/entries/nixos-generation-3.conf",
                "loader/loader.conf",
            ]
        );
        for stays in [
            "EFI/Microsoft/Boot/bootmgfw.efi",
            "EFI/BOOT/BOOTX64.EFI",
            "loader/entries/nixos-generation-2.conf",
            "notes",
        ] {
            assert!(esp.path().join(stays).exists(), "{stays}");
        }
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
        let none = remove_entries(&variables, ours, |option| option.is(ours, "EFI/x.efi"));
        assert!(none.unwrap().is_empty());
        let mut removed = remove_entries(&variables, ours, |_| true).unwrap();
        removed.sort_unstable();
        assert_eq!(removed, [1, 7]);
        // Other than a variable, a plain file keeps what is behind what was written.
        assert!(fs::read(file("BootOrder")).unwrap().starts_with(&[7, 0, 0, 0, 2, 0]));
        assert!(!file("BootNext").exists() && !file("Boot0001").exists());
        assert!(file("Boot0002").exists());
        assert!(remove_entries(&variables, ours, |_| true).unwrap().is_empty());
    }
}
