//! The machine's SSH host keys, there before activation so that the operator knows whom to expect.

use super::openssh::{NotAKey, OpensshKey};
use crate::ensure::Ensured;
use crate::store::fs::{FsError, OpenDir, file_type};
use keystone_protocol::secret::Secret;
use nix::sys::stat::SFlag;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

const KEY: &str = "ssh_host_ed25519_key";
const PUBLIC: &str = "ssh_host_ed25519_key.pub";

/// The machine's host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Whether it was made now.
    pub ensured: Ensured,
    /// The public half, `ssh-ed25519 AAAA…`, without a comment.
    pub public: String,
}

/// Why there is no host key.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// A file could not be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There is a file, but it is no key sshd could use.
    #[error("{path} is not an unencrypted SSH private key; remove it to have a new one made")]
    NotAKey {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
    /// What was to be copied or given is no key.
    #[error("{path} is no SSH host key: {source}")]
    NoHostKey {
        /// Which.
        path: String,
        /// Why.
        source: NotAKey,
    },
    /// The installer has none to copy.
    #[error("there is no SSH host key (ssh_host_*_key) in {} of the installer to copy", .0.display())]
    NoneToCopy(PathBuf),
    /// A key that was given is not the one of the plan.
    #[error("an SSH host key that was given is not the one of the plan, {0}")]
    OtherKey(String),
    /// There is another key where one that was given belongs.
    #[error(
        "{0} is there already, with another key than the one that was given: leave one of the two \
         out"
    )]
    Taken(String),
    /// A key could not be made.
    #[error("could not make an ed25519 key")]
    Make(#[source] ssh_key::Error),
}

/// The names of all host keys in a directory, sorted.
fn key_names(dir: &OpenDir) -> Result<Vec<String>, FsError> {
    let names = dir.names()?.into_iter().filter_map(|name| name.into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key")).collect();
    names.sort();
    Ok(names)
}

/// The installer's host keys, each with the name of its file.
///
/// # Errors
/// There is none, or one can't be used.
pub fn of_installer(etc: &Path) -> Result<Vec<(String, OpensshKey)>, HostKeyError> {
    let path = etc.join("ssh");
    let dir = OpenDir::open(&path)?;
    let mut keys = Vec::new();
    for name in key_names(&dir)? {
        let key = read_any(&dir, &name)?;
        keys.push((name, key));
    }
    if keys.is_empty() { Err(HostKeyError::NoneToCopy(path)) } else { Ok(keys) }
}

/// Keys that the operator gave, each with the name of its file; `public` are those of the plan.
///
/// # Errors
/// One is no key, or not the plan's.
pub fn given(
    keys: &[Secret],
    public: &[String],
) -> Result<Vec<(String, OpensshKey)>, HostKeyError> {
    if keys.len() != public.len() {
        return Err(HostKeyError::OtherKey(public.join(", ")));
    }
    let mut found = Vec::new();
    for (pem, public) in keys.iter().zip(public) {
        let path = format!("the host key given for {public}");
        let key = OpensshKey::parse(pem.clone())
            .map_err(|source| HostKeyError::NoHostKey { path, source })?;
        if key.public != *public {
            return Err(HostKeyError::OtherKey(public.clone()));
        }
        found.push((key.file_name(), key));
    }
    Ok(found)
}

/// Puts keys below `root`. One that is there already stays: with `exactly`, it must be the same.
///
/// # Errors
/// [`HostKeyError`].
pub fn put(
    root: &Path,
    keys: &[(String, OpensshKey)],
    exactly: bool,
) -> Result<Ensured, HostKeyError> {
    let (etc, _) = OpenDir::open(root)?.ensure("etc", 0o755)?;
    let (dir, _) = etc.ensure("ssh", 0o755)?;
    let mut ensured = Ensured::AlreadySo;
    for (name, key) in keys {
        if dir.stat(name)?.is_some() {
            if exactly && read_any(&dir, name)?.public != key.public {
                return Err(HostKeyError::Taken(dir.path.join(name).display().to_string()));
            }
            continue;
        }
        dir.write_file(name, 0o600, key.pem.expose())?;
        let public = format!("{}\n", key.public);
        dir.write_file(&format!("{name}.pub"), 0o644, public.as_bytes())?;
        ensured = Ensured::Created;
    }
    dir.sync()?;
    Ok(ensured)
}

fn read_any(dir: &OpenDir, name: &str) -> Result<OpensshKey, HostKeyError> {
    let path = dir.path.join(name).display().to_string();
    OpensshKey::parse(Secret::new(dir.read(name)?))
        .map_err(|source| HostKeyError::NoHostKey { path, source })
}

/// Makes `/etc/ssh/ssh_host_ed25519_key` below `root` unless there is one.
pub fn ensure(root: &Path) -> Result<HostKey, HostKeyError> {
    let (etc, _) = OpenDir::open(root)?.ensure("etc", 0o755)?;
    let (dir, _) = etc.ensure("ssh", 0o755)?;
    let existing = dir.stat(KEY)?;
    let (key, made) = match existing {
        Some(stat) if file_type(&stat) == SFlag::S_IFREG => (read(&dir)?, false),
        _ => {
            (PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(HostKeyError::Make)?, true)
        }
    };
    let mut public = key.public_key().clone();
    public.set_comment("");
    let public = public.to_openssh().map_err(HostKeyError::Make)?;
    let mut changed = made;
    if made {
        let pem = key.to_openssh(LineEnding::LF).map_err(HostKeyError::Make)?;
        dir.write_file(KEY, 0o600, pem.as_bytes())?;
    }
    let line = format!("{public}\n");
    if dir.stat(PUBLIC)?.is_none() || dir.read(PUBLIC)? != line.as_bytes() {
        dir.write_file(PUBLIC, 0o644, line.as_bytes())?;
        changed = true;
    }
    dir.sync()?;
    let ensured = if changed { Ensured::Created } else { Ensured::AlreadySo };
    Ok(HostKey { ensured, public })
}

fn read(dir: &OpenDir) -> Result<PrivateKey, HostKeyError> {
    let pem = Zeroizing::new(dir.read(KEY)?);
    let key = PrivateKey::from_openssh(&*pem)
        .and_then(|key| if key.is_encrypted() { Err(ssh_key::Error::Encrypted) } else { Ok(key) });
    let path = dir.path.join(KEY).display().to_string();
    key.map_err(|source| HostKeyError::NotAKey { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn openssh_takes_the_key_and_finds_the_same_public_half() {
        let root = tempfile::tempdir().unwrap();
        let made = ensure(root.path()).unwrap();
        assert_eq!(made.ensured, Ensured::Created);
        let key = root.path().join("etc/ssh").join(KEY);
        assert_eq!(mode(&key), 0o600);
        assert_eq!(mode(&key.with_extension("pub")), 0o644);
        let said = Command::new("ssh-keygen")
            .args(["-y", "-f"])
            .arg(&key)
            .output()
            .expect("needs ssh-keygen: apt-get install openssh-client");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), made.public);
        let names = std::fs::read_dir(root.path().join("etc/ssh")).unwrap().count();
        assert_eq!(names, 2);
    }

    /// Makes a key as the operator's own tools do.
    fn keygen(path: &Path, kind: &str) -> String {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", "a comment", "-f"])
            .arg(path)
            .status()
            .expect("needs ssh-keygen: apt-get install openssh-client");
        assert!(made.success());
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    #[test]
    fn keys_of_every_kind_are_copied_or_taken_as_given() {
        let installer = tempfile::tempdir().unwrap();
        let ssh = installer.path().join("ssh");
        std::fs::create_dir(&ssh).unwrap();
        assert!(matches!(of_installer(installer.path()), Err(HostKeyError::NoneToCopy(_))));
        let mut public = Vec::new();
        for kind in ["ecdsa", "ed25519", "rsa"] {
            public.push(keygen(&ssh.join(format!("ssh_host_{kind}_key")), kind));
        }
        let pem = |kind: &str| {
            Secret::new(std::fs::read(ssh.join(format!("ssh_host_{kind}_key"))).unwrap())
        };
        let copied = of_installer(installer.path()).unwrap();
        let root = tempfile::tempdir().unwrap();
        assert_eq!(put(root.path(), &copied, false).unwrap(), Ensured::Created);
        assert_eq!(put(root.path(), &copied, false).unwrap(), Ensured::AlreadySo);
        let key = ensure(root.path()).unwrap();
        assert_eq!((key.ensured, &key.public), (Ensured::AlreadySo, &public[1]));
        for (name, public) in ["ecdsa", "ed25519", "rsa"].iter().zip(&public) {
            let key = root.path().join("etc/ssh").join(format!("ssh_host_{name}_key"));
            assert_eq!(mode(&key), 0o600);
            let said = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&key).output().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            assert!(said.starts_with(public.as_str()), "{said}");
        }
        let one = given(&[pem("ed25519")], &public[1..2]).unwrap();
        let root = tempfile::tempdir().unwrap();
        assert_eq!(put(root.path(), &one, true).unwrap(), Ensured::Created);
        assert_eq!(ensure(root.path()).unwrap().public, public[1]);
        let wrong = given(&[pem("rsa")], &public[1..2]);
        assert!(matches!(wrong, Err(HostKeyError::OtherKey(_))), "{wrong:?}");
        let taken = vec![("ssh_host_ed25519_key".to_owned(), copied[0].1.clone())];
        let taken = put(root.path(), &taken, true);
        assert!(matches!(taken, Err(HostKeyError::Taken(_))), "{taken:?}");
    }

    #[test]
    fn a_key_that_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let first = ensure(root.path()).unwrap();
        let key = root.path().join("etc/ssh").join(KEY);
        let bytes = std::fs::read(&key).unwrap();
        let again = ensure(root.path()).unwrap();
        assert_eq!(again, HostKey { ensured: Ensured::AlreadySo, ..first.clone() });
        std::fs::write(key.with_extension("pub"), "ssh-ed25519 another\n").unwrap();
        assert_eq!(ensure(root.path()).unwrap(), first);
        assert_eq!(std::fs::read(&key).unwrap(), bytes);
        std::fs::write(&key, "rubbish").unwrap();
        assert!(matches!(ensure(root.path()), Err(HostKeyError::NotAKey { .. })));
    }
}
