//! The keys that the image takes along: who is let in afterwards, and by what the machine is known.

use super::look::Machine;
use super::{BOUND, KexecError, KexecRequest, command, wait};
use crate::install::InstallError;
use crate::ssh::host_key::fingerprint;
use crate::ssh::{ConnectOptions, Method, Pin, PublicKey, Session};

/// What is the same afterwards.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Keys that root will be let in by.
    logins: Vec<PublicKey>,
    /// The machine's own.
    hosts: Vec<PublicKey>,
}

/// Makes sure that the installer will let us in, by a key, without any question, that is among those
/// that the image takes along; and that the machine will be known by a host key.
///
/// # Errors
/// [`KexecError::NoKey`], [`KexecError::HostKeyLost`], or the connection broke.
pub async fn kept(
    request: &KexecRequest,
    session: &Session,
    machine: &Machine,
) -> Result<Kept, InstallError> {
    let said = session.script("looking for its host keys", command::HOST_KEYS, BOUND).await?;
    let hosts = keys_in(&String::from_utf8_lossy(&said));
    if !hosts.iter().any(|key| key.key_data() == session.host_key().key_data()) {
        return Err(KexecError::HostKeyLost { seen: fingerprint(session.host_key()) }.into());
    }
    let user = &session.destination().user;
    let refused = |why| InstallError::from(KexecError::NoKey { user: user.clone(), why });
    let script = command::authorized_keys(user, &machine.home);
    let said = session.script("looking for authorized keys", &script, BOUND).await?;
    let kept = Kept { logins: keys_in(&String::from_utf8_lossy(&said)), hosts };
    if kept.logins.is_empty() {
        return Err(refused("there is none"));
    }
    // The keys as they will be afterwards: none that was unlocked for this connection alone.
    let mut options = request.connect.without_prompt();
    options.host_key.pinned = Some(Pin::Key(Box::new(session.host_key().clone())));
    options.identities = request.then_connect.identities.clone();
    let options = kept.by_key_alone(&options);
    match Session::connect(&request.destination, &options).await {
        Ok(other) => {
            other.disconnect().await;
            Ok(kept)
        }
        Err(error) if wait::is_about_login(&error, &request.destination) => {
            Err(refused("none of those opens it that keystone has and may use without asking"))
        }
        Err(error) => Err(error.into()),
    }
}

impl Kept {
    /// How the installer is reached: it is known by any of the host keys, and lets in by a key that
    /// was taken along.
    pub fn afterwards(&self, options: &ConnectOptions) -> ConnectOptions {
        let mut options = self.by_key_alone(options);
        options.host_key.pinned = Some(Pin::AnyOf(self.hosts.clone()));
        options
    }

    /// Nobody is asked, and nothing is tried but keys that the image takes along.
    fn by_key_alone(&self, options: &ConnectOptions) -> ConnectOptions {
        let mut options = options.without_prompt();
        options.identities = options.identities.plain_among(self.logins.clone());
        options.login.methods = vec![Method::PublicKey];
        options
    }
}

/// The keys of lines as `authorized_keys` and `*.pub` have them. The image takes of a line what
/// begins with a key's type, and so does this. Source: nixos-images, `nix/kexec-installer/kexec-run.sh`.
fn keys_in(text: &str) -> Vec<PublicKey> {
    text.lines().filter_map(key_in).collect()
}

fn key_in(line: &str) -> Option<PublicKey> {
    let starts = ["ssh-", "ecdsa-", "sk-"];
    let at = starts.iter().filter_map(|start| line.find(start)).min()?;
    let mut words = line[at..].split_whitespace();
    let (kind, blob) = (words.next()?, words.next()?);
    PublicKey::from_openssh(&format!("{kind} {blob}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_line_is_read_as_the_image_does() {
        let key = PublicKey::from_openssh(KEY).unwrap();
        for line in
            [KEY.to_owned(), format!("{KEY} me and you"), format!("from=\"::1\",no-pty  {KEY}")]
        {
            assert_eq!(
                key_in(&line).map(|found| found.key_data().clone()),
                Some(key.key_data().clone()),
                "{line}"
            );
        }
        for line in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "words"] {
            assert!(key_in(line).is_none(), "{line}");
        }
        assert_eq!(keys_in(&format!("nothing\n{KEY}\n{KEY} b\n")).len(), 2);
    }
}
