//! Whether a machine's host key is the expected one.
//!
//! Nothing is accepted by default: a key is pinned by the operator (`--host-key`), known from a
//! `known_hosts` file, or unknown, in which case the operator is shown its fingerprint and
//! decides. A key that differs from a known one is refused.

use super::error::SshError;
use super::host_certificate;
use super::known_hosts::{self, KnownKeys, Recorded};
use russh::keys::ssh_key::Fingerprint;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A host key named by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    Fingerprint(Fingerprint),
    /// `ssh-ed25519 AAAA…`
    Key(Box<PublicKey>),
    /// Any of a machine's keys.
    AnyOf(Vec<PublicKey>),
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("SHA256:") || text.starts_with("SHA512:") {
            text.trim_end_matches('=').parse().map(Pin::Fingerprint).map_err(|e| {
                format!(
                    "'{text}' is not a fingerprint ({e}): expected SHA256:… as ssh-keygen -l prints"
                )
            })
        } else {
            PublicKey::from_openssh(text).map(|key| Pin::Key(Box::new(key))).map_err(|_| {
                format!("'{text}' is neither a fingerprint (SHA256:…) nor a public key (ssh-ed25519 AAAA…)")
            })
        }
    }
}

impl Pin {
    fn matches(&self, key: &PublicKey) -> bool {
        match self {
            Pin::Fingerprint(print) => key.fingerprint(print.algorithm()) == *print,
            Pin::Key(expected) => expected.key_data() == key.key_data(),
            Pin::AnyOf(all) => all.iter().any(|expected| expected.key_data() == key.key_data()),
        }
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pin::Fingerprint(print) => print.fmt(f),
            Pin::Key(key) => fingerprint(key).fmt(f),
            Pin::AnyOf(all) => {
                let all: Vec<String> = all.iter().map(fingerprint).collect();
                f.write_str(&all.join(" or "))
            }
        }
    }
}

/// How host keys are checked.
#[derive(Debug, Clone, Default)]
pub struct HostKeyPolicy {
    /// Named by the operator: nothing else is accepted, whatever the files say.
    pub pinned: Option<Pin>,
    /// `known_hosts` files, looked into in order.
    pub known_hosts: Vec<PathBuf>,
    /// What the key is looked up by there, instead of host and port (`HostKeyAlias`).
    pub alias: Option<String>,
    /// Accepted by the operator when asked; clones share it.
    pub accepted: Accepted,
}

/// Keys that the operator accepted, by what they are looked up by.
#[derive(Debug, Clone, Default)]
pub struct Accepted(Arc<Mutex<BTreeMap<String, PublicKey>>>);

impl Accepted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PublicKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `name` has to have this key.
    pub(super) fn note(&self, name: &str, key: &PublicKey) {
        self.lock().insert(name.to_owned(), key.clone());
    }
}

impl HostKeyPolicy {
    /// Accepts the key and no other.
    pub fn exactly(key: &PublicKey) -> Self {
        HostKeyPolicy { pinned: Some(Pin::Key(Box::new(key.clone()))), ..Self::default() }
    }

    /// Reads what is known of `name`, a host as `known_hosts` names it.
    pub(super) fn expectation(&self, name: &str) -> Result<Expectation, SshError> {
        if let Some(pin) = &self.pinned {
            return Ok(Expectation::Pinned(pin.clone()));
        }
        if let Some(key) = self.accepted.lock().get(name) {
            return Ok(Expectation::Pinned(Pin::Key(Box::new(key.clone()))));
        }
        let mut known = KnownKeys::default();
        for file in &self.known_hosts {
            known_hosts::read(file, name, &mut known)
                .map_err(|source| SshError::KnownHosts { file: file.clone(), source })?;
        }
        Ok(Expectation::Known(known))
    }
}

/// `SHA256:…` of a key, as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// What is expected of one machine.
#[derive(Debug, Clone)]
pub(super) enum Expectation {
    Pinned(Pin),
    Known(KnownKeys),
    /// Whatever it is: the caller only wants to see it.
    Anything,
}

/// What to make of a key.
#[derive(Debug)]
pub(super) enum Verdict {
    Accept,
    Refuse(SshError),
}

impl Expectation {
    /// Judges what the machine proved to have the key of.
    pub(super) fn judge(&self, name: &str, presented: &PublicKeyOrCertificate) -> Verdict {
        let certificate = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => return self.judge_key(name, key),
            PublicKeyOrCertificate::Certificate(certificate) => certificate,
        };
        let Expectation::Known(known) = self else {
            return self.judge_key(name, &PublicKey::new(certificate.public_key().clone(), ""));
        };
        judge_certificate(known, name, certificate)
    }

    fn judge_key(&self, name: &str, key: &PublicKey) -> Verdict {
        match self {
            Expectation::Anything => Verdict::Accept,
            Expectation::Pinned(pin) if pin.matches(key) => Verdict::Accept,
            Expectation::Pinned(pin) => Verdict::Refuse(SshError::NotThePinnedKey {
                host: name.to_owned(),
                expected: pin.to_string(),
                found: fingerprint(key),
                algorithm: key.algorithm().to_string(),
            }),
            Expectation::Known(known) => judge_known(known, name, key),
        }
    }

    /// Key types to ask the machine for, best first: those of the keys that are known, so that
    /// a machine with several keys shows the one that can be checked.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut wanted: Vec<Algorithm> = match self {
            Expectation::Pinned(Pin::Key(key)) => vec![key.algorithm()],
            Expectation::Pinned(Pin::AnyOf(all)) => all.iter().map(PublicKey::algorithm).collect(),
            Expectation::Known(known) => {
                let recorded = known.trusted.iter().chain(&known.of_port_22);
                recorded.map(|r| r.key.algorithm()).collect()
            }
            Expectation::Pinned(Pin::Fingerprint(_)) | Expectation::Anything => Vec::new(),
        };
        wanted.sort_by_key(|a| default_algorithms().iter().position(|d| same_type(d, a)));
        let (mut first, rest): (Vec<_>, Vec<_>) =
            default_algorithms().into_iter().partition(|d| wanted.iter().any(|w| same_type(d, w)));
        first.extend(rest);
        first
    }

    /// Key types to ask for a certificate of: none where no authority is known.
    pub(super) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        match self {
            Expectation::Known(known) if !known.authorities.is_empty() => default_algorithms(),
            _ => Vec::new(),
        }
    }

    /// Whether a refused key may be one of several, so that asking for another type may help.
    pub(super) fn is_fingerprint(&self) -> bool {
        matches!(self, Expectation::Pinned(Pin::Fingerprint(_)))
    }
}

fn same_key<'r>(recorded: &'r [Recorded], key: &PublicKey) -> Option<&'r Recorded> {
    recorded.iter().find(|r| r.key.key_data() == key.key_data())
}

fn judge_known(known: &KnownKeys, name: &str, key: &PublicKey) -> Verdict {
    if let Some(revoked) = same_key(&known.revoked, key) {
        return Verdict::Refuse(SshError::RevokedHostKey {
            host: name.to_owned(),
            file: revoked.file.clone(),
            line: revoked.line,
        });
    }
    if same_key(&known.trusted, key).is_some() {
        return Verdict::Accept;
    }
    let Some(first) = known.trusted.first() else {
        return match same_key(&known.of_port_22, key) {
            Some(_) => Verdict::Accept,
            None => Verdict::Refuse(SshError::UnknownHostKey {
                host: name.to_owned(),
                key: Box::new(key.clone()),
            }),
        };
    };
    let of_type = known.trusted.iter().find(|r| r.key.algorithm() == key.algorithm());
    let recorded = of_type.unwrap_or(first);
    Verdict::Refuse(SshError::HostKeyChanged {
        host: name.to_owned(),
        file: recorded.file.clone(),
        line: recorded.line,
        expected: fingerprint(&recorded.key),
        found: fingerprint(key),
    })
}

/// By its authority, or else by the key alone, as OpenSSH does.
fn judge_certificate(known: &KnownKeys, name: &str, certificate: &Certificate) -> Verdict {
    let key = PublicKey::new(certificate.public_key().clone(), "");
    let authority = PublicKey::new(certificate.signature_key().clone(), "");
    for revocable in [&key, &authority] {
        if same_key(&known.revoked, revocable).is_some() {
            return judge_known(known, name, revocable);
        }
    }
    let why = match same_key(&known.authorities, &authority) {
        None => None,
        Some(_) => match host_certificate::check(certificate, name) {
            Ok(()) => return Verdict::Accept,
            Err(why) => Some(why),
        },
    };
    match (judge_known(known, name, &key), why) {
        (Verdict::Accept, _) => Verdict::Accept,
        (_, Some(why)) => Verdict::Refuse(SshError::HostCertificate {
            host: name.to_owned(),
            authority: fingerprint(&authority),
            why,
        }),
        (refused, None) => refused,
    }
}

/// Host key types in order of preference; SHA-1 signatures are left out.
pub(super) fn default_algorithms() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

/// Whether both are of one type, RSA's hash aside.
pub(super) fn same_type(a: &Algorithm, b: &Algorithm) -> bool {
    a == b || matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn pins_are_read_in_both_forms() {
        let key = PublicKey::from_openssh(KEY).unwrap();
        let by_print: Pin = fingerprint(&key).parse().unwrap();
        let by_key: Pin = KEY.parse().unwrap();
        assert!(by_print.matches(&key) && by_key.matches(&key));
        assert_eq!(by_print.to_string(), by_key.to_string());
        assert!(
            Pin::AnyOf(vec![key.clone()]).matches(&key) && !Pin::AnyOf(Vec::new()).matches(&key)
        );
        for bad in ["", "SHA256:short", "MD5:aa:bb", "ssh-ed25519 AAAA"] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_known_type_is_asked_for_first() {
        let key = PublicKey::from_openssh("ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=").unwrap();
        let expectation = Expectation::Pinned(Pin::Key(Box::new(key)));
        assert_eq!(expectation.algorithms()[0], Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 });
        assert_eq!(expectation.algorithms().len(), default_algorithms().len());
    }
}
