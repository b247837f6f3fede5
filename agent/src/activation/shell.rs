//! A shell in an installed system, for repair: what nixos-enter makes, in namespaces of its own.
//!
//! It is the agent's own program that is started so, over an SSH channel with a terminal as a
//! rule. When the shell ends, everything that was started in it is killed with its PID namespace,
//! and its mounts are gone, so that the target can be closed.

use super::chroot;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, exit};

/// The argument that makes the agent's executable a shell in the target.
pub const SUBCOMMAND: &str = "shell";

/// The system below the target's root.
const SYSTEM: &str = "/nix/var/nix/profiles/system";

/// What a shell's status is if it could not be started (as in POSIX sh).
const NOT_STARTED: i32 = 127;

/// Enters the system below `root` and runs a command, words in hexadecimal, or a login shell.
pub fn shell_main(root: &Path, args: impl IntoIterator<Item = OsString>) -> ! {
    let words: Option<Vec<String>> = args
        .into_iter()
        .map(|word| String::from_utf8(hex::decode(word.to_str()?).ok()?).ok())
        .collect();
    let Some(words) = words else {
        eprintln!("`{SUBCOMMAND}` is for keystone's own use");
        exit(2);
    };
    match enter(root, &words) {
        Ok(status) => exit(status),
        Err(what) => {
            eprintln!("keystone: {what}");
            exit(NOT_STARTED)
        }
    }
}

fn enter(root: &Path, words: &[String]) -> Result<i32, String> {
    let sentence =
        |what: &'static str| move |errno: nix::Error| format!("could not {what}: {errno}");
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .map_err(sentence("make namespaces"))?;
    chroot::make_private().map_err(|error| format!("{error}: {}", error.source))?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(sentence("fork"))? {
        ForkResult::Child => {
            let problem = become_shell(root, words);
            eprintln!("keystone: {problem}");
            exit(NOT_STARTED)
        }
        ForkResult::Parent { child } => {
            // What the terminal sends is the shell's.
            for ignored in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
                // SAFETY: ignoring a signal installs no handler code.
                let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
            }
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, status)) => return Ok(status),
                    Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(errno) => return Err(sentence("wait for the shell")(errno)),
                }
            }
        }
    }
}

/// Why it did not: otherwise this never returns.
fn become_shell(root: &Path, words: &[String]) -> String {
    if let Err(errno) = set_pdeathsig(Signal::SIGKILL) {
        return format!("could not tie the shell to the connection: {errno}");
    }
    let entered = chroot::mounts(root).and_then(|_| chroot::enter(root));
    if let Err(error) = entered {
        return format!("{error}: {}", error.source);
    }
    let system = Path::new(SYSTEM);
    let mut command = match words {
        [] if system.join("sw/bin/bash").exists() => {
            activate(system);
            let mut shell = Command::new(system.join("sw/bin/bash"));
            shell.arg("--login");
            shell
        }
        [] => Command::new("/bin/sh"),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    let term = std::env::var_os("TERM").unwrap_or_else(|| "dumb".into());
    let path = format!("{SYSTEM}/sw/bin:{SYSTEM}/sw/sbin:/usr/bin:/bin");
    command.env_clear().env("PATH", &path).env("HOME", "/root").env("TERM", term);
    // Looked for in the target's PATH, which this process has to have for that.
    // SAFETY: one thread.
    unsafe { std::env::set_var("PATH", path) };
    let error = command.exec();
    format!("could not start {}: {error}", command.get_program().display())
}

/// As nixos-enter: `/etc` and `/run` of the system, whose failure is not the end.
fn activate(system: &Path) {
    let run = Command::new(system.join("activate"))
        .env_clear()
        .env("PATH", format!("{SYSTEM}/sw/bin"))
        .env("IN_NIXOS_ENTER", "1")
        .status();
    match run {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("keystone: the system's activation ended with {status}"),
        Err(error) => eprintln!("keystone: the system could not be activated: {error}"),
    }
}
