//! The machine's SSH host key, made before activation so that the operator knows whom to expect.

use crate::ensure::Ensured;
use crate::store::fs::{FsError, Io, OpenDir, file_type};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use std::fs::File;
use std::io::Write;
use std::path::Path;
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
    /// A key could not be made.
    #[error("could not make an ed25519 key")]
    Make(#[source] ssh_key::Error),
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
        write(&dir, KEY, 0o600, pem.as_bytes())?;
    }
    let line = format!("{public}\n");
    if dir.stat(PUBLIC)?.is_none() || dir.read(PUBLIC)? != line.as_bytes() {
        write(&dir, PUBLIC, 0o644, line.as_bytes())?;
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

/// Writes a file under a temporary name, syncs it and names it.
fn write(dir: &OpenDir, name: &str, mode: u32, contents: &[u8]) -> Result<(), FsError> {
    let temporary = format!(".{name}.keystone");
    let path = dir.path.join(name);
    let mode = Mode::from_bits_truncate(mode);
    // A leftover of a run that was killed.
    let _ = unlinkat(&dir.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&dir.fd, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))
        .at("make file", &path)?;
    fchmod(&fd, mode).at("set the mode of", &path)?;
    let mut file = File::from(fd);
    file.write_all(contents).at("write", &path)?;
    file.sync_all().at("sync", &path)?;
    renameat(&dir.fd, temporary.as_str(), &dir.fd, name).at("name", &path)
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
