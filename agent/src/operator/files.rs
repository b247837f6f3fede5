//! An archive of the operator's unpacked into the system.
//!
//! The format is tar with pax records (POSIX.1-2001), extended attributes in records named
//! `SCHILY.xattr.NAME` as star and GNU tar write them. Everything is owned by root. Modes,
//! symbolic links and extended attributes are kept; a directory that is there already stays as it
//! is, so that an operator's umask does not reach `/etc`.

use super::path;
use crate::store::fs::{FsError, Io, OpenDir, file_type, remove_tree};
use keystone_protocol::options::ExtraFiles;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod};
use nix::unistd::{Gid, Uid, fchown};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tar::{Archive, Entry, EntryType};
use thiserror::Error;
use xattr::FileExt;

/// Name of pax records with extended attributes. Source: star(5).
const XATTR: &str = "SCHILY.xattr.";

/// The operator's files are not all in the system.
#[derive(Debug, Error)]
pub enum FilesError {
    /// A file could not be made.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The archive can't be read.
    #[error("could not read the operator's files")]
    Read(#[source] io::Error),
    /// Something in the archive has no place in a system.
    #[error("{path} of the operator's files can't be put into the system: {problem}")]
    Refused {
        /// Its path.
        path: String,
        /// Why.
        problem: &'static str,
    },
    /// The archive is not the one of the plan.
    #[error("the operator's files are not those of the plan any more: they changed meanwhile")]
    Changed,
    /// Stopped on request.
    #[error("stopped")]
    Cancelled,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: u64,
    /// What could not be kept, a sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks `archive` below `root`, and proves that it was the plan's. `progress` gets the bytes
/// read so far.
///
/// # Errors
/// [`FilesError`]; what was put into the system until then stays.
pub fn unpack(
    root: &Path,
    archive: impl Read,
    plan: &ExtraFiles,
    progress: &mut dyn FnMut(u64),
    cancel: &AtomicBool,
) -> Result<Unpacked, FilesError> {
    let hashed =
        Hashed { inner: archive, hasher: blake3::Hasher::new(), bytes: 0, progress, cancel };
    let mut archive = Archive::new(hashed);
    let mut unpacked = Unpacked::default();
    for entry in archive.entries().map_err(FilesError::Read)? {
        put(root, &mut entry.map_err(read_error)?, &mut unpacked.warnings)?;
        unpacked.entries += 1;
    }
    let mut hashed = archive.into_inner();
    io::copy(&mut hashed, &mut io::sink()).map_err(read_error)?;
    let same = hashed.hasher.finalize().to_hex().as_str() == plan.blake3;
    if !same || hashed.bytes != plan.bytes || unpacked.entries != plan.entries {
        return Err(FilesError::Changed);
    }
    Ok(unpacked)
}

fn read_error(error: io::Error) -> FilesError {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => FilesError::Cancelled,
        _ => FilesError::Read(error),
    }
}

/// Reads, hashes, counts.
struct Hashed<'a, R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64),
    cancel: &'a AtomicBool,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        (self.progress)(self.bytes);
        Ok(read)
    }
}

fn put(
    root: &Path,
    entry: &mut Entry<'_, impl Read>,
    warnings: &mut Vec<String>,
) -> Result<(), FilesError> {
    let path = entry.path().map_err(FilesError::Read)?.into_owned();
    let refused = |problem| FilesError::Refused { path: path.display().to_string(), problem };
    let names = path::names(&path).ok_or_else(|| refused("its path leads out of it"))?;
    let Some(name) = names.last() else { return Err(refused("it has no name")) };
    if names.starts_with(&["nix", "store"]) || names.starts_with(&["nix", "var", "nix"]) {
        return Err(refused("the Nix store is the closure's"));
    }
    let mode = entry.header().mode().map_err(FilesError::Read)? & 0o7777;
    let parent = path::ensure_parent(root, &names)?;
    match entry.header().entry_type() {
        EntryType::Directory => {
            let (dir, made) = parent.ensure(name, mode)?;
            if made {
                set_attributes(File::from(dir.fd), entry, &dir.path, warnings)?;
            }
        }
        EntryType::Symlink => {
            let target = entry.link_name().map_err(FilesError::Read)?;
            let target = target.as_deref().and_then(Path::to_str).map(str::to_owned);
            let target = target.ok_or_else(|| refused("its target can't be read"))?;
            if is_dir(&parent, name)? {
                return Err(refused("there is a directory in its place"));
            }
            parent.ensure_symlink(name, &target)?;
        }
        EntryType::Regular => {
            if is_dir(&parent, name)? {
                return Err(refused("there is a directory in its place"));
            }
            put_file(&parent, name, mode, entry, warnings)?;
        }
        _ => return Err(refused("it is neither a file, a directory nor a symbolic link")),
    }
    Ok(())
}

fn is_dir(parent: &OpenDir, name: &str) -> Result<bool, FsError> {
    Ok(parent.stat(name)?.is_some_and(|stat| file_type(&stat) == SFlag::S_IFDIR))
}

/// Writes a file under a temporary name, readable by nobody else, and names it when it is whole.
fn put_file(
    parent: &OpenDir,
    name: &str,
    mode: u32,
    entry: &mut Entry<'_, impl Read>,
    warnings: &mut Vec<String>,
) -> Result<(), FilesError> {
    const TEMPORARY: &str = ".keystone-extra-file";
    let path = parent.path.join(name);
    // A leftover of a run that was killed.
    remove_tree(&parent.fd, TEMPORARY.as_bytes()).at("remove the leftover beside", &path)?;
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&parent.fd, TEMPORARY, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .at("make file", &path)?;
    // A directory that passes its group on would pass it to this file too.
    fchown(&fd, Some(Uid::from_raw(0)), Some(Gid::from_raw(0))).at("set the owner of", &path)?;
    let mut file = File::from(fd);
    let written = io::copy(entry, &mut file).map_err(read_error)?;
    if written != entry.size() {
        return Err(FilesError::Changed);
    }
    match fchmod(&file, Mode::from_bits_truncate(mode)) {
        Err(Errno::EPERM) => warnings.push(format!(
            "the file system of {} keeps no modes: it is not {mode:04o}",
            path.display()
        )),
        other => other.at("set the mode of", &path)?,
    }
    let file = set_attributes(file, entry, &path, warnings)?;
    file.sync_all().at("write", &path)?;
    renameat(&parent.fd, TEMPORARY, &parent.fd, name).at("name", &path)?;
    Ok(())
}

fn set_attributes(
    file: File,
    entry: &mut Entry<'_, impl Read>,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<File, FilesError> {
    let Some(records) = entry.pax_extensions().map_err(FilesError::Read)? else { return Ok(file) };
    for record in records {
        let record = record.map_err(FilesError::Read)?;
        let Ok(Some(name)) = record.key().map(|key| key.strip_prefix(XATTR)) else { continue };
        match file.set_xattr(name, record.value_bytes()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => warnings.push(format!(
                "the file system of {} does not keep the extended attribute {name}",
                path.display()
            )),
            Err(error) => Err(error).at("set an extended attribute of", path)?,
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tar::{Builder, Header};

    struct Made {
        archive: Builder<Vec<u8>>,
        entries: u64,
    }

    impl Made {
        fn new() -> Self {
            Made { archive: Builder::new(Vec::new()), entries: 0 }
        }

        fn add(mut self, kind: EntryType, path: &str, mode: u32, data: &str) -> Self {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            self.entries += 1;
            match kind {
                EntryType::Symlink => {
                    header.set_size(0);
                    self.archive.append_link(&mut header, path, data).unwrap();
                }
                _ => {
                    header.set_size(data.len() as u64);
                    // As a hostile sender would write it: the crate's own setter refuses `..`.
                    if path.contains("..") {
                        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
                        header.set_cksum();
                        self.archive.append(&header, data.as_bytes()).unwrap();
                    } else {
                        self.archive.append_data(&mut header, path, data.as_bytes()).unwrap();
                    }
                }
            }
            self
        }

        fn attribute(mut self, name: &str, value: &[u8]) -> Self {
            self.archive.append_pax_extensions([(name, value)]).unwrap();
            self
        }

        fn unpack(self, root: &Path) -> Result<Unpacked, FilesError> {
            let entries = self.entries;
            let bytes = self.archive.into_inner().unwrap();
            let plan = ExtraFiles {
                entries,
                bytes: bytes.len() as u64,
                blake3: blake3::hash(&bytes).to_hex().to_string(),
            };
            let cancel = AtomicBool::new(false);
            unpack(root, bytes.as_slice(), &plan, &mut |_| {}, &cancel)
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn modes_links_and_attributes_are_kept_and_root_owns_all() {
        // On a file system that keeps user attributes.
        let root = tempfile::tempdir_in("/var/cache").unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::set_permissions(&etc, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(etc.join("motd"), "before").unwrap();
        let long = format!("var/{}/with a space", "x".repeat(120));
        let unpacked = Made::new()
            .add(EntryType::Directory, "etc", 0o775, "")
            .add(EntryType::Regular, "etc/motd", 0o640, "hello")
            .add(EntryType::Directory, "var/lib/secrets", 0o2700, "")
            .attribute("SCHILY.xattr.user.origin", b"operator\0")
            .add(EntryType::Regular, "var/lib/secrets/key", 0o4600, "value")
            .add(EntryType::Symlink, "etc/link", 0o777, "../nowhere at all")
            .add(EntryType::Regular, &long, 0o444, "deep")
            .unpack(root.path())
            .unwrap();
        assert_eq!(unpacked, Unpacked { entries: 6, warnings: vec![] });
        assert_eq!(mode(&etc), 0o755, "what was there keeps its mode");
        assert_eq!(
            (mode(&etc.join("motd")), std::fs::read(etc.join("motd")).unwrap()),
            (0o640, b"hello".to_vec())
        );
        let secrets = root.path().join("var/lib/secrets");
        assert_eq!((mode(&secrets), mode(&secrets.join("key"))), (0o2700, 0o4600));
        assert_eq!(
            xattr::get(secrets.join("key"), "user.origin").unwrap().as_deref(),
            Some(b"operator\0".as_slice())
        );
        assert_eq!(std::fs::read_link(etc.join("link")).unwrap(), Path::new("../nowhere at all"));
        assert_eq!(std::fs::read(root.path().join(&long)).unwrap(), b"deep");
        let meta = std::fs::metadata(secrets.join("key")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (0, 0));
        assert_eq!(std::fs::read_dir(&secrets).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn nothing_leads_out_of_the_system() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();
        let through = |path: &str| {
            let made = Made::new().add(EntryType::Regular, path, 0o644, "x");
            made.unpack(root.path()).unwrap_err().to_string()
        };
        assert!(through("link/file").contains("could not"), "{}", through("link/file"));
        assert!(through("../file").contains("leads out"), "{}", through("../file"));
        assert!(through("nix/store/x").contains("closure's"));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let fifo = Made::new().add(EntryType::Fifo, "pipe", 0o644, "").unpack(root.path());
        assert!(fifo.unwrap_err().to_string().contains("neither a file"));
        std::fs::create_dir(root.path().join("var")).unwrap();
        assert!(through("var").contains("a directory in its place"));
    }

    #[test]
    fn another_archive_than_the_plans_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = Builder::new(Vec::new()).into_inner().unwrap();
        let plan = ExtraFiles {
            entries: 0,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        };
        let cancel = AtomicBool::new(false);
        unpack(root.path(), bytes.as_slice(), &plan, &mut |_| {}, &cancel).unwrap();
        bytes.extend([0; 512]);
        let changed = unpack(root.path(), bytes.as_slice(), &plan, &mut |_| {}, &cancel);
        assert!(matches!(changed, Err(FilesError::Changed)), "{changed:?}");
        cancel.store(true, Ordering::SeqCst);
        let stopped = unpack(root.path(), bytes.as_slice(), &plan, &mut |_| {}, &cancel);
        assert!(matches!(stopped, Err(FilesError::Cancelled)), "{stopped:?}");
    }
}
