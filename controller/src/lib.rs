//! The operator's side of Keystone's installer.
//!
//! | module | job |
//! |---|---|
//! | [`additions`] | what the operator adds to it: files, owners, keys |
//! | [`flake`] | a system and its layout from a flake, by the operator's own Nix |
//! | [`closure`] | the system to install: from the local store, a binary cache or a bundle |
//! | [`bundle`](mod@bundle) | a closure in one file |
//! | [`nar`] | store paths as streams of blocks |
//! | [`ssh`] | connections to machines |
//! | [`upload`] | brings the agent to the machine |
//! | [`conversation`] | the conversation with the agent |
//! | [`install`] | an installation, from the connection to the new system's answer |
//! | [`kexec`](mod@kexec) | from a running Linux into an installer |
//! | [`disks`] | the disks alone: disko's modes, a look into an installed system |
//! | [`copy`] | a closure into a store below a directory, without an installation |
//! | [`reboot`] | waits for the new system and proves that it is the one |
//! | [`verify`] | checks a machine that was installed |
//! | [`report`] | the controller's copy of the report |
//! | [`operator`] | who is asked and told: the seam for front ends |
//! | [`stop`] | asking to stop |
//! | [`confirm`] | what will be done, as text, and what counts as agreement |
//! | [`secrets`] | passwords, PINs and recovery keys |
//! | [`support`] | a support bundle, without secrets |
//! | [`ui`] | the command line's operator |
//! | [`cli`] | the command line |

pub mod additions;
pub mod bundle;
pub mod cli;
pub mod closure;
pub mod confirm;
pub mod conversation;
pub mod copy;
pub mod disks;
pub mod flake;
pub mod install;
pub mod kexec;
pub mod nar;
pub mod operator;
pub mod reboot;
pub mod report;
pub mod secrets;
pub mod ssh;
pub mod stop;
pub mod support;
pub mod ui;
pub mod upload;
pub mod verify;

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors say the same as what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The directory that a file is or will be in.
pub(crate) fn parent(path: &std::path::Path) -> &std::path::Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(std::path::Path::new("."))
}
