//! What can go wrong on the way into the installer.

use super::old::Left;
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
    /// Nobody could tell the machine from another one.
    #[error(
        "the installer could not be told from another machine: it takes over the host keys that are \
         /etc/ssh/ssh_host_*_key there, and the one that the machine proved to have ({seen}) is not \
         among them. Copy that one there, with its .pub file, or boot the machine from an installer's \
         medium"
    )]
    HostKeyLost {
        /// Fingerprint of the key that was seen.
        seen: String,
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
    #[error("the image was not sent: {why}; {left}")]
    NotSent {
        /// A phrase.
        why: String,
        /// What is left there.
        left: Left,
    },
    /// Something else got there.
    #[error("the image on the machine is not the one that was sent ({which}); {left}")]
    Altered {
        /// Which files.
        which: String,
        /// What is left there.
        left: Left,
    },
    /// The image's program failed.
    #[error("the image's kexec/run failed: {why}; {left}")]
    Run {
        /// A phrase.
        why: String,
        /// What is left there.
        left: Left,
        /// Its last lines.
        said: Vec<String>,
    },
    /// The machine was to boot, and did not.
    #[error("{why}, and the machine did not boot it within {} s: {left}. The machine's own log may say \
             why (dmesg)", after.as_secs())]
    Stayed {
        /// What should have made it boot, a clause.
        why: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// What is left there.
        left: Left,
        /// Its last lines.
        said: Vec<String>,
    },
    /// Somebody else answers.
    #[error(
        "at {at} a machine with another host key answers: expected {expected}, which the image takes along, and \
         found {found}. Somebody may be in between, or the image keeps no host keys: compare the \
         fingerprint with the machine's console, and if it is the machine, go on with \
         --phases disko,install,reboot and --host-key {found}"
    )]
    OtherKey {
        /// Where.
        at: String,
        /// Fingerprints of before.
        expected: String,
        /// Fingerprint that was found.
        found: String,
    },
    /// The installer lets nobody in.
    #[error(
        "the machine answers at {at} after the kexec, but lets nobody in: {why}; look at its console"
    )]
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
         (--post-kexec-ssh-port), or too little memory for the image. Restarted by its power switch, \
         it boots its old system. {left}", bound.as_secs()
    )]
    NotInTime {
        /// Where it was waited for.
        at: String,
        /// How long.
        bound: Duration,
        /// What was seen last.
        seen: String,
        /// What is known of the old system.
        left: Left,
    },
    /// The operator does not wait any longer.
    #[error("not waiting for the installer at {at} any longer; {left}")]
    NotWaiting {
        /// Where.
        at: String,
        /// What is known of the old system.
        left: Left,
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
