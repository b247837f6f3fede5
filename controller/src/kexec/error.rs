//! What can go wrong on the way into the installer.

use super::tarball::TarballError;
use crate::ssh::SshError;
use std::time::Duration;
use thiserror::Error;

/// The installer was not booted.
#[derive(Debug, Error)]
pub enum KexecError {
    /// There is something to do, and nothing to do it with.
    #[error(
        "the machine runs {system}, not an installer: give an image to boot with --kexec FILE|URL \
         (nixos-images publishes them: https://github.com/nix-community/nixos-images/releases/download/\
         nixos-25.11/nixos-kexec-installer-noninteractive-x86_64-linux.tar.gz), or boot the machine \
         from an installer's medium"
    )]
    NoImage {
        /// What runs.
        system: String,
    },
    /// The machine can't do it.
    #[error("{0}")]
    Unfit(String),
    /// Nobody would be let in.
    #[error(
        "the installer would let nobody in: it takes over the authorized_keys of root and {user} \
         (and /etc/ssh/authorized_keys.d), and {why}. Put the public key that keystone logs in with \
         into ~/.ssh/authorized_keys there; one with a passphrase into an ssh-agent here"
    )]
    NoKey {
        /// Who logs in.
        user: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The image can't be used.
    #[error(transparent)]
    Tarball(#[from] TarballError),
    /// No directory will do.
    #[error("no directory of the machine has room for the image, which needs {needed}: {tried}")]
    NoPlace {
        /// How much, to be shown.
        needed: String,
        /// The directories, each with what is wrong with it.
        tried: String,
    },
    /// The connection or a command failed.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// It did not get there.
    #[error("the image was not sent: {0}; the machine goes on as it was")]
    NotSent(String),
    /// Something else got there.
    #[error("the image on the machine is not the one that was sent ({0}); it was removed, and the machine goes on as it was")]
    Altered(String),
    /// The image's program failed.
    #[error("the image's kexec/run failed: {why}; the machine still runs {system}, and what was put there is removed")]
    Run {
        /// A phrase.
        why: String,
        /// What runs.
        system: String,
        /// Its last lines.
        said: Vec<String>,
    },
    /// It said that the machine would boot, and it did not.
    #[error(
        "the machine still runs {system}: the image's kexec/run said that it will boot, and then its \
         kernel did not jump. The machine's own log may say why (dmesg)"
    )]
    Stayed {
        /// What runs.
        system: String,
        /// Its last lines.
        said: Vec<String>,
    },
    /// Somebody else answers.
    #[error(
        "at {at} a machine with another host key answers: expected {expected}, which kexec keeps, and \
         found {found}. Somebody may be in between, or the image keeps no host keys: compare the \
         fingerprint with the machine's console, and if it is the machine, go on with \
         --phases disko,install,reboot and --host-key {found}"
    )]
    OtherKey {
        /// Where.
        at: String,
        /// Fingerprint of before.
        expected: String,
        /// Fingerprint that was found.
        found: String,
    },
    /// The installer lets nobody in.
    #[error("the machine answers at {at} after the kexec, but lets nobody in: {why}; look at its console")]
    NotLetIn {
        /// Where.
        at: String,
        /// Why.
        why: String,
    },
    /// Another system was booted.
    #[error(
        "the machine was booted anew, but at {at} {system} runs, which is no installer \
         (VARIANT_ID=installer in its os-release): was it the right image?"
    )]
    NotAnInstaller {
        /// Where.
        at: String,
        /// What runs.
        system: String,
    },
    /// Not in time.
    #[error(
        "the installer did not answer at {at} within {} s; seen last: {seen}. Look at the machine's \
         console: it may have another address (--post-kexec-ssh-host) or port \
         (--post-kexec-ssh-port), or too little memory for the image. Restarted, it boots its old \
         system: its disks were not written", bound.as_secs()
    )]
    NotInTime {
        /// Where it was waited for.
        at: String,
        /// How long.
        bound: Duration,
        /// What was seen last.
        seen: String,
    },
    /// The operator does not wait any longer.
    #[error("not waiting for the installer at {at} any longer; the machine is booting it")]
    NotWaiting {
        /// Where.
        at: String,
    },
}

impl KexecError {
    /// The last lines of the image's program.
    pub fn said(&self) -> &[String] {
        match self {
            KexecError::Run { said, .. } | KexecError::Stayed { said, .. } => said,
            _ => &[],
        }
    }
}
