//! Private keys in OpenSSH's format, of any kind, without a look at the private part.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keystone_protocol::secret::Secret;
use thiserror::Error;
use zeroize::Zeroizing;

/// Not a key that sshd could use as it is.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotAKey(&'static str);

/// A private key.
#[derive(Debug, Clone)]
pub struct OpensshKey {
    /// Its file's contents.
    pub pem: Secret,
    /// Its kind as in a public key: `ssh-ed25519`, `ssh-rsa`, `ecdsa-sha2-nistp256`.
    pub kind: String,
    /// The public half, `KIND AAAA…`, without a comment.
    pub public: String,
}

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

impl OpensshKey {
    /// Reads a file's contents. Format: PROTOCOL.key of OpenSSH.
    ///
    /// # Errors
    /// It is something else, or encrypted.
    pub fn parse(pem: Secret) -> Result<Self, NotAKey> {
        let other = NotAKey("it does not begin with BEGIN OPENSSH PRIVATE KEY");
        let broken = || NotAKey("it is damaged");
        let text = std::str::from_utf8(pem.expose()).map_err(|_| broken())?;
        let (_, body) = text.split_once(BEGIN).ok_or(other)?;
        let (body, _) = body.split_once(END).ok_or_else(broken)?;
        let body: Zeroizing<String> =
            Zeroizing::new(body.chars().filter(|c| !c.is_whitespace()).collect());
        let bytes = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| broken())?);
        let mut rest = bytes.strip_prefix(b"openssh-key-v1\0").ok_or_else(broken)?;
        let cipher = string(&mut rest).ok_or_else(broken)?;
        if cipher != b"none" {
            return Err(NotAKey("it is encrypted, and nobody could type its passphrase at boot"));
        }
        // The key derivation, its options, and how many keys there are.
        for _ in 0..2 {
            string(&mut rest).ok_or_else(broken)?;
        }
        if word(&mut rest) != Some(1) {
            return Err(NotAKey("it holds more than one key"));
        }
        let public = string(&mut rest).ok_or_else(broken)?;
        let kind = string(&mut &*public).and_then(|kind| std::str::from_utf8(kind).ok());
        let kind = kind.ok_or_else(broken)?.to_owned();
        let public = format!("{kind} {}", STANDARD.encode(public));
        Ok(OpensshKey { pem, kind, public })
    }

    /// The name that sshd has for its file: `ssh_host_ed25519_key`. Source: sshd_config(5).
    pub fn file_name(&self) -> String {
        let kind = match self.kind.as_str() {
            "ssh-ed25519" => "ed25519",
            "ssh-rsa" => "rsa",
            kind if kind.starts_with("ecdsa-sha2-") => "ecdsa",
            kind => kind,
        };
        format!("ssh_host_{kind}_key")
    }
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*word))
}

/// RFC 4251, section 5: a length, then so many bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = word(rest)? as usize;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_named() {
        let said = |text: &str| {
            OpensshKey::parse(Secret::new(text.as_bytes().to_vec())).unwrap_err().to_string()
        };
        assert!(said("rubbish").contains("does not begin"));
        assert!(said(&format!("{BEGIN}\nAAAA\n{END}\n")).contains("damaged"));
        let mut key = b"openssh-key-v1\0".to_vec();
        for text in ["aes256-ctr", "bcrypt", ""] {
            key.extend((text.len() as u32).to_be_bytes());
            key.extend(text.as_bytes());
        }
        let encrypted = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(&key));
        assert!(said(&encrypted).contains("encrypted"));
    }
}
