//! Going down for a reboot.
//!
//! No program is run for it: the init system is told by the signal it documents, and if nothing
//! comes of that within a bound, the kernel is.

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork, setsid, sync};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// How long the answer gets to leave the machine before the init system is told.
const GRACE: Duration = Duration::from_secs(2);
/// How long the init system may take before the kernel is told.
const BOUND: Duration = Duration::from_secs(90);

/// The machine could not be told to restart.
#[derive(Debug, Error)]
#[error("starting the process that restarts the machine")]
pub struct RestartError(#[source] nix::Error);

/// Leaves a detached process that restarts the machine in a moment, and returns.
pub fn restart_soon() -> Result<(), RestartError> {
    // SAFETY: the child calls only async-signal-safe functions and `sleep`, `sync`, `kill` and
    // `reboot`, none of which takes a lock that another thread may have held at the fork, apart
    // from a path check (`access`), which is safe too. It never returns.
    match unsafe { fork() }.map_err(RestartError)? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => restart_child(),
    }
}

fn restart_child() -> ! {
    let _ = setsid();
    // SAFETY: ignoring a signal installs no handler code.
    let _ = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    std::thread::sleep(GRACE);
    sync();
    ask_init();
    std::thread::sleep(BOUND);
    sync();
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // Only reached without the right to reboot; the controller's own bound will tell.
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(1) }
}

/// systemd(1): SIGRTMIN+5 starts reboot.target. Others take SIGINT for Ctrl-Alt-Del.
fn ask_init() {
    let signal =
        if Path::new("/run/systemd/system").exists() { libc::SIGRTMIN() + 5 } else { libc::SIGINT };
    // SAFETY: kill(2) has no memory effects.
    unsafe { libc::kill(Pid::from_raw(1).as_raw(), signal) };
}
