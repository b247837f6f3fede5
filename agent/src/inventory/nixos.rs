//! A NixOS that is installed, as its boot entries say it.
//!
//! They lie on a FAT file system, which is read from the device without being mounted: nothing
//! is written to it, not even the mark that it is in use.

use crate::bootloader::loader::Entry;
use fatfs::{FileSystem, FsOptions};
use keystone_protocol::inventory::InstalledNixos;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Where systemd-boot's entries are.
const ENTRIES: &str = "loader/entries";

/// The longest entry that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// How many entries are looked at.
const MOST: usize = 4096;

/// The newest generation among the boot entries of the FAT file system in `file`, of that size in
/// bytes. `None` if there is none, or it can't be read.
pub fn on_esp(file: &File, size: u64) -> Option<InstalledNixos> {
    let device = BufReader::new(Device { file, size, position: 0 });
    let filesystem = FileSystem::new(Unwritable(device), FsOptions::new()).ok()?;
    let entries = filesystem.root_dir().open_dir(ENTRIES).ok()?;
    let mut newest: Option<(u32, String)> = None;
    for entry in entries.iter().take(MOST).filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(generation) = generation(&name) else { continue };
        if newest.as_ref().is_none_or(|(known, _)| generation > *known) {
            newest = Some((generation, name));
        }
    }
    let (generation, name) = newest?;
    let mut text = String::new();
    entries.open_file(&name).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    let entry = Entry::parse(&name, &text);
    let toplevel = entry.init().and_then(|init| init.strip_suffix("/init")).map(str::to_owned);
    Some(InstalledNixos {
        generation,
        hostname: toplevel.as_deref().and_then(hostname),
        version: entry.version.or(entry.title),
        toplevel,
    })
}

/// The number in `nixos-generation-7.conf`, boot counters (`+3-0`) aside.
fn generation(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("nixos-generation-")?.strip_suffix(".conf")?;
    let digits = rest.split(['+', '-']).next()?;
    // A specialisation's entry is beside its generation's own.
    if rest[digits.len()..].starts_with("-specialisation") {
        return None;
    }
    digits.parse().ok()
}

/// The host name in `/nix/store/<hash>-nixos-system-<hostname>-<version>`; the version begins
/// with a digit (nixpkgs `nixos/modules/system/activation/top-level.nix`).
fn hostname(toplevel: &str) -> Option<String> {
    let (_, name) = toplevel.split_once("-nixos-system-")?;
    let is_version = |text: &str| {
        let first = text.split('-').next().unwrap_or_default();
        first.starts_with(|c: char| c.is_ascii_digit()) && first.contains('.')
    };
    let mut dashes = name.match_indices('-').map(|(at, _)| at);
    let version = dashes.find(|at| is_version(&name[at + 1..]))?;
    Some(name[..version].to_owned()).filter(|name| !name.is_empty())
}

/// A device read at a position of its own.
struct Device<'a> {
    file: &'a File,
    size: u64,
    position: u64,
}

impl Read for Device<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..left], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Device<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// What the FAT library, which can write, gets: every write fails.
struct Unwritable<D>(D);

impl<D: Read> Read for Unwritable<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<D: Seek> Seek for Unwritable<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl<D> Write for Unwritable<D> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run, sparse};

    #[test]
    fn names() {
        assert_eq!(generation("nixos-generation-12.conf"), Some(12));
        assert_eq!(generation("nixos-generation-12+3-0.conf"), Some(12));
        assert_eq!(generation("nixos-generation-12-specialisation-gnome.conf"), None);
        assert_eq!(generation("memtest.conf"), None);
        let host =
            |name: &str| hostname(&format!("/nix/store/0c1pq9l1v2gqq4fhvqzs9mh2gqzs4xz1-{name}"));
        assert_eq!(host("nixos-system-vault-25.05").as_deref(), Some("vault"));
        assert_eq!(host("nixos-system-my-nas-2-25.11.20251101.abc").as_deref(), Some("my-nas-2"));
        assert_eq!(host("nixos-system--25.05"), None);
    }

    #[test]
    fn the_newest_generation_is_read_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("esp");
        let file = sparse(&image, 64 << 20);
        let node = image.to_str().unwrap();
        run("dosfstools", "mkfs.vfat", &["-F", "32", node]);
        assert_eq!(on_esp(&file, 64 << 20), None);
        run("mtools", "mmd", &["-i", node, "::/loader", "::/loader/entries"]);
        for (generation, host) in [(9, "old"), (10, "vault")] {
            let entry = dir.path().join("entry");
            let toplevel =
                format!("/nix/store/0c1pq9l1v2gqq4fhvqzs9mh2gqzs4xz1-nixos-system-{host}-25.05");
            std::fs::write(
                &entry,
                format!(
                    "title NixOS\nversion Generation {generation} NixOS 25.05\nlinux /EFI/nixos/k.efi\n\
                     options init={toplevel}/init root=x\n"
                ),
            )
            .unwrap();
            let to = format!("::/loader/entries/nixos-generation-{generation}.conf");
            run("mtools", "mcopy", &["-i", node, entry.to_str().unwrap(), &to]);
        }
        let before = std::fs::read(&image).unwrap();
        let found = on_esp(&file, 64 << 20).unwrap();
        assert_eq!((found.generation, found.hostname.as_deref()), (10, Some("vault")));
        assert_eq!(found.version.as_deref(), Some("Generation 10 NixOS 25.05"));
        assert_eq!(before, std::fs::read(&image).unwrap());
        // Noise is no file system, and no panic.
        let noise: Vec<u8> =
            (0..64 << 10).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        file.write_at(&noise, 512).unwrap();
        let _ = on_esp(&file, 64 << 20);
    }
}
