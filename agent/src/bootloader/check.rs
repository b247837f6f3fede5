//! The ESP compared with the store.

use super::load_option::Partition;
use super::loader::{Choice, Entry, choose};
use super::variables::{BootNext, Variables, VariablesError};
use crate::ensure::Ensured;
use bootspec::v1::GenerationV1;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How much is compared at once, in bytes.
const CHUNK: usize = 256 << 10;
/// Longer configuration files are none.
const MAX_TEXT: u64 = 1 << 20;

/// A system that was installed and is still mounted.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Where its root is mounted (`/mnt`).
    pub root: PathBuf,
    /// Where the ESP is mounted in the system (`/boot`).
    pub esp: String,
    /// The ESP's partition.
    pub esp_partition: Partition,
    /// The system's store path.
    pub toplevel: String,
    /// The firmware's variables, where they can be read.
    pub variables: Option<Variables>,
}

/// A file on the ESP that was compared with the store's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Where it is on the ESP.
    pub path: String,
    /// How long the store's file is, in bytes.
    pub size: u64,
    /// How many bytes the secrets hook appended on the ESP.
    pub appended: u64,
    /// Blake3 of the file on the ESP, 64 hex digits.
    pub blake3: String,
}

/// How the firmware finds the boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Firmware {
    /// By this boot entry.
    Entry {
        /// The number of `Boot####`.
        number: u16,
    },
    /// Only by the path that firmware tries on every disk.
    FallbackPath,
}

/// What was found, all of it as it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootCheck {
    /// The default entry's id.
    pub entry: String,
    /// Its title and version, as the menu shows it.
    pub title: String,
    /// The kernel.
    pub kernel: Copied,
    /// The initrd, if the system has one.
    pub initrd: Option<Copied>,
    /// `init=` of the command line.
    pub init: String,
    /// The boot loader's executables, by their path on the ESP.
    pub loaders: Vec<String>,
    /// How the firmware finds it.
    pub firmware: Firmware,
}

/// Why the machine would not boot the system.
#[derive(Debug, Error)]
pub enum BootCheckError {
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which, in the system.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ESP's mount point is an ordinary directory.
    #[error("nothing is mounted at {0}: the boot loader went into the root file system")]
    NotMounted(String),
    /// The system's description of how to boot it can't be read.
    #[error("{toplevel}/boot.json can't be read")]
    Bootspec {
        /// The system.
        toplevel: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another boot loader.
    #[error(
        "the ESP has no loader/loader.conf ({found}): only systemd-boot can be checked, so \
         nobody can say whether this machine would boot"
    )]
    Unsupported {
        /// What there is instead.
        found: String,
    },
    /// The boot loader's own file is missing or no program.
    #[error("the ESP has no boot loader: {0} is missing or not an EFI executable")]
    NoLoader(String),
    /// `loader.conf` names no entry.
    #[error("no entry is the default: {0}")]
    NoDefault(String),
    /// The default entry does not boot the system.
    #[error("the default entry {entry} does not boot the system: {what}")]
    WrongEntry {
        /// The entry.
        entry: String,
        /// What is wrong.
        what: String,
    },
    /// A file on the ESP is not the store's.
    #[error("{copy} on the ESP is not {original}: {what}")]
    Differs {
        /// The file on the ESP.
        copy: String,
        /// The file in the store.
        original: String,
        /// How they differ.
        what: String,
    },
    /// The firmware would not find it.
    #[error(
        "the firmware has no boot entry for the ESP, and the ESP has no fallback loader ({0}): \
         this machine would not find its boot loader"
    )]
    NotBootable(String),
    /// The firmware's variables could not be read.
    #[error(transparent)]
    Variables(#[from] VariablesError),
}

/// Checks that the machine boots the system from the ESP.
pub fn check(installed: &Installed) -> Result<BootCheck, BootCheckError> {
    let root = Tree::open(&installed.root)?;
    let esp = root.subtree(&installed.esp)?;
    if esp.device()? == root.device()? {
        return Err(BootCheckError::NotMounted(installed.esp.clone()));
    }
    let spec = bootspec(&root, &installed.toplevel)?.bootspec;
    let architecture = architecture(&spec.system);
    let loaders = loaders(&esp, architecture)?;
    let (entries, conf) = configuration(&esp)?;
    let variable = match &installed.variables {
        Some(variables) => variables.loader_entry_default()?,
        None => None,
    };
    let entry = match choose(&entries, variable.as_deref(), &conf) {
        Choice::Entry(entry) => entry,
        Choice::NoEntries => {
            return Err(BootCheckError::NoDefault("loader/entries is empty".to_owned()));
        }
        Choice::NoMatch(pattern) => {
            let what = format!("loader.conf says `{pattern}`, which matches no entry or several");
            return Err(BootCheckError::NoDefault(what));
        }
        Choice::Unclear => {
            let what = "loader.conf names none, and there are several entries".to_owned();
            return Err(BootCheckError::NoDefault(what));
        }
    };
    let wrong = |what| BootCheckError::WrongEntry { entry: entry.id.clone(), what };
    let init = init(&root, entry, &spec.init).map_err(wrong)?;
    let linux = entry.linux.as_deref().ok_or_else(|| wrong("it names no kernel".to_owned()))?;
    let kernel = compare(&esp, linux, &root, &spec.kernel, false)?;
    let initrd = match (&spec.initrd, entry.initrd.as_slice()) {
        (None, []) => None,
        (Some(original), [copy]) => {
            Some(compare(&esp, copy, &root, original, spec.initrd_secrets.is_some())?)
        }
        (original, copies) => {
            let wanted = original.iter().len();
            return Err(wrong(format!("it has {} initrds, not {wanted}", copies.len())));
        }
    };
    let firmware = firmware(installed, &loaders, architecture)?;
    let title = [entry.title.as_deref(), entry.version.as_deref()];
    Ok(BootCheck {
        entry: entry.id.clone(),
        title: title.into_iter().flatten().collect::<Vec<_>>().join(" "),
        kernel,
        initrd,
        init,
        loaders,
        firmware,
    })
}

/// Adds the firmware's boot entry where the system's own installer left none: `bootctl` makes none
/// when it runs in a chroot (systemd 257, `bootctl(1)` under `--variables=`). What it is called is
/// what `bootctl` calls it, which finds it again by partition and file.
///
/// # Errors
/// The variables could not be written. The fallback path still boots the machine.
pub fn ensure_boot_entry(
    installed: &Installed,
    checked: &mut BootCheck,
) -> Result<Ensured, VariablesError> {
    let (Some(variables), Firmware::FallbackPath) = (&installed.variables, &checked.firmware)
    else {
        return Ok(Ensured::AlreadySo);
    };
    let loader = checked.loaders.first().expect("a check without a loader fails");
    let number =
        variables.add_boot_entry("Linux Boot Manager", &installed.esp_partition, loader)?;
    checked.firmware = Firmware::Entry { number };
    Ok(Ensured::Created)
}

/// Makes the machine boot what was checked next, where its variables can be written.
pub fn set_boot_next(installed: &Installed, checked: &BootCheck) -> BootNext {
    let not_set = |reason: &str| BootNext::NotSet { reason: reason.to_owned() };
    let Some(variables) = &installed.variables else {
        return not_set("the firmware's variables can't be reached");
    };
    let Firmware::Entry { number } = checked.firmware else {
        return not_set("the firmware has no boot entry for the ESP, only the fallback path");
    };
    match variables.set_boot_next(number) {
        Ok(ensured) => BootNext::Set { number, ensured },
        Err(error) => BootNext::NotSet { reason: format!("{error}: {}", error.source) },
    }
}

/// A directory and what is below it, links resolved as if it were the root.
struct Tree {
    fd: OwnedFd,
    path: PathBuf,
}

impl Tree {
    fn open(path: &Path) -> Result<Tree, BootCheckError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|e| read_error(path, e))?;
        Ok(Tree { fd, path: path.to_path_buf() })
    }

    fn resolve(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.fd, path, how)
    }

    fn subtree(&self, path: &str) -> Result<Tree, BootCheckError> {
        let fd = self
            .resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .map_err(|e| read_error(Path::new(path), e))?;
        Ok(Tree { fd, path: PathBuf::from(path) })
    }

    fn device(&self) -> Result<u64, BootCheckError> {
        let stat = nix::sys::stat::fstat(&self.fd).map_err(|e| read_error(&self.path, e))?;
        Ok(stat.st_dev)
    }

    /// An open regular file; `None` if there is none of that name.
    fn file(&self, path: &str) -> Result<Option<File>, BootCheckError> {
        let shown = || self.path.join(path.trim_start_matches('/'));
        match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => {
                let file = File::from(fd);
                let regular = file.metadata().map_err(|e| read_error(&shown(), e))?.is_file();
                Ok(regular.then_some(file))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(read_error(&shown(), errno)),
        }
    }

    fn text(&self, path: &str) -> Result<Option<String>, BootCheckError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut text = String::new();
        file.take(MAX_TEXT)
            .read_to_string(&mut text)
            .map_err(|e| read_error(&self.path.join(path), e))?;
        Ok(Some(text))
    }

    /// Names in a directory; none if there is no such directory.
    fn names(&self, path: &str) -> Result<Vec<String>, BootCheckError> {
        let error = |e| read_error(&self.path.join(path), e);
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(error(errno)),
        };
        let names = crate::store::fs::entries(fd).map_err(error)?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }
}

fn read_error(path: &Path, source: impl Into<io::Error>) -> BootCheckError {
    BootCheckError::Read { path: path.to_path_buf(), source: source.into() }
}

/// How the system says it is booted: its `boot.json`.
fn bootspec(root: &Tree, toplevel: &str) -> Result<GenerationV1, BootCheckError> {
    let path = format!("{toplevel}/boot.json");
    let text = root
        .text(&path)?
        .ok_or_else(|| read_error(Path::new(&path), io::Error::from(io::ErrorKind::NotFound)))?;
    serde_json::from_str(&text)
        .map_err(|source| BootCheckError::Bootspec { toplevel: toplevel.to_owned(), source })
}

/// The firmware's name of an architecture, as in `BOOTX64.EFI`. Source: UEFI 2.10, 3.5.1.1.
fn architecture(system: &str) -> &'static str {
    if system.starts_with("aarch64") { "aa64" } else { "x64" }
}

fn fallback(architecture: &str) -> String {
    format!("EFI/BOOT/BOOT{}.EFI", architecture.to_uppercase())
}

/// The boot loader's executables that are there.
fn loaders(esp: &Tree, architecture: &str) -> Result<Vec<String>, BootCheckError> {
    let own = format!("EFI/systemd/systemd-boot{architecture}.efi");
    let mut found = Vec::new();
    for path in [own.clone(), fallback(architecture)] {
        if let Some(mut file) = esp.file(&path)? {
            let mut magic = [0; 2];
            if file.read_exact(&mut magic).is_ok() && &magic == b"MZ" {
                found.push(path);
            }
        }
    }
    if found.is_empty() { Err(BootCheckError::NoLoader(own)) } else { Ok(found) }
}

/// All entries, and the text of `loader.conf`.
fn configuration(esp: &Tree) -> Result<(Vec<Entry>, String), BootCheckError> {
    let Some(conf) = esp.text("loader/loader.conf")? else {
        let found = if !esp.names("EFI/Linux")?.is_empty() {
            "it has unified kernel images in EFI/Linux".to_owned()
        } else {
            let mut names = esp.names("/")?;
            names.sort();
            format!("it has {}", if names.is_empty() { "nothing".into() } else { names.join(", ") })
        };
        return Err(BootCheckError::Unsupported { found });
    };
    let mut names = esp.names("loader/entries")?;
    names.retain(|name| name.to_ascii_lowercase().ends_with(".conf"));
    names.sort();
    let mut entries = Vec::new();
    for name in names {
        if let Some(text) = esp.text(&format!("loader/entries/{name}"))? {
            entries.push(Entry::parse(&name, &text));
        }
    }
    Ok((entries, conf))
}

/// The entry's `init=`, which has to be the system's and to exist.
fn init(root: &Tree, entry: &Entry, expected: &Path) -> Result<String, String> {
    let init = entry.init().ok_or("its command line has no init=")?;
    if Path::new(init) != expected {
        return Err(format!("its init= is {init}, and the system's is {}", expected.display()));
    }
    match root.file(init) {
        Ok(Some(_)) => Ok(init.to_owned()),
        Ok(None) => Err(format!("its init={init} does not exist")),
        Err(error) => Err(format!("its init={init} can't be read: {error}")),
    }
}

/// Compares a file on the ESP with the store's; only with `may_be_longer` may it go on after it.
fn compare(
    esp: &Tree,
    copy: &str,
    root: &Tree,
    original: &Path,
    may_be_longer: bool,
) -> Result<Copied, BootCheckError> {
    let copy = copy.replace('\\', "/");
    let original_path = original.display().to_string();
    let differs = |what: String| BootCheckError::Differs {
        copy: copy.clone(),
        original: original_path.clone(),
        what,
    };
    let mut a = esp.file(&copy)?.ok_or_else(|| differs("it is missing".to_owned()))?;
    let mut b = root
        .file(&original_path)?
        .ok_or_else(|| read_error(original, io::Error::from(io::ErrorKind::NotFound)))?;
    let length = |file: &File, path: &Path| {
        file.metadata().map(|m| m.size()).map_err(|e| read_error(path, e))
    };
    let copied = length(&a, Path::new(&copy))?;
    let size = length(&b, original)?;
    if copied < size || (copied > size && !may_be_longer) {
        return Err(differs(format!("it has {copied} bytes, not {size}")));
    }
    let mut hasher = blake3::Hasher::new();
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let piece = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        a.read_exact(&mut left[..piece]).map_err(|e| read_error(Path::new(&copy), e))?;
        b.read_exact(&mut right[..piece]).map_err(|e| read_error(original, e))?;
        if let Some(off) = (0..piece).find(|i| left[*i] != right[*i]) {
            return Err(differs(format!("they differ at byte {}", at + off as u64)));
        }
        hasher.update(&left[..piece]);
        at += piece as u64;
    }
    hasher.update_reader(&mut a).map_err(|e| read_error(Path::new(&copy), e))?;
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(Copied { path: copy, size, appended: copied - size, blake3 })
}

/// How the firmware finds one of `loaders`.
fn firmware(
    installed: &Installed,
    loaders: &[String],
    architecture: &str,
) -> Result<Firmware, BootCheckError> {
    if let Some(variables) = &installed.variables {
        let ours = variables.boot_entries()?.into_iter().find(|entry| {
            let option = &entry.option;
            option.active
                && loaders.iter().any(|file| option.is(installed.esp_partition.guid, file))
        });
        if let Some(entry) = ours {
            return Ok(Firmware::Entry { number: entry.number });
        }
    }
    let fallback = fallback(architecture);
    if loaders.contains(&fallback) {
        Ok(Firmware::FallbackPath)
    } else {
        Err(BootCheckError::NotBootable(fallback))
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
