//! A directory as an archive.
//!
//! tar with pax records (POSIX.1-2001); extended attributes in records named `SCHILY.xattr.NAME`,
//! as star and GNU tar write them. Two directories with the same contents make the same archive:
//! sorted, without owners and times. So a plan's hash covers what is in it.

use crate::closure::{ClosureError, ClosureSource};
use crate::nar::DumpError;
use keystone_protocol::manifest::PathInfo;
use keystone_protocol::options::ExtraFiles;
use std::cell::RefCell;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};
use thiserror::Error;

/// Attributes that speak of the operator's own system. Source: xattr(7), kernel documentation of
/// IMA, EVM and SELinux.
const NOT_KEPT: &[&str] = &["security.selinux", "security.ima", "security.evm", "trusted.overlay."];

/// The directory can't be made an archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Something can't be read.
    #[error("--extra-files: can't read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something has no place in a system.
    #[error("--extra-files: {} can't be put into the system: {problem}", path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// Why, a phrase.
        problem: &'static str,
    },
    /// It can't be written to where it goes.
    #[error("writing the archive")]
    Sink(#[source] io::Error),
}

/// A directory whose contents are put into the system.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
    facts: ExtraFiles,
}

impl Archive {
    /// Reads `dir` once, for its hash.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn new(dir: &Path) -> Result<Self, ArchiveError> {
        let mut hashed = Hashed { hasher: blake3::Hasher::new(), bytes: 0 };
        let entries = write(dir, &mut hashed)?;
        let facts = ExtraFiles {
            entries,
            bytes: hashed.bytes,
            blake3: hashed.hasher.finalize().to_hex().to_string(),
        };
        Ok(Archive { dir: dir.to_owned(), facts })
    }

    /// What is in it.
    pub fn facts(&self) -> &ExtraFiles {
        &self.facts
    }

    /// As a path to be streamed.
    pub fn path_info(&self) -> PathInfo {
        PathInfo {
            path: format!("the archive of {}", self.dir.display()),
            nar_sha256: String::new(),
            nar_size: self.facts.bytes,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
        }
    }
}

impl ClosureSource for Archive {
    fn dump(&self, _: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        let sent = write(&self.dir, out);
        sent.map(drop).map_err(|error| match error {
            ArchiveError::Sink(error) => DumpError::Sink(error),
            ArchiveError::Read { path, source } => {
                DumpError::Source(ClosureError::Read { path, source })
            }
            ArchiveError::Refused { path, problem } => {
                let source = io::Error::other(problem);
                DumpError::Source(ClosureError::Read { path, source })
            }
        })
    }
}

struct Hashed {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.hasher.update(data);
        self.bytes += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the archive; how many entries it has.
fn write(dir: &Path, out: impl Write) -> Result<u64, ArchiveError> {
    let mut builder = Builder::new(out);
    let mut entries = 0;
    add_all(&mut builder, dir, Path::new(""), &mut entries)?;
    builder.into_inner().map_err(ArchiveError::Sink)?;
    Ok(entries)
}

fn add_all<W: Write>(
    builder: &mut Builder<W>,
    root: &Path,
    below: &Path,
    entries: &mut u64,
) -> Result<(), ArchiveError> {
    let dir = root.join(below);
    let fail = |source| ArchiveError::Read { path: dir.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name());
    }
    names.sort();
    for name in names {
        let path = below.join(&name);
        if path.to_str().is_none() {
            return refused(root.join(path), "its name is not UTF-8");
        }
        if path == Path::new("nix/store") || path == Path::new("nix/var") {
            return refused(root.join(path), "the Nix store is the closure's");
        }
        *entries += 1;
        let from = root.join(&path);
        let meta = fs::symlink_metadata(&from)
            .map_err(|source| ArchiveError::Read { path: from.clone(), source })?;
        add(builder, &from, &path, &meta)?;
        if meta.is_dir() {
            add_all(builder, root, &path, entries)?;
        }
    }
    Ok(())
}

fn refused<T>(path: PathBuf, problem: &'static str) -> Result<T, ArchiveError> {
    Err(ArchiveError::Refused { path, problem })
}

fn add<W: Write>(
    builder: &mut Builder<W>,
    from: &Path,
    path: &Path,
    meta: &Metadata,
) -> Result<(), ArchiveError> {
    let read = |source| ArchiveError::Read { path: from.to_owned(), source };
    let mut header = Header::new_gnu();
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_size(0);
    if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(from).map_err(read)?;
        if target.to_str().is_none() {
            return refused(from.to_owned(), "its target is not UTF-8");
        }
        return builder.append_link(&mut header, path, target).map_err(ArchiveError::Sink);
    }
    let attributes = attributes(from).map_err(read)?;
    if !attributes.is_empty() {
        let records = attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        builder.append_pax_extensions(records).map_err(ArchiveError::Sink)?;
    }
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        return builder.append_data(&mut header, path, io::empty()).map_err(ArchiveError::Sink);
    }
    if !meta.is_file() {
        return refused(from.to_owned(), "it is neither a file, a directory nor a symbolic link");
    }
    header.set_entry_type(EntryType::Regular);
    header.set_size(meta.len());
    let failed = RefCell::new(None);
    let file = Exactly { file: File::open(from).map_err(read)?, left: meta.len(), failed: &failed };
    let appended = builder.append_data(&mut header, path, file);
    match failed.take() {
        Some(error) => Err(read(error)),
        None => appended.map_err(ArchiveError::Sink),
    }
}

/// As many bytes of a file as were announced; fewer are an error.
struct Exactly<'a> {
    file: File,
    left: u64,
    failed: &'a RefCell<Option<io::Error>>,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let failed = match self.file.read(&mut buffer[..most]) {
            Ok(0) if most > 0 => io::Error::other("it shrank while it was read"),
            Ok(n) => {
                self.left -= n as u64;
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        *self.failed.borrow_mut() = Some(failed);
        Err(io::Error::other("its file can't be read"))
    }
}

/// Extended attributes as pax records.
fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    for name in names {
        let Some(name) = name.to_str() else { continue };
        if NOT_KEPT.iter().any(|not| name.starts_with(not)) {
            continue;
        }
        if let Some(value) = xattr::get(path, name)? {
            records.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    records.sort();
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn directory() -> tempfile::TempDir {
        // On a file system that keeps user attributes.
        let dir = tempfile::tempdir_in("/var/cache").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("var/lib/secrets")).unwrap();
        fs::set_permissions(at("var/lib/secrets"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(at("var/lib/secrets/key"), "value").unwrap();
        fs::set_permissions(at("var/lib/secrets/key"), fs::Permissions::from_mode(0o600)).unwrap();
        xattr::set(at("var/lib/secrets/key"), "user.origin", b"operator").unwrap();
        symlink("../nowhere at all", at("var/link")).unwrap();
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at(&format!("etc/{} and more", "long".repeat(40))), "x").unwrap();
        dir
    }

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.dump(&archive.path_info(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_contents_make_the_same_archive_and_tar_reads_it() {
        let (one, other) = (directory(), directory());
        let archive = Archive::new(one.path()).unwrap();
        let facts = archive.facts().clone();
        assert_eq!(Archive::new(other.path()).unwrap().facts(), &facts);
        let bytes = bytes(&archive);
        assert_eq!(bytes.len() as u64, facts.bytes);
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), facts.blake3);
        assert_eq!(facts.entries, 7);
        let out = tempfile::tempdir_in("/var/cache").unwrap();
        let file = out.path().join("a.tar");
        fs::write(&file, &bytes).unwrap();
        let listed = Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "-C"])
            .arg(out.path())
            .arg("-xpf")
            .arg(&file)
            .output()
            .expect("needs tar: apt-get install tar");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let key = out.path().join("var/lib/secrets/key");
        assert_eq!(fs::read(&key).unwrap(), b"value");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(xattr::get(&key, "user.origin").unwrap().unwrap(), b"operator");
        let link = fs::read_link(out.path().join("var/link")).unwrap();
        assert_eq!(link, Path::new("../nowhere at all"));

        fs::write(one.path().join("var/lib/secrets/key"), "other").unwrap();
        assert_ne!(Archive::new(one.path()).unwrap().facts(), &facts);
    }

    #[test]
    fn what_has_no_place_in_a_system_is_named() {
        let said = |make: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            Archive::new(dir.path()).unwrap_err().to_string()
        };
        let pipe = said(&|dir| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&dir.join("pipe"), mode).unwrap();
        });
        assert!(pipe.contains("/pipe can't be put"), "{pipe}");
        let store = said(&|dir| fs::create_dir_all(dir.join("nix/store/x")).unwrap());
        assert!(store.contains("closure's"), "{store}");
        let none = Archive::new(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(none.contains("/nonexistent"), "{none}");
    }
}
