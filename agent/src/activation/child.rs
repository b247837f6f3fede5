//! The keeper and init: see the module's picture.

use super::chroot;
use super::report::{Ended, Phase, Report, SECRET};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};

/// The argument that makes the agent's executable the keeper.
pub const SUBCOMMAND: &str = "enter";

/// The keeper's whole life. `args` are what follows [`SUBCOMMAND`]: the target's root and the
/// system's path. Must be called before anything starts a thread or opens a file.
pub fn child_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let mut args = args.into_iter().map(PathBuf::from);
    let (Some(root), Some(toplevel), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("`{SUBCOMMAND}` is for the agent's own use");
        exit(2);
    };
    let mut secret = [0; SECRET];
    let voice = match io::stdin().read_exact(&mut secret) {
        Ok(()) => Voice(String::from_utf8_lossy(&secret).into_owned()),
        Err(_) => exit(2),
    };
    let status = match keep(&root, &toplevel, &voice) {
        Ok(()) => 0,
        Err(what) => {
            voice.say(Report::Failed(what));
            1
        }
    };
    exit(status)
}

/// Reports to the agent.
struct Voice(String);

impl Voice {
    fn say(&self, report: Report) {
        // Nobody is left to tell if that fails. Not through `stdout()`, which would cut lines.
        let _ = nix::unistd::write(io::stdout(), &report.encode(&self.0));
    }
}

fn sentence(what: &str) -> impl Fn(Errno) -> String {
    move |errno| format!("could not {what}: {errno}")
}

/// Starts init and waits for its end; kills it when the leash is cut.
fn keep(root: &Path, toplevel: &Path, voice: &Voice) -> Result<(), String> {
    // What libraries of the agent opened without O_CLOEXEC.
    // SAFETY: nothing in this process, which begins here, has opened a descriptor but 0 to 2.
    if unsafe { nix::libc::close_range(3, u32::MAX, 0) } != 0 {
        return Err(sentence("close inherited files")(Errno::last()));
    }
    umask(Mode::from_bits_truncate(0o022));
    setsid().map_err(sentence("start a session"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS)
        .map_err(sentence("make namespaces"))?;
    chroot::make_private().map_err(|error| format!("{error}: {}", error.source))?;
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    child.thread_block().map_err(sentence("block a signal"))?;
    let ended = SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(sentence("watch for a signal"))?;
    // SAFETY: this process has one thread, so the child may do anything.
    let init = match unsafe { fork() }.map_err(sentence("fork"))? {
        ForkResult::Child => {
            drop(ended);
            let _ = child.thread_unblock();
            init(root, toplevel, voice)
        }
        ForkResult::Parent { child } => child,
    };
    voice.say(Report::Init(init.as_raw()));
    wait(init, &ended)
}

fn wait(init: Pid, ended: &SignalFd) -> Result<(), String> {
    let stdin = io::stdin();
    let mut leashed = true;
    loop {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if leashed {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        // Bounded by the agent, which cuts the leash.
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(sentence("wait for init")(errno)),
        }
        let cut = fds.get(1).and_then(PollFd::any).unwrap_or(false);
        while let Ok(Some(_)) = ended.read_signal() {}
        match waitpid(init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(sentence("wait for init")(errno)),
        }
        if cut {
            leashed = false;
            kill(init, Signal::SIGKILL).map_err(sentence("kill init"))?;
        }
    }
}

/// Init's whole life.
fn init(root: &Path, toplevel: &Path, voice: &Voice) -> ! {
    let status = match prepare(root, voice) {
        Ok(()) => {
            for phase in Phase::ALL {
                voice.say(Report::Begun(phase));
                voice.say(Report::Ended(phase, run(phase, root, toplevel)));
            }
            0
        }
        Err(what) => {
            voice.say(Report::Failed(what));
            1
        }
    };
    exit(status)
}

fn prepare(root: &Path, voice: &Voice) -> Result<(), String> {
    // When the keeper is killed, so is this; and with it all in its namespace.
    set_pdeathsig(Signal::SIGKILL).map_err(sentence("tie init to its parent"))?;
    let warning = chroot::mounts(root)
        .and_then(|warning| chroot::enter(root).map(|()| warning))
        .map_err(|error| format!("{error}: {}", error.source))?;
    if let Some(warning) = warning {
        voice.say(Report::Warning(warning));
    }
    Ok(())
}

fn run(phase: Phase, root: &Path, toplevel: &Path) -> Ended {
    // `mount --rbind / /mnt` is done for `switch-to-configuration` alone: nixos-install does it.
    let alias = match phase {
        Phase::Bootloader => match chroot::Alias::make(root) {
            Ok(alias) => Some(alias),
            Err(error) => return Ended::NotStarted(format!("{error}: {}", error.source)),
        },
        Phase::Activate | Phase::Tmpfiles => None,
    };
    let mut command = command(phase, toplevel);
    // Both streams in one pipe, so that lines keep their order.
    let started = io::stdout().as_fd().try_clone_to_owned().and_then(|out| {
        let err = out.try_clone()?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()
    });
    let ended = match started {
        Ok(child) => reap_until(Pid::from_raw(child.id() as i32)),
        Err(error) => Ended::NotStarted(format!("{}: {error}", command.get_program().display())),
    };
    drop(alias);
    ended
}

fn command(phase: Phase, toplevel: &Path) -> Command {
    let mut command = match phase {
        Phase::Activate => {
            let mut command = Command::new(toplevel.join("activate"));
            command
                .env("LOCALE_ARCHIVE", toplevel.join("sw/lib/locale/locale-archive"))
                .env("IN_NIXOS_ENTER", "1");
            command
        }
        Phase::Tmpfiles => {
            let mut command = Command::new(toplevel.join("sw/bin/systemd-tmpfiles"));
            command.args(["--create", "--remove", "-E"]);
            command
        }
        Phase::Bootloader => {
            let mut command = Command::new(toplevel.join("bin/switch-to-configuration"));
            command.arg("boot").env("NIXOS_INSTALL_BOOTLOADER", "1");
            command
        }
    };
    let set: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let sw = toplevel.join("sw");
    let path = format!(
        "/run/current-system/sw/bin:/run/current-system/sw/sbin:{sw}/bin:{sw}/sbin",
        sw = sw.display()
    );
    command.env_clear().env("PATH", path).env("HOME", "/root").envs(set);
    command
}

/// Buries every process that ends, until `child` is among them.
fn reap_until(child: Pid) -> Ended {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ended::Status(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ended::Signal(signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Ended::NotStarted(format!("lost from sight: {errno}")),
        }
    }
}
