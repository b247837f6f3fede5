//! Which OpenZFS a system has.
//!
//! The pool is made with features that both the installer's module and the system's know, so
//! the system's version has to be found. First from the names of the closure's paths, as
//! nixpkgs (`zfs-kernel-2.3.4-6.12.48`, `zfs-user-2.3.4`) and Debian-made stores
//! (`zfsutils-linux-2.3.2-2`) write them; where none tells, from the module file's `.modinfo`
//! (`version=2.3.4-1`, include/linux/module.h). Where parts differ the oldest counts.

use super::store::{Store, store_path_of};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Package names that carry OpenZFS's version, kernel parts first.
const PACKAGES: &[&str] = &[
    "zfs-kernel-unstable-",
    "zfs-kernel-",
    "zfs-modules-",
    "zfs-dkms-",
    "zfs-user-unstable-",
    "zfs-user-",
    "zfs-unstable-",
    "zfs-",
    "zfsutils-linux-",
    "zfsutils-",
];
/// The largest module file that is read, once decompressed; zfs.ko is about 10 MB with symbols.
const MAX_MODULE: u64 = 256 << 20;

/// The system's version, as `2.3.4`, if it can be told.
pub fn version(store: &Store, toplevel: &str, members: &HashSet<&str>) -> Option<String> {
    let named = members.iter().filter_map(|path| {
        let name = path.strip_prefix("/nix/store/")?.get(33..)?;
        PACKAGES.iter().find_map(|package| leading_version(name.strip_prefix(package)?))
    });
    named
        .min()
        .or_else(|| module_version(store, toplevel, members))
        .map(|(a, b, c)| format!("{a}.{b}.{c}"))
}

/// `2.3.4` at the beginning of a text, ended by anything but a digit or a dot.
fn leading_version(text: &str) -> Option<(u32, u32, u32)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(|n| n.parse::<u32>().ok());
    match (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()) {
        (a, b, c, None) => Some((a, b, c)),
        _ => None,
    }
}

/// From `zfs.ko` below `kernel-modules/lib/modules`.
fn module_version(
    store: &Store,
    toplevel: &str,
    members: &HashSet<&str>,
) -> Option<(u32, u32, u32)> {
    let modules = store.resolve(&Path::new(toplevel).join("kernel-modules/lib/modules")).ok()?;
    let file = find_module(store, &modules, members, 0)?;
    let modinfo = read_module(&store.physical(&file))?;
    let key = b"\0version=";
    let at = modinfo.windows(key.len()).position(|w| w == key)? + key.len();
    let value = modinfo[at..].split(|&b| b == 0).next()?;
    leading_version(std::str::from_utf8(value).ok()?)
}

/// The first `zfs.ko`, `zfs.ko.zst` or `zfs.ko.xz`, links within the closure followed.
fn find_module(
    store: &Store,
    dir: &Path,
    members: &HashSet<&str>,
    depth: usize,
) -> Option<PathBuf> {
    if depth > 8 || !members.contains(store_path_of(dir)?.as_str()) {
        return None;
    }
    let mut below = Vec::new();
    for entry in std::fs::read_dir(store.physical(dir)).ok()?.flatten() {
        let name = entry.file_name();
        let path = store.resolve(&dir.join(&name)).ok()?;
        if matches!(name.to_str(), Some("zfs.ko" | "zfs.ko.zst" | "zfs.ko.xz")) {
            return Some(path);
        }
        if store.physical(&path).is_dir() {
            below.push(path);
        }
    }
    below.sort();
    below.iter().find_map(|path| find_module(store, path, members, depth + 1))
}

fn read_module(file: &Path) -> Option<Vec<u8>> {
    let source = std::fs::File::open(file).ok()?;
    let mut bytes = Vec::new();
    match file.extension()?.to_str()? {
        "ko" => source.take(MAX_MODULE).read_to_end(&mut bytes).ok()?,
        "zst" => zstd::Decoder::new(source).ok()?.take(MAX_MODULE).read_to_end(&mut bytes).ok()?,
        "xz" => {
            let mut limited = Limited { bytes: &mut bytes };
            lzma_rs::xz_decompress(&mut std::io::BufReader::new(source), &mut limited).ok()?;
            bytes.len()
        }
        _ => return None,
    };
    Some(bytes)
}

struct Limited<'a> {
    bytes: &'a mut Vec<u8>,
}

impl std::io::Write for Limited<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if (self.bytes.len() + data.len()) as u64 > MAX_MODULE {
            return Err(std::io::Error::other("the module is too large"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn from_names(names: &[&str]) -> Option<String> {
        let paths: Vec<String> = names.iter().map(|n| format!("/nix/store/{HASH}-{n}")).collect();
        let members = paths.iter().map(String::as_str).collect();
        version(&Store::below(Path::new("/nonexistent")), "/nix/store/x", &members)
    }

    #[test]
    fn names_of_packages() {
        assert_eq!(from_names(&["zfs-kernel-2.3.4-6.12.48", "zfs-user-2.3.4"]).unwrap(), "2.3.4");
        assert_eq!(from_names(&["zfs-user-2.3.10", "zfs-kernel-2.3.9-6.12"]).unwrap(), "2.3.9");
        assert_eq!(from_names(&["zfsutils-linux-2.3.2-2"]).unwrap(), "2.3.2");
        assert_eq!(from_names(&["zfs-2.2.7-6.6.70"]).unwrap(), "2.2.7");
        assert_eq!(
            from_names(&["zfs-auto-snapshot-1.2.4", "zfs-mount.service", "etc-zfs-2"]),
            None
        );
    }

    #[test]
    fn the_module_tells_where_names_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("{HASH}-nixos-system");
        let modules =
            dir.path().join("nix/store").join(&name).join("kernel-modules/lib/modules/6.12/extra");
        std::fs::create_dir_all(&modules).unwrap();
        let module = b"\x7fELF..license=CDDL\0version=2.3.5-1\0author=OpenZFS\0";
        let toplevel = format!("/nix/store/{name}");
        let members: HashSet<&str> = [toplevel.as_str()].into();
        let store = Store::below(dir.path());
        assert_eq!(version(&store, &toplevel, &members), None);
        std::fs::write(modules.join("zfs.ko.zst"), zstd::encode_all(&module[..], 1).unwrap())
            .unwrap();
        assert_eq!(version(&store, &toplevel, &members).unwrap(), "2.3.5");
        std::fs::remove_file(modules.join("zfs.ko.zst")).unwrap();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &module[..], &mut xz).unwrap();
        std::fs::write(modules.join("zfs.ko.xz"), xz).unwrap();
        assert_eq!(version(&store, &toplevel, &members).unwrap(), "2.3.5");
    }
}
