//! Host keys and disks' key files, read and checked.

use crate::secrets::SecretSource;
use crate::ssh::PublicKey;
use keystone_protocol::layout::{Content, Dataset, Layout, LuksKey, ZfsKey};
use keystone_protocol::secret::Secret;
use russh::keys::PrivateKey;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A key can't be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("{option}: {source}")]
    Secret {
        /// Which option gave it.
        option: &'static str,
        /// Why.
        #[source]
        source: crate::secrets::source::SecretError,
    },
    /// It is no host key.
    #[error("--host-key-file {}: not an unencrypted private key in OpenSSH's format", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<russh::keys::Error>,
    },
    /// Two of a kind: sshd has one file for each.
    #[error("--host-key-file {}: there is a key of that kind already ({kind})", path.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// Which kind.
        kind: String,
    },
    /// The layout does not ask for it.
    #[error("--disk-encryption-keys {path}: the layout asks for no such file; {}", asked(wanted))]
    NotAsked {
        /// The path that was given.
        path: String,
        /// What the layout asks for.
        wanted: Vec<String>,
    },
}

fn asked(wanted: &[String]) -> String {
    match wanted {
        [] => "it asks for none".to_owned(),
        wanted => format!("it asks for {}", wanted.join(" and ")),
    }
}

/// A host key for the machine.
#[derive(Debug, Clone)]
pub struct HostKeyFile {
    /// The file's contents.
    pub pem: Secret,
    /// The public half, `ssh-ed25519 AAAA…`, without a comment.
    pub public: String,
}

impl HostKeyFile {
    /// Reads keys, one of each kind at most.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<HostKeyFile>, KeyError> {
        let mut keys: Vec<HostKeyFile> = Vec::new();
        for path in paths {
            let key = Self::read(path)?;
            let kind = |key: &HostKeyFile| key.public.split(' ').next().map(str::to_owned);
            if keys.iter().any(|other| kind(other) == kind(&key)) {
                let kind = kind(&key).unwrap_or_default();
                return Err(KeyError::Twice { path: path.clone(), kind });
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn read(path: &Path) -> Result<HostKeyFile, KeyError> {
        let source = SecretSource::File(path.to_owned());
        let mut pem = source
            .read_file()
            .map_err(|source| KeyError::Secret { option: "--host-key-file", source })?;
        let not_a_key =
            |source| KeyError::NotAKey { path: path.to_owned(), source: Box::new(source) };
        let key = PrivateKey::from_openssh(pem.expose()).map_err(|e| not_a_key(e.into()))?;
        if key.is_encrypted() {
            return Err(not_a_key(russh::keys::Error::KeyIsEncrypted));
        }
        let public = PublicKey::from(key.public_key().key_data().clone());
        let public = public.to_openssh().map_err(|e| not_a_key(e.into()))?;
        // sshd refuses a key whose last line has no end.
        if pem.expose().last() != Some(&b'\n') {
            pem = Secret::new([pem.expose(), b"\n"].concat());
        }
        Ok(HostKeyFile { pem, public })
    }
}

/// Key files for disks, by the path that the layout has for them.
pub type DiskKeys = BTreeMap<String, Secret>;

/// Reads the key files that were given, if the layout asks for them.
///
/// # Errors
/// [`KeyError`]; nothing is read if one of them is not asked for.
pub fn disk_keys(layout: &Layout, given: &[(String, SecretSource)]) -> Result<DiskKeys, KeyError> {
    let wanted = asked_for(layout);
    if let Some((path, _)) = given.iter().find(|(path, _)| !wanted.contains(path)) {
        return Err(KeyError::NotAsked { path: path.clone(), wanted });
    }
    let mut keys = DiskKeys::new();
    for (path, source) in given {
        let key = source
            .read_file()
            .map_err(|source| KeyError::Secret { option: "--disk-encryption-keys", source })?;
        keys.insert(path.clone(), key);
    }
    Ok(keys)
}

/// The key files that a layout asks for; those in the Nix store are nobody's secret, and not used.
fn asked_for(layout: &Layout) -> Vec<String> {
    let contents = layout.contents();
    let mut files = Vec::new();
    for (_, content) in &contents {
        let Content::Luks(luks) = content else { continue };
        let own = match &luks.key {
            LuksKey::File(file) => Some(file),
            LuksKey::Asked => None,
        };
        let keys = own.into_iter().chain(&luks.additional_keys);
        let secret = keys.filter(|file| !file.path.starts_with("/nix/store"));
        files.extend(secret.map(|file| file.path.clone()));
    }
    for pool in &layout.zpools {
        let datasets = pool.datasets.iter().map(|dataset| match dataset {
            Dataset::Fs(fs) => fs.key.as_ref(),
            Dataset::Volume(volume) => volume.key.as_ref(),
        });
        files.extend(datasets.chain([pool.root.key.as_ref()]).filter_map(|key| match key {
            Some(ZfsKey::File { path }) => Some(path.clone()),
            _ => None,
        }));
    }
    files.sort();
    files.dedup();
    files
}
