//! Whether a host's certificate is good for the host.
//!
//! Format and rules: OpenSSH's PROTOCOL.certkeys, and sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use super::pattern;
use russh::keys::{Algorithm, Certificate, HashAlg};

/// Checks everything but whether the authority is trusted: signature, kind, time, name, options.
///
/// # Errors
/// A phrase that says what is wrong with it.
pub(super) fn check(certificate: &Certificate, name: &str) -> Result<(), String> {
    if !certificate.cert_type().is_host() {
        return Err("it is a user's certificate, not a host's".into());
    }
    if matches!(certificate.signature().algorithm(), Algorithm::Rsa { hash: None }) {
        return Err("it is signed with SHA-1".into());
    }
    // The authority is looked up by its key in the `known_hosts` files.
    let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
    if certificate.validate([&authority]).is_err() {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        return Err(match now {
            now if now < certificate.valid_after() => "it is not valid yet: check the clocks",
            now if now >= certificate.valid_before() => "it has expired",
            _ => "its signature is wrong",
        }
        .into());
    }
    if let Some((option, _)) = certificate.critical_options().iter().next() {
        return Err(format!("it has the option {option}, which means nothing for a host"));
    }
    // Without brackets and port.
    let host = name.strip_prefix('[').and_then(|name| name.split_once("]:"));
    let host = host.map_or(name, |(host, _)| host);
    let principals = certificate.valid_principals();
    // A `!` has no meaning here: each is a pattern of its own.
    if !principals.iter().any(|p| pattern::glob(p.to_lowercase().as_bytes(), host.as_bytes())) {
        return Err(match principals {
            [] => "it names no host".into(),
            names => format!("it is for {}", names.join(", ")),
        });
    }
    Ok(())
}
