//! Which OpenZFS a system has.
//!
//! The pool is made with features that both the installer's module and the system's know, so
//! the system's version has to be found. First from the names of the closure's paths, as
//! nixpkgs (`zfs-kernel-2.3.4-6.12.48`, `zfs-user-2.3.4`) and Debian-made stores
//! (`zfsutils-linux-2.3.2-2`) write them; where none tells, from the module file's `.modinfo`
//! (`version=2.3.4-1`, include/linux/module.h). Where parts differ the oldest counts.

use super::error::ClosureError;
use super::files::{Files, Node, present};
use super::store::store_path_of;
use liblzma::read::XzDecoder;
use std::collections::HashSet;
use std::io::{self, Read};
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
/// How much of a module file is read, once decompressed; zfs.ko is about 10 MB with symbols.
const MAX_MODULE: u64 = 256 << 20;
/// What stands before the version there, and how much of what follows is looked at.
const KEY: &[u8] = b"\0version=";
const VALUE: usize = 64;
/// Bytes that are looked through at once.
const PIECE: usize = 256 << 10;

/// The system's version, as `2.3.4`, if it can be told.
pub fn version(
    files: &dyn Files,
    toplevel: &str,
    members: &HashSet<&str>,
) -> Result<Option<String>, ClosureError> {
    let named = members.iter().filter_map(|path| {
        let name = path.strip_prefix("/nix/store/")?.get(33..)?;
        PACKAGES.iter().find_map(|package| leading_version(name.strip_prefix(package)?))
    });
    let version = match named.min() {
        Some(version) => Some(version),
        None => {
            let modules = Path::new(toplevel).join("kernel-modules/lib/modules");
            let fail = |source| ClosureError::Read { path: modules.clone(), source };
            module_version(files, &modules, members).map_err(fail)?
        }
    };
    Ok(version.map(|(a, b, c)| format!("{a}.{b}.{c}")))
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

/// From `zfs.ko` below a directory of modules.
fn module_version(
    files: &dyn Files,
    modules: &Path,
    members: &HashSet<&str>,
) -> io::Result<Option<(u32, u32, u32)>> {
    let Some(modules) = present(files.resolve(modules))? else { return Ok(None) };
    let Some(file) = find_module(files, &modules, members, 0)? else { return Ok(None) };
    // What can't be decompressed tells no version.
    Ok(read_module(&file, files.open(&file)?))
}

/// The first `zfs.ko`, `zfs.ko.zst` or `zfs.ko.xz`, links within the closure followed.
fn find_module(
    files: &dyn Files,
    dir: &Path,
    members: &HashSet<&str>,
    depth: usize,
) -> io::Result<Option<PathBuf>> {
    let inside = store_path_of(dir).is_some_and(|path| members.contains(path.as_str()));
    if depth > 8 || !inside {
        return Ok(None);
    }
    let mut below = Vec::new();
    for name in files.names(dir)? {
        let Some(path) = present(files.resolve(&dir.join(&name)))? else { continue };
        if matches!(name.to_str(), Some("zfs.ko" | "zfs.ko.zst" | "zfs.ko.xz")) {
            return Ok(Some(path));
        }
        if files.node(&path)? == Node::Directory {
            below.push(path);
        }
    }
    below.sort();
    for path in below {
        if let Some(module) = find_module(files, &path, members, depth + 1)? {
            return Ok(Some(module));
        }
    }
    Ok(None)
}

fn read_module(file: &Path, source: impl Read) -> Option<(u32, u32, u32)> {
    match file.extension()?.to_str()? {
        "ko" => find_version(source.take(MAX_MODULE)),
        "zst" => find_version(zstd::Decoder::new(source).ok()?.take(MAX_MODULE)),
        "xz" => find_version(XzDecoder::new(source).take(MAX_MODULE)),
        _ => None,
    }
}

/// The first version in a module, which is not kept in memory.
fn find_version(mut module: impl Read) -> Option<(u32, u32, u32)> {
    let mut piece = Vec::with_capacity(PIECE + KEY.len() + VALUE);
    loop {
        let more = module.by_ref().take(PIECE as u64).read_to_end(&mut piece).ok()?;
        let found = piece.windows(KEY.len()).position(|window| window == KEY);
        if let Some(at) = found.filter(|at| more == 0 || at + KEY.len() + VALUE <= piece.len()) {
            let value = piece[at + KEY.len()..].split(|&byte| byte == 0).next()?;
            return leading_version(std::str::from_utf8(&value[..value.len().min(VALUE)]).ok()?);
        }
        if more == 0 {
            return None;
        }
        // What may go on in the next piece.
        let rest = found.unwrap_or((piece.len() + 1).saturating_sub(KEY.len()));
        piece.drain(..rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::Store;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn from_names(names: &[&str]) -> Option<String> {
        let paths: Vec<String> = names.iter().map(|n| format!("/nix/store/{HASH}-{n}")).collect();
        let members = paths.iter().map(String::as_str).collect();
        version(&Store::below(Path::new("/nonexistent")), "/nix/store/x", &members).unwrap()
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
        assert_eq!(version(&store, &toplevel, &members).unwrap(), None);
        std::fs::write(modules.join("zfs.ko.zst"), zstd::encode_all(&module[..], 1).unwrap())
            .unwrap();
        assert_eq!(version(&store, &toplevel, &members).unwrap().unwrap(), "2.3.5");
        std::fs::remove_file(modules.join("zfs.ko.zst")).unwrap();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&module[..], 6).read_to_end(&mut xz).unwrap();
        std::fs::write(modules.join("zfs.ko.xz"), xz).unwrap();
        assert_eq!(version(&store, &toplevel, &members).unwrap().unwrap(), "2.3.5");
    }

    /// Wherever in a module it stands.
    #[test]
    fn a_version_is_found_across_pieces() {
        for before in [0, 1, PIECE - 70, PIECE - 9, PIECE - 5, PIECE, 3 * PIECE - 1] {
            for after in [0, 1, 2 * PIECE] {
                let module =
                    [&vec![1; before][..], KEY, b"2.3.5-1\0license=CDDL\0", &vec![0; after]]
                        .concat();
                assert_eq!(find_version(&module[..]), Some((2, 3, 5)), "{before} {after}");
                assert_eq!(find_version(&module[..before + KEY.len() - 1]), None);
            }
        }
        assert_eq!(
            find_version(&[&vec![1; 2 * PIECE][..], KEY, b"2.3.5"].concat()[..]),
            Some((2, 3, 5))
        );
        assert_eq!(find_version(&[KEY, b"next\0"].concat()[..]), None);
        assert_eq!(find_version(&b""[..]), None);
    }
}
