//! EFI variables through efivarfs.
//!
//! A file is named `<name>-<vendor GUID>` and holds a variable's attributes, four bytes, and its
//! data. It is written by one write, and the kernel makes most of them immutable. Source: Linux
//! `Documentation/filesystems/efivarfs.rst`.

use super::load_option::{self, LoadOption, Partition};
use crate::ensure::Ensured;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// `EFI_GLOBAL_VARIABLE`, UEFI 2.10, 3.3.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// systemd's boot loader interface.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Non-volatile, boot service access, runtime access: UEFI 2.10, 8.2.1.
const ATTRIBUTES: u32 = 7;
/// More than any variable read here has, in bytes.
const MAX_SIZE: u64 = 64 << 10;
/// `FS_IMMUTABLE_FL`, Linux `include/uapi/linux/fs.h`.
const IMMUTABLE: nix::libc::c_long = 0x10;

mod ioctl {
    // The kernel reads and writes an `int`, whatever the number's size says.
    nix::ioctl_read!(get_flags, b'f', 1, nix::libc::c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, nix::libc::c_long);
}

/// A variable could not be read or written.
#[derive(Debug, Error)]
#[error("could not {action} the EFI variable {name}")]
pub struct VariablesError {
    /// What was tried.
    pub action: &'static str,
    /// Which variable.
    pub name: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// A boot entry of the firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The four hexadecimal digits of `Boot####`.
    pub number: u16,
    /// What it says.
    pub option: LoadOption,
}

/// What became of `BootNext`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootNext {
    /// The machine boots this entry next, and then goes back to its order.
    Set {
        /// The entry.
        number: u16,
        /// Whether it was set now.
        ensured: Ensured,
    },
    /// Not set: the firmware's own order decides.
    NotSet {
        /// Why.
        reason: String,
    },
}

/// The machine's EFI variables.
#[derive(Debug, Clone)]
pub struct Variables {
    dir: PathBuf,
}

impl Variables {
    /// Those in a mounted efivarfs (`/sys/firmware/efi/efivars`).
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Variables { dir: dir.into() }
    }

    /// The firmware's boot entries, those in `BootOrder` first and in its order. What is no load
    /// option is left out.
    pub fn boot_entries(&self) -> Result<Vec<BootEntry>, VariablesError> {
        let order = self.read("BootOrder", GLOBAL)?.unwrap_or_default();
        let mut numbers: Vec<u16> =
            order.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let list = |source| VariablesError { action: "list", name: "Boot####".to_owned(), source };
        for file in std::fs::read_dir(&self.dir).map_err(list)? {
            let name = file.map_err(list)?.file_name();
            if let Some(number) = name.to_str().and_then(boot_number)
                && !numbers.contains(&number)
            {
                numbers.push(number);
            }
        }
        let mut entries = Vec::new();
        for number in numbers {
            let data = self.read(&format!("Boot{number:04X}"), GLOBAL)?;
            if let Some(option) = data.as_deref().and_then(LoadOption::parse) {
                entries.push(BootEntry { number, option });
            }
        }
        Ok(entries)
    }

    /// Which entry systemd-boot was told to prefer to what its `loader.conf` says.
    pub fn loader_entry_default(&self) -> Result<Option<String>, VariablesError> {
        let data = self.read("LoaderEntryDefault", LOADER)?;
        Ok(data.and_then(|data| {
            let units: Vec<u16> = data
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            String::from_utf16(&units).ok().filter(|text| !text.is_empty())
        }))
    }

    /// Adds a boot entry for `path` on `partition`, first in the firmware's order, and returns its
    /// number. The lowest free number is taken.
    pub fn add_boot_entry(
        &self,
        description: &str,
        partition: &Partition,
        path: &str,
    ) -> Result<u16, VariablesError> {
        self.insert_boot_entry(description, partition, path, true)
    }

    /// As [`Variables::add_boot_entry`], last in the firmware's order.
    pub fn append_boot_entry(
        &self,
        description: &str,
        partition: &Partition,
        path: &str,
    ) -> Result<u16, VariablesError> {
        self.insert_boot_entry(description, partition, path, false)
    }

    fn insert_boot_entry(
        &self,
        description: &str,
        partition: &Partition,
        path: &str,
        first: bool,
    ) -> Result<u16, VariablesError> {
        let list = |source| VariablesError { action: "list", name: "Boot####".to_owned(), source };
        let mut taken = std::collections::BTreeSet::new();
        for file in std::fs::read_dir(&self.dir).map_err(list)? {
            taken.extend(file.map_err(list)?.file_name().to_str().and_then(boot_number));
        }
        let number = (0..=u16::MAX)
            .find(|number| !taken.contains(number))
            .ok_or_else(|| list(io::Error::from(io::ErrorKind::StorageFull)))?;
        let data = load_option::encode(description, partition, path);
        self.write(&format!("Boot{number:04X}"), GLOBAL, &data)?;
        let order = self.read("BootOrder", GLOBAL)?.unwrap_or_default();
        let own = number.to_le_bytes();
        let rest = order.chunks_exact(2).filter(|pair| **pair != own).flatten().copied();
        let order: Vec<u8> = match first {
            true => own.into_iter().chain(rest).collect(),
            false => rest.chain(own).collect(),
        };
        self.write("BootOrder", GLOBAL, &order)?;
        Ok(number)
    }

    /// Removes a boot entry, from the firmware's order and from `BootNext` too.
    pub fn remove_boot_entry(&self, number: u16) -> Result<(), VariablesError> {
        let digits = number.to_le_bytes();
        if self.read("BootNext", GLOBAL)?.as_deref() == Some(&digits) {
            self.remove("BootNext")?;
        }
        let order = self.read("BootOrder", GLOBAL)?.unwrap_or_default();
        let rest: Vec<u8> =
            order.chunks_exact(2).filter(|pair| **pair != digits).flatten().copied().collect();
        if rest.is_empty() && !order.is_empty() {
            self.remove("BootOrder")?;
        } else if rest.len() != order.len() {
            self.write("BootOrder", GLOBAL, &rest)?;
        }
        self.remove(&format!("Boot{number:04X}"))
    }

    fn remove(&self, name: &str) -> Result<(), VariablesError> {
        let error = |source| VariablesError { action: "remove", name: name.to_owned(), source };
        let path = self.path(name, GLOBAL);
        make_mutable(&path).map_err(error)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error(e)),
            _ => Ok(()),
        }
    }

    /// Makes the machine boot the entry next.
    pub fn set_boot_next(&self, number: u16) -> Result<Ensured, VariablesError> {
        let data = number.to_le_bytes();
        if self.read("BootNext", GLOBAL)?.as_deref() == Some(&data) {
            return Ok(Ensured::AlreadySo);
        }
        self.write("BootNext", GLOBAL, &data)?;
        Ok(Ensured::Created)
    }

    fn path(&self, name: &str, vendor: &str) -> PathBuf {
        self.dir.join(format!("{name}-{vendor}"))
    }

    /// A variable's data; `None` if there is no such variable.
    fn read(&self, name: &str, vendor: &str) -> Result<Option<Vec<u8>>, VariablesError> {
        let error = |source| VariablesError { action: "read", name: name.to_owned(), source };
        let file = match File::open(self.path(name, vendor)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(error)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(error)?;
        Ok((bytes.len() > 4).then(|| bytes.split_off(4)))
    }

    fn write(&self, name: &str, vendor: &str, data: &[u8]) -> Result<(), VariablesError> {
        let error = |source| VariablesError { action: "write", name: name.to_owned(), source };
        let path = self.path(name, vendor);
        make_mutable(&path).map_err(error)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(error)?;
        let bytes = [&ATTRIBUTES.to_le_bytes()[..], data].concat();
        match file.write(&bytes).map_err(error)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(error(io::Error::from(io::ErrorKind::WriteZero))),
        }
    }
}

/// Takes away the flag that protects a variable from slips, if there is the variable.
fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut flags = 0;
    // SAFETY: the descriptor is open, and `flags` is as long as the ioctl's number says.
    match unsafe { ioctl::get_flags(file.as_raw_fd(), &mut flags) } {
        // A file system without flags protects nothing.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
        Ok(_) => {}
    }
    if flags & IMMUTABLE != 0 {
        flags &= !IMMUTABLE;
        // SAFETY: as above.
        unsafe { ioctl::set_flags(file.as_raw_fd(), &flags) }?;
    }
    Ok(())
}

/// The number in the name of a `Boot####` variable's file.
fn boot_number(file: &str) -> Option<u16> {
    let digits = file.strip_suffix(GLOBAL)?.strip_suffix('-')?.strip_prefix("Boot")?;
    let ok = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if ok { u16::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::load_option::tests::of;
    use super::*;
    use uuid::Uuid;

    pub(in super::super) fn put(dir: &Path, name: &str, vendor: &str, data: &[u8]) {
        let bytes = [&[7, 0, 0, 0], data].concat();
        std::fs::write(dir.join(format!("{name}-{vendor}")), bytes).unwrap();
    }

    pub(in super::super) fn put_entry(dir: &Path, number: u16, partition: Uuid, file: &str) {
        put(dir, &format!("Boot{number:04X}"), GLOBAL, &of("entry", partition, file));
    }

    #[test]
    fn lists_entries_in_boot_order() {
        let dir = tempfile::tempdir().unwrap();
        for number in [1, 0x2a, 3] {
            put_entry(dir.path(), number, Uuid::nil(), "\\x.efi");
        }
        put(dir.path(), "Boot0009", GLOBAL, b"no load option");
        put(dir.path(), "BootCurrent", GLOBAL, &[1, 0]);
        put(dir.path(), "BootOrder", GLOBAL, &[0x2a, 0, 0x77, 0, 1, 0]);
        let numbers: Vec<u16> =
            Variables::new(dir.path()).boot_entries().unwrap().iter().map(|e| e.number).collect();
        assert_eq!(numbers, [0x2a, 1, 3]);
    }

    #[test]
    fn a_new_entry_takes_a_free_number_and_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::new(dir.path());
        let guid = Uuid::new_v4();
        let partition = Partition { guid, number: 2, first_lba: 34, sectors: 7 };
        put_entry(dir.path(), 0, Uuid::nil(), "x.efi");
        put(dir.path(), "BootOrder", GLOBAL, &[0, 0, 1, 0]);
        // A number that only the order still has is free, and not there twice.
        let number = variables.add_boot_entry("Linux", &partition, "EFI/a.efi").unwrap();
        assert_eq!(number, 1);
        let entries = variables.boot_entries().unwrap();
        assert_eq!(entries[0].number, 1);
        assert!(entries[0].option.active && entries[0].option.is(guid, "EFI/a.efi"));
        let order = std::fs::read(dir.path().join(format!("BootOrder-{GLOBAL}"))).unwrap();
        assert_eq!(order, [7, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn writes_boot_next_once() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::new(dir.path());
        assert_eq!(variables.set_boot_next(0x2a).unwrap(), Ensured::Created);
        assert_eq!(variables.set_boot_next(0x2a).unwrap(), Ensured::AlreadySo);
        let file = dir.path().join(format!("BootNext-{GLOBAL}"));
        assert_eq!(std::fs::read(file).unwrap(), [7, 0, 0, 0, 0x2a, 0]);
    }

    #[test]
    fn an_immutable_variable_is_written_all_the_same() {
        // Where the build machine's file systems have the flag: ext4 does, tmpfs since 6.6.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("BootNext-{GLOBAL}"));
        put(dir.path(), "BootNext", GLOBAL, &[1, 0]);
        let file = File::open(&path).unwrap();
        // SAFETY: the descriptor is open, the value as long as the ioctl's number says.
        unsafe { ioctl::set_flags(file.as_raw_fd(), &IMMUTABLE) }
            .expect("needs root, and a temporary directory on ext4 or tmpfs");
        assert!(std::fs::write(&path, "").is_err());
        assert_eq!(Variables::new(dir.path()).set_boot_next(2).unwrap(), Ensured::Created);
        assert_eq!(std::fs::read(path).unwrap(), [7, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn reads_what_systemd_boot_prefers() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::new(dir.path());
        assert_eq!(variables.loader_entry_default().unwrap(), None);
        let text: Vec<u8> = "a.conf\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        put(dir.path(), "LoaderEntryDefault", LOADER, &text);
        assert_eq!(variables.loader_entry_default().unwrap().as_deref(), Some("a.conf"));
    }
}
