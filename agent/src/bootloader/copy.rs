//! A copy of the ESP on another disk, which boots the machine when the first disk is gone.
//!
//! Only what differs is written, each file under another name first; what the original does not
//! have is removed. The copy gets a boot entry of its own at the end of the firmware's order.

use super::load_option::Partition;
use super::variables::{Variables, VariablesError};
use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use crate::mount::{MountError, TempMount};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The ending of a file that is not whole yet; FAT has no links to make it vanish by.
const UNFINISHED: &str = ".keystone-new";

/// How much of two files is compared at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// Boot loaders, the best first: what the firmware's entry for the copy starts.
const LOADERS: [&str; 4] = [
    "EFI/systemd/systemd-bootx64.efi",
    "EFI/systemd/systemd-bootaa64.efi",
    "EFI/BOOT/BOOTX64.EFI",
    "EFI/BOOT/BOOTAA64.EFI",
];

/// The ESP can't be copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The copy's file system.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried, a gerund.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The copy does not read back as the original.
    #[error("{} on the copy reads back differently than the original", .0.display())]
    NotKept(PathBuf),
    /// There is nothing on the ESP that could be booted.
    #[error("the ESP at {} has no boot loader to copy", .0.display())]
    NoLoader(PathBuf),
}

/// Makes the FAT32 file system on `to` hold what is below `from`, where the ESP is mounted, and
/// nothing else; reads it back. Returns the boot loader to start there, too.
///
/// # Errors
/// [`CopyError::NotKept`], or what kept it from being written.
pub fn ensure(roots: &Roots, from: &Path, to: &Node) -> Result<(Ensured, &'static str), CopyError> {
    let loader = LOADERS.into_iter().find(|loader| from.join(loader).is_file());
    let loader = loader.ok_or_else(|| CopyError::NoLoader(from.to_owned()))?;
    let mount = TempMount::with_options(roots, &to.path, "vfat", false, &["umask=0077"])?;
    let written = mirror(from, mount.path());
    mount.unmount()?;
    let ensured = written?;
    // From the device, not from memory.
    let mount = TempMount::new(roots, &to.path, "vfat", true)?;
    let different = difference(from, mount.path());
    mount.unmount()?;
    match different? {
        None => Ok((ensured, loader)),
        Some(path) => Err(CopyError::NotKept(path)),
    }
}

/// Makes the firmware able to boot `loader` on the copy, after everything it boots otherwise.
///
/// # Errors
/// The variables can't be read or written. The fallback path still boots the copy.
pub fn ensure_entry(
    variables: &Variables,
    partition: &Partition,
    loader: &str,
) -> Result<Ensured, VariablesError> {
    let there = variables.boot_entries()?;
    if there.iter().any(|entry| entry.option.active && entry.option.is(partition.guid, loader)) {
        return Ok(Ensured::AlreadySo);
    }
    variables.append_boot_entry("Linux Boot Manager", partition, loader)?;
    Ok(Ensured::Created)
}

fn fail<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CopyError + 'a {
    move |source| CopyError::File { action, path: path.to_owned(), source }
}

/// Makes `to` equal to `from`, both directories.
fn mirror(from: &Path, to: &Path) -> Result<Ensured, CopyError> {
    let mut ensured = Ensured::AlreadySo;
    for name in names(to)? {
        let (original, copy) = (from.join(&name), to.join(&name));
        let stays = original.exists() && original.is_dir() == copy.is_dir();
        if !stays {
            let removed =
                if copy.is_dir() { fs::remove_dir_all(&copy) } else { fs::remove_file(&copy) };
            removed.map_err(fail("removing", &copy))?;
            ensured = Ensured::Created;
        }
    }
    for name in names(from)? {
        let (original, copy) = (from.join(&name), to.join(&name));
        if original.is_dir() {
            if !copy.exists() {
                fs::create_dir(&copy).map_err(fail("making", &copy))?;
                ensured = Ensured::Created;
            }
            ensured = ensured.and(mirror(&original, &copy)?);
        } else if !same(&original, &copy)? {
            replace(&original, &copy)?;
            ensured = Ensured::Created;
        }
    }
    if ensured == Ensured::Created {
        File::open(to).and_then(|dir| dir.sync_all()).map_err(fail("syncing", to))?;
    }
    Ok(ensured)
}

fn replace(original: &Path, copy: &Path) -> Result<(), CopyError> {
    let mut unfinished = copy.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let mut source = File::open(original)?;
        let mut new = File::create(&unfinished)?;
        io::copy(&mut source, &mut new)?;
        new.sync_all()?;
        fs::rename(&unfinished, copy)
    };
    write().map_err(fail("copying to", copy))
}

/// The first path whose copy is not as the original.
fn difference(from: &Path, to: &Path) -> Result<Option<PathBuf>, CopyError> {
    let (originals, copies) = (names(from)?, names(to)?);
    if let Some(odd) = copies.iter().find(|name| !originals.contains(name)) {
        return Ok(Some(to.join(odd)));
    }
    for name in originals {
        let (original, copy) = (from.join(&name), to.join(&name));
        let different = match original.is_dir() {
            true if copy.is_dir() => difference(&original, &copy)?,
            true => Some(copy),
            false => (!same(&original, &copy)?).then_some(copy),
        };
        if different.is_some() {
            return Ok(different);
        }
    }
    Ok(None)
}

/// Whether two files have the same content.
fn same(one: &Path, other: &Path) -> Result<bool, CopyError> {
    let length = |path: &Path| fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
    let Some(size) = length(one) else { return Ok(false) };
    if length(other) != Some(size) {
        return Ok(false);
    }
    let mut files = [one, other].map(|path| (File::open(path), path));
    let mut chunks = [vec![0; CHUNK], vec![0; CHUNK]];
    let mut left = size;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        for ((file, path), chunk) in files.iter_mut().zip(&mut chunks) {
            let file = match file {
                Ok(file) => file,
                Err(error) => {
                    let source = io::Error::new(error.kind(), error.to_string());
                    return Err(fail("reading", path)(source));
                }
            };
            file.read_exact(&mut chunk[..count]).map_err(fail("reading", path))?;
        }
        if chunks[0][..count] != chunks[1][..count] {
            return Ok(false);
        }
        left -= count as u64;
    }
    Ok(true)
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>, CopyError> {
    let read = || -> io::Result<Vec<_>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = read().map_err(fail("listing", dir))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::find;
    use crate::testing::Loop;

    #[test]
    fn the_copy_is_equal_and_only_differences_are_written() {
        let (esp, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |path: &str, bytes: &[u8]| {
            let path = esp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("EFI/BOOT/BOOTX64.EFI", b"MZ");
        write("loader/entries/nixos-generation-1.conf", b"title NixOS\n");
        write("EFI/nixos/kernel.efi", &vec![7; 3 << 20]);
        let mirrored = || mirror(esp.path(), copy.path()).unwrap();
        assert!(difference(esp.path(), copy.path()).unwrap().is_some());
        assert_eq!((mirrored(), mirrored()), (Ensured::Created, Ensured::AlreadySo));

        // Another generation, one less, and something of somebody else's on the copy.
        write("loader/entries/nixos-generation-2.conf", b"title NixOS\n");
        fs::remove_file(esp.path().join("loader/entries/nixos-generation-1.conf")).unwrap();
        write("EFI/nixos/kernel.efi", &vec![8; 3 << 20]);
        fs::write(copy.path().join("other"), "x").unwrap();
        assert_eq!((mirrored(), mirrored()), (Ensured::Created, Ensured::AlreadySo));
        assert_eq!(difference(esp.path(), copy.path()).unwrap(), None);
        assert_eq!(
            names(&copy.path().join("loader/entries")).unwrap(),
            ["nixos-generation-2.conf"]
        );
        assert_eq!(names(copy.path()).unwrap(), ["EFI", "loader"]);
    }

    #[test]
    fn an_esp_without_a_loader_is_not_copied() {
        let disk = Loop::new(34 << 20, 512);
        let esp = tempfile::tempdir().unwrap();
        let roots = Roots::default();
        let node = find::node(&roots, disk.name()).unwrap();
        let none = ensure(&roots, esp.path(), &node).unwrap_err();
        assert!(matches!(none, CopyError::NoLoader(_)), "{none}");
    }

    #[test]
    fn its_boot_entry_comes_last_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::new(dir.path());
        crate::bootloader::variables::tests::put_entry(dir.path(), 0, uuid::Uuid::nil(), "x.efi");
        let guid = uuid::Uuid::new_v4();
        let partition = Partition { guid, number: 1, first_lba: 2048, sectors: 7 };
        let made = || ensure_entry(&variables, &partition, LOADERS[0]).unwrap();
        assert_eq!(made(), Ensured::Created);
        assert_eq!(made(), Ensured::AlreadySo);
        let second = Partition { guid: uuid::Uuid::new_v4(), ..partition };
        assert_eq!(ensure_entry(&variables, &second, LOADERS[0]).unwrap(), Ensured::Created);
        let entries = variables.boot_entries().unwrap();
        let ours: Vec<bool> = entries.iter().map(|e| e.option.is(guid, LOADERS[0])).collect();
        // The one that nobody ordered is listed behind those that are.
        assert_eq!(ours, [true, false, false]);
        assert!(entries[1].option.is(second.guid, LOADERS[0]));
    }

    #[test]
    fn a_copy_that_does_not_fit_is_an_error() {
        let disk = Loop::new(34 << 20, 512);
        let (esp, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = Roots { run: run.path().to_owned(), ..Roots::default() };
        let _ = crate::testing::run("e2fsprogs", "mkfs.ext4", &["-q", disk.node()]);
        let node = find::node(&roots, disk.name()).unwrap();
        fs::create_dir_all(esp.path().join("EFI/BOOT")).unwrap();
        fs::write(esp.path().join("EFI/BOOT/BOOTX64.EFI"), vec![1; 40 << 20]).unwrap();
        let mount = TempMount::new(&roots, &node.path, "ext4", false).unwrap();
        let full = mirror(esp.path(), mount.path()).unwrap_err();
        assert!(matches!(full, CopyError::File { .. }), "{full}");
        mount.unmount().unwrap();
    }
}
