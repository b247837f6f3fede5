//! Reads OpenSSH's `known_hosts`.
//!
//! Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": marker, comma-separated patterns (`*`, `?`,
//! `!`, hashed with HMAC-SHA1), key type, key, comment. Host certificates are not used:
//! `@cert-authority` lines are skipped.

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

/// The files that OpenSSH's client reads: the user's and the system's.
pub fn default_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(home) = std::env::home_dir() {
        files.push(home.join(".ssh/known_hosts"));
        files.push(home.join(".ssh/known_hosts2"));
    }
    files.push("/etc/ssh/ssh_known_hosts".into());
    files
}

/// Everything that `file` says about `name` (see
/// [`Destination::known_hosts_name`](super::Destination::known_hosts_name)).
///
/// A file that does not exist says nothing; lines that can't be read are skipped, as OpenSSH
/// does.
pub fn read(file: &Path, name: &str, into: &mut KnownKeys) -> io::Result<()> {
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim().replace('\t', " ");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Ok(entry) = line.parse::<Entry>() else { continue };
        if !matches_host(entry.host_patterns(), name) {
            continue;
        }
        let recorded =
            Recorded { key: entry.public_key().clone(), file: file.to_owned(), line: number + 1 };
        match entry.marker() {
            None => into.trusted.push(recorded),
            Some(Marker::Revoked) => into.revoked.push(recorded),
            Some(Marker::CertAuthority) => {}
        }
    }
    Ok(())
}

fn matches_host(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let mut found = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(pattern) if glob(pattern.to_lowercase().as_bytes(), name.as_bytes()) => {
                        return false;
                    }
                    Some(_) => {}
                    None => found |= glob(pattern.to_lowercase().as_bytes(), name.as_bytes()),
                }
            }
            found
        }
    }
}

/// `*` is any text, `?` any one byte. Linear in the text per star: no backtracking over stars.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    p = star_p + 1;
                    t = star_t + 1;
                    star = Some((star_p, star_t + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert!(keys(&lines, "nasty").trusted.is_empty());
    }

    #[test]
    fn markers() {
        let known = keys(&format!("@revoked * {KEY}\n@cert-authority * {KEY}\n"), "nas");
        assert_eq!((known.trusted.len(), known.revoked.len()), (0, 1));
    }

    #[test]
    fn a_missing_file_says_nothing() {
        let mut known = KnownKeys::default();
        read(Path::new("/nonexistent/known_hosts"), "nas", &mut known).unwrap();
        assert!(known.trusted.is_empty());
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_star(text in "[a-z.]{0,20}") {
            prop_assert!(glob(text.as_bytes(), text.as_bytes()));
            prop_assert!(glob(b"*", text.as_bytes()));
            let prefixed = format!("*{text}");
            prop_assert!(glob(prefixed.as_bytes(), text.as_bytes()));
            let longer = format!("{text}?");
            prop_assert!(!glob(longer.as_bytes(), text.as_bytes()));
        }
    }
}
