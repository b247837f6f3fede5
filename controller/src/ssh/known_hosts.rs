//! Reads OpenSSH's `known_hosts`.
//!
//! Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": marker, comma-separated patterns (`*`, `?`,
//! `!`, hashed with HMAC-SHA1), key type, key, comment.

use super::pattern;
use hmac::{Hmac, Mac};
use russh::keys::PublicKey;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use sha1::Sha1;
use std::io;
use std::path::{Path, PathBuf};

/// What the files say about one machine.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    /// Keys that the machine may have.
    pub trusted: Vec<Recorded>,
    /// Keys that the machine has at port 22, where another port was asked for and nothing is
    /// recorded of it: as good as the port's own if they are equal, and no evidence if not.
    pub of_port_22: Vec<Recorded>,
    /// Keys of authorities whose certificates are good for the machine.
    pub authorities: Vec<Recorded>,
    /// Keys that no machine may have any more.
    pub revoked: Vec<Recorded>,
}

/// A key and where it is recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The key.
    pub key: PublicKey,
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: usize,
}

/// The user's files that OpenSSH's client reads.
pub fn user_files() -> Vec<PathBuf> {
    let Some(home) = std::env::home_dir() else { return Vec::new() };
    ["known_hosts", "known_hosts2"].iter().map(|name| home.join(".ssh").join(name)).collect()
}

/// The system's files that OpenSSH's client reads.
pub fn global_files() -> Vec<PathBuf> {
    vec!["/etc/ssh/ssh_known_hosts".into(), "/etc/ssh/ssh_known_hosts2".into()]
}

/// Everything that `file` says about `name` (see
/// [`Destination::known_hosts_name`](super::Destination::known_hosts_name)), and about the bare
/// host if the name has a port.
///
/// A file that does not exist says nothing; lines that can't be read are skipped, as OpenSSH
/// does.
pub fn read(file: &Path, name: &str, into: &mut KnownKeys) -> io::Result<()> {
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.split_once("]:")).map(|(host, _)| host);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim().replace('\t', " ");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Ok(entry) = line.parse::<Entry>() else { continue };
        let named = matches_host(entry.host_patterns(), name);
        let bare = || bare.is_some_and(|bare| matches_host(entry.host_patterns(), bare));
        if !named && !(entry.marker().is_none() && bare()) {
            continue;
        }
        let recorded =
            Recorded { key: entry.public_key().clone(), file: file.to_owned(), line: number + 1 };
        match entry.marker() {
            None if named => into.trusted.push(recorded),
            None => into.of_port_22.push(recorded),
            Some(Marker::Revoked) => into.revoked.push(recorded),
            Some(Marker::CertAuthority) => into.authorities.push(recorded),
        }
    }
    Ok(())
}

fn matches_host(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let patterns: Vec<String> = patterns.iter().map(|p| p.to_lowercase()).collect();
            pattern::any(patterns.iter().map(String::as_str), name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn keys(lines: &str, name: &str) -> KnownKeys {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, lines).unwrap();
        let mut known = KnownKeys::default();
        read(&file, name, &mut known).unwrap();
        known
    }

    #[test]
    fn names_ports_and_patterns() {
        let lines = format!(
            "# comment\nnas,10.0.0.5 {KEY}\n[nas]:2222\t{KEY} comment here\n*.lab,!dmz.lab {KEY}\nbroken\n"
        );
        assert_eq!(keys(&lines, "nas").trusted[0].line, 2);
        assert_eq!(keys(&lines, "10.0.0.5").trusted.len(), 1);
        assert_eq!(keys(&lines, "[nas]:2222").trusted[0].line, 3);
        assert_eq!(keys(&lines, "a.lab").trusted.len(), 1);
        assert!(keys(&lines, "dmz.lab").trusted.is_empty());
        let elsewhere = keys(&lines, "[nas]:2200");
        assert_eq!((elsewhere.trusted.len(), elsewhere.of_port_22.len()), (0, 1));
        assert!(keys(&lines, "nasty").trusted.is_empty());
    }

    #[test]
    fn markers() {
        let known = keys(&format!("@revoked * {KEY}\n@cert-authority * {KEY}\n"), "nas");
        let count = (known.trusted.len(), known.revoked.len(), known.authorities.len());
        assert_eq!(count, (0, 1, 1));
    }

    #[test]
    fn a_missing_file_says_nothing() {
        let mut known = KnownKeys::default();
        read(Path::new("/nonexistent/known_hosts"), "nas", &mut known).unwrap();
        assert!(known.trusted.is_empty());
    }
}
